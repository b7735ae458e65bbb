"""Other libraries' surfaces on this one: `trl.py`, for who knows TRL. Thin: the loop is `vrpo.training.trainer`'s."""
