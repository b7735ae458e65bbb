"""One thread a process: two workers whose threads spin for the same two cores make the tests eight times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
