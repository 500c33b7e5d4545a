"""Sweeps: runs x interventions x values x tasks x seeds, on one machine or on many with Ray (arXiv 2605.11739).

All figures about interventions, of three methods with three seeds each on the embedded world:

    from effopd.sweeps import read_spec, sweep

    result = sweep(read_spec("world").quick(), "runs/sweep", workers=2)
    result.failed                       # [] or a line for each evaluation that failed
    result.written                      # figures/update_norm.svg, ..., sweep.md

One question of one's own:

    from effopd.sweeps import make_spec

    spec = make_spec({
        "base": "Qwen/Qwen2.5-1.5B",
        "runs": {"OPD": {"seeds": ["runs/opd-0", "runs/opd-1", "runs/opd-2"]}, "RL": "runs/grpo"},
        "tasks": ["math500"],
        "sweeps": [{"preset": "top_bottom", "values": [1, 10, 100]}],
    })
    sweep(spec, "runs/top", gpus_per_worker=1)

First comes the plan: every cell, one evaluation each, checked against the models. Workers take cells, preferably of the
checkpoint that they hold; each result is on disk at once, so that an interruption or a dead node costs the cells that
were under way. The figures are made from the records alone, by `effopd.report.sweep`.
"""

from effopd.sweeps.cells import Cell, plan_cells
from effopd.sweeps.presets import PRESETS
from effopd.sweeps.run import SweepResult, sweep
from effopd.sweeps.spec import SweepSpec, make_spec, read_spec, shipped_specs

__all__ = [
    "Cell",
    "PRESETS",
    "SweepResult",
    "SweepSpec",
    "make_spec",
    "plan_cells",
    "read_spec",
    "shipped_specs",
    "sweep",
]
