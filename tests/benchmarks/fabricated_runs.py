"""Records as `benchmarks/grid_run.py` makes them, with made-up outcomes."""

from pathlib import Path

from grid_plan import Plan

ROOT = Path(__file__).parents[2]
VERSIONS = {"python": "3.12", "torch": "2"}
QUANTITIES = ("steps", "rollouts", "generated_tokens", "teacher_tokens", "seconds", "cpu_seconds")


def record(run, rollouts, *, spent=None, diverged=False, fell=False, final=0.97, lost=0.01, kl=0.002, seconds=None):
    """A run that reached the target after so many rollouts, or, with None, did not within what it spent."""
    spent = spent or (rollouts + 1024 if rollouts else run.limit)

    def costs(number):
        return {
            "steps_to_target": number and -(-number // run.prompts_per_step),
            "rollouts_to_target": number,
            "generated_tokens_to_target": number and 10 * number,
            "teacher_tokens_to_target": number and 10 * number,
            "seconds_to_target": number and 0.005 * number,
            "cpu_seconds_to_target": number and (seconds or 0.004 * number),
        }

    return {
        "run": run.recorded(),
        "diverged": diverged,
        **costs(rollouts),
        "spent": costs(spent),
        "validation_rollouts": 0,
        "num_accepted": 3,
        "final_accuracy": 0.96,
        "base_second_skill": {"accuracy": 0.9, "num_examples": 500, "kl_to_base": 0.0},
        "at_target": {
            "accuracy": run.target_accuracy,
            "cpu_seconds": 0.004 * rollouts,
            "second_skill": {"accuracy": 0.9 - lost, "num_examples": 500, "kl_to_base": kl},
        }
        if rollouts
        else None,
        "after_target": {"rollouts": 1024, "lowest_accuracy": 0.8 if fell else 0.96, "fell": fell}
        if rollouts
        else None,
        "final": None
        if diverged
        else {"problems": 2048, "accuracy": final, "reverse_kl": 0.05, "reverse_kl_per_token": 0.005},
        "evaluations": [],
        "extrapolations": [[1, 2.0], [2, 0.0]],
        "seconds": {"generation": 30.0, "teacher": 10.0, "update": 55.0, "validation": 5.0},
        "versions": VERSIONS,
    }


def fabricate(plan, outcome, worlds=("style",), stages=None):
    """Records of all runs of the plan; `outcome(run)` returns the arguments of `record`, or None for no record."""
    records = {}
    for stage in stages or plan.stages:
        for world in worlds:
            for run in plan.runs(stage, world, records.values()) or ():
                if run.name not in records and (made := outcome(run)) is not None:
                    records[run.name] = record(run, **made)
    return records


def plan():
    """The plan of grid.yaml, with targets that need no cards, and 64 prompts as the default of line search."""
    made = Plan.read()
    made.methods["line_search"]["default"] = [1e-4, 64]
    for world in made.worlds:
        made.worlds[world].setdefault("target", 0.9)
    return made
