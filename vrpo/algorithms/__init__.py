"""One file per algorithm. `ppo.py` is the whole of actor-critic learning; `vrpo.py` and `asyppo.py` are differences from it.

`grpo.py` has no critic; `dr_grpo.py`, `rloo.py` and `reinforce_pp.py` are differences from it.
"""
