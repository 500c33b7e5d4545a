"""The step size that the quadratic model predicts along b, beside what the line search finds at its first step.

    python benchmarks/first_step.py                  # the embedded worlds, five seeds: about six core-minutes
    python benchmarks/first_step.py --report-only

For each world and seed: linearise the base on 64 completions; take one step of plain gradient descent on 64 other ones,
at the predicted step size; and see by what factor the line search multiplies that step, judged by 64 further
completions. A factor of 1 means that the prediction was right. The search knows powers of 2 only.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from transformers.training_args import OptimizerNames

from effopd.experiments.arguments import world_run_arguments
from effopd.extrapolation.records import RECORDS
from effopd.files import read_json, read_json_lines, write_json, write_text
from effopd.linearize import linearize
from effopd.training.quiet import quiet_libraries
from effopd.training.run import train, versions

RESULTS = Path(__file__).parent / "results"
WORLDS, SEEDS, NUM_CONTEXTS = ("style", "facts", "sibling"), range(5), 64

Record = dict[str, Any]


def main() -> None:
    """Do the worlds and seeds, and write the records and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report-only", action="store_true", help="only write the table of the committed records")
    if not parser.parse_args().report_only:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            records = [measure(world, seed, Path(folder)) for world in WORLDS for seed in SEEDS]
        write_json(RESULTS / "first_step.json", {"records": records, "versions": versions()})
    write_text(RESULTS / "first_step.md", table(read_json(RESULTS / "first_step.json")["records"]))


def measure(world: str, seed: int, folder: Path) -> Record:
    """Predict the step size, and let the search judge it.

    Returns:
        `step_size` that is predicted; `best_multiple` of it by the true loss on the completions that it was predicted
        from; `factor` by which the search multiplies the step; and the `scores` of the factors that it tried.
    """
    place = folder / f"{world}-{seed}"
    found = read_json(
        linearize(
            *(f"world:{world}/{model}" for model in ("base", "teacher")),
            place / "linearized",
            task=f"world:{world}/train",
            max_contexts=NUM_CONTEXTS,
            max_fresh_contexts=0,
            standard_error=1e-6,  # so that all of these contexts are taken
            num_steps=2,
            micro_batch=NUM_CONTEXTS,
            seed=seed,
        )
    )
    arguments, config = world_run_arguments(
        place / "run",
        world=world,
        acceleration="line_search",
        learning_rate=found["step_size_along_driving"],
        seed=seed,
        prompts_per_step=NUM_CONTEXTS,
        max_steps=2,
        save_steps=None,
    )
    arguments.extrapolation = {"passes": 1}
    arguments.target_accuracy, config.eval_strategy = None, "no"
    config.optim, config.max_grad_norm = OptimizerNames.SGD, 0.0
    with quiet_libraries():
        train(arguments, config)
    [row] = read_json_lines(place / "run" / RECORDS)  # written in the second step, on whose completions it searches
    shutil.rmtree(place)
    return {
        "world": world,
        "seed": seed,
        "step_size": found["step_size_along_driving"],
        "best_multiple": found["lines"]["gradient"]["best_true_scale"],
        "factor": 1 + row["accepted_scale"],
        "scores": {str(1 + each["scale"]): each["score"] for each in row["candidates"]},
    }


def table(records: list[Record]) -> str:
    """Write the table: a row for each world."""
    lines = [
        "# The first step: the quadratic model, and the line search",
        "",
        f"Made by `python benchmarks/first_step.py`: {len(SEEDS)} seeds in each world. The factor is that by which the",
        "line search multiplies a step of the predicted size, judged by other completions; 1 means that the prediction",
        "was right.",
        "",
        "| world | predicted step size, median | best multiple on its own completions | factor of the line search |",
        "|---|--:|--:|--:|",
    ]
    for world in dict.fromkeys(record["world"] for record in records):
        mine = [record for record in records if record["world"] == world]
        cells = [f"{median(record['step_size'] for record in mine):.3g}"]
        cells += [", ".join(f"{record[key]:g}" for record in mine) for key in ("best_multiple", "factor")]
        lines.append(f"| `{world}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
