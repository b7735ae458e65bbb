"""Tasks: what a model is asked, how its answer is read and how it is checked. `base.py` holds the interface, `loader.py` the choice."""
