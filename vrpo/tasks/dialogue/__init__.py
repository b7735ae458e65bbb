"""Task-oriented dialogue: services of five domains, a simulated user, and metrics that also score real dialogues.

`services.py` the world; `simulator.py` the user and the service behind it; `assistant.py` a scripted assistant that slips (the corpus);
`metrics.py` TCR, ACR, GCR, re-ask rate, pass^k; `canonical.py` values compared, not their spellings; `sgd.py` Schema-Guided
Dialogue data, `damage.py` damaged replays of it; `task.py` the interface to the pipeline.
"""
