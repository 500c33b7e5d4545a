"""Experiments on the embedded world: the demo, runs to be analysed, and what reaching a target accuracy cost.

- `demo` is `effopd demo`: vanilla OPD against EffOPD.
- `world_runs` is `effopd world runs`: runs of OPD, EffOPD and GRPO with their checkpoints.
- `arguments` makes the settings of one such training run.
- `cost_to_target` and `censored_statistics` compare what runs cost. They do not import torch.
"""
