"""One file per algorithm. `ppo.py` is the whole of actor-critic learning; `vrpo.py` is its difference; `grpo.py` has no critic."""
