"""Tasks: what a model is asked, how its answer is read and how it is checked. `base.py` holds the interfaces, each folder is a domain, found
by `loader.py`; `rows.py` reads rows of data sets."""
