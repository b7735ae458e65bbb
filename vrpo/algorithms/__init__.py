"""One file per algorithm. `ppo.py` is the whole of actor-critic learning; `vrpo.py` is its difference.

`grpo.py` has no critic; `dr_grpo.py`, `rloo.py` and `reinforce_pp.py` are differences from it.
"""
