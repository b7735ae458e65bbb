"""The training loop, its steps, processes and checkpoints."""
