"""Sweeps: runs x interventions x values x tasks x seeds, on one machine or on many with Ray (arXiv 2605.11739).

All figures about interventions, of three methods with three seeds each on the embedded world:

    from effopd.sweeps import read_spec, sweep

    result = sweep(read_spec("world").quick(), "runs/sweep", workers=2)
    result.failed                       # [] or a line for each evaluation that failed
    result.written                      # figures/update_norm.svg, ..., sweep.md

A question of your own:

    from effopd.sweeps import make_spec

    spec = make_spec({
        "base": "Qwen/Qwen2.5-1.5B",
        "runs": {"OPD": {"seeds": ["runs/opd-0", "runs/opd-1", "runs/opd-2"]}, "RL": "runs/grpo"},
        "tasks": ["math500"],
        "sweeps": [{"preset": "top_bottom", "values": [1, 10, 100]}],
    })
    sweep(spec, "runs/top", gpus_per_worker=1)

First comes the plan: it lists every cell, which is one evaluation, and checks the cells against the models. Workers
then take cells, preferably those of the checkpoint that they hold. Every result is written to disk at once, so that an
interruption or a dead node costs only the cells that were under way. The figures are made from these results alone, by
`effopd.report.sweep`.
"""

from effopd.sweeps.cells import Cell, plan_cells, run_places
from effopd.sweeps.execute import check_workers, connected, import_ray, num_workers
from effopd.sweeps.presets import PRESETS
from effopd.sweeps.run import SweepResult, prepare, sweep
from effopd.sweeps.spec import SweepSpec, make_spec, read_spec, shipped_specs

__all__ = [
    "Cell",
    "PRESETS",
    "SweepResult",
    "SweepSpec",
    "connected",
    "import_ray",
    "make_spec",
    "check_workers",
    "num_workers",
    "plan_cells",
    "prepare",
    "read_spec",
    "run_places",
    "shipped_specs",
    "sweep",
]
