"""Speed and memory against the field's trainers: `make bench`, or `python -m tests.benchmarks --help`."""
