"""The stages of dvc.yaml, a module each, and what they share."""
