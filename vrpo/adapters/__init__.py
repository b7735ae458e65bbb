"""Other libraries' surfaces on this one: `trl.py`, for who knows TRL, and `verifiers.py`, for environments of its hub. Thin: the loop is `vrpo.training.trainer`'s."""
