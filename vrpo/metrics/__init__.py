"""What runs say about themselves; nothing here feeds back into training."""
