"""One file per algorithm. `ppo.py` is the whole of actor-critic learning; `vrpo.py`, `regulated.py`, `asyppo.py` and `pf_ppo.py` are differences from it.

`grpo.py` has no critic; `dr_grpo.py`, `rloo.py` and `reinforce_pp.py` are differences from it.
"""
