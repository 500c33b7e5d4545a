"""Whether the concentration of b before training predicts what training will be like, over small worlds.

    python benchmarks/linearized_prediction.py --out runs/linearized            # two core-minutes for each world
    python benchmarks/linearized_prediction.py --report-only

For each of `WORLDS`: build base and teacher, linearise the base, train it by vanilla OPD and by EffOPD (`paper`). Every
finished world leaves a record in results/linearized-runs; the same command does those that are missing, one by one.
"""

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import numpy as np
import torch
from diagnostics_statistics import rank_correlation
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback

from effopd.evaluation import Task
from effopd.experiments.arguments import world_run_arguments
from effopd.experiments.cost_to_target import to_target
from effopd.files import read_json, write_json, write_json_lines, write_text
from effopd.grading.world import grade_world
from effopd.linearize import linearize
from effopd.parameters import locate
from effopd.study.verdict import holm
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.metrics import MetricsCallback
from effopd.training.quiet import quiet_libraries
from effopd.training.rewards import resolve_rewards
from effopd.training.run import train, versions
from effopd.training.stopping import EvaluateNearTarget
from effopd.training.trainer import OPDTrainer
from effopd.updates import singular_vectors, spectrum, vector_alignment
from effopd.world import ModelSize, PretrainingConfig, SiblingConfig, TaskConfig, build_world, make_dataset

HERE = Path(__file__).parent / "results"
RECORDS = HERE / "linearized-runs"
Record = dict[str, Any]

SIZE = ModelSize(hidden_size=64, intermediate_size=192, num_layers=2, num_heads=4)
PRETRAINING_STEPS = 600  # of step-by-step answers alone; a base that sees fewer of them takes more steps to learn them
TEACHER = SiblingConfig(model_size=SIZE, pretraining=PretrainingConfig(num_steps=PRETRAINING_STEPS))
FACTS = TaskConfig(num_operations=2, step_by_step_share=1.0, noise=0.01)
WORLDS: dict[str, TaskConfig] = {
    **{f"style-{share:g}": replace(FACTS, step_by_step_share=share) for share in (0.25, 0.5, 0.75)},
    **{
        f"facts-{number}-{reliability:g}": replace(FACTS, num_unsure_facts=number, fact_reliability=reliability)
        for number, reliability in ((10, 0.2), (30, 0.2), (60, 0.2), (100, 0.2), (150, 0.2), (60, 0.05), (60, 0.5))
    },
    **{
        f"both-{share:g}-{number}": replace(
            FACTS, step_by_step_share=share, num_unsure_facts=number, fact_reliability=0.2
        )
        for share, number in ((0.5, 30), (0.5, 100), (0.25, 60))
    },
    "slips": replace(FACTS, noise=0.2),
}
SEED = 0
RATE, PROMPTS_PER_STEP, STEPS, EARLY, VECTORS = 3e-4, 64, 96, 12, 5
# Contexts, and fresh ones for shares without noise: as many as a standard error of b of a tenth takes, up to these.
STANDARD_ERROR, MOST_CONTEXTS, MOST_FRESH = 0.1, 64, 512
PRODUCTS, FEW = 60, 10
METHODS = ("none", "paper")
SHARE_OF_GAP = 0.9
FEWEST_WORLDS = 6  # below which a rank correlation is not written: its interval would be the whole range
OUTCOMES = {
    "effective_rank": "effective rank of the final update, mean over attention and MLP matrices",
    "early_alignment": f"alignment of the update after {EARLY} of {STEPS} steps with the final one, k = 1..{VECTORS}",
    "log_speedup": "logarithm of vanilla's rollouts to the target over EffOPD's, validation included",
}
SIGNALS = {
    "unbiased_rank_of_90_percent": "eigenvectors from the first on that hold 90 % of |b|^2, without noise",
    "unbiased_share": f"share of |b|^2 in the first {FEW} eigenvectors, without noise",
    "rank_of_90_percent": "eigenvectors from the first on that hold 90 % of |b|^2, noise included",
    "fewest_for_90_percent": "fewest eigenvectors that hold 90 % of |b|^2, noise included",
}
COLUMNS = (
    *("world", "base", "teacher", "contexts", "fresh", "standard error of b", "of fresh b"),
    *("k for 90 %, unbiased", f"share in {FEW}, unbiased", "k for 90 %", "fewest", "effective rank", "early alignment"),
    *("rollouts: vanilla", "EffOPD", "eta along b, and true best multiple", "unit noise OPD / RL"),
)


def main() -> None:
    """Do the worlds that are left, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/linearized"), help="where models and runs are kept")
    parser.add_argument(
        "--world", action="append", choices=WORLDS, help="do only this world; may be given several times"
    )
    parser.add_argument("--report-only", action="store_true", help="do no world")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if options.report_only else options.world or WORLDS:
        if not (RECORDS / f"{name}.json").exists():
            write_json(RECORDS / f"{name}.json", do_world(name, options.out / name))
            print(f"{name}: done", flush=True)
    write_report()


def do_world(name: str, directory: Path) -> Record:
    """Build a world, linearise its base, train on it in both ways, and return the record."""
    started, cpu = time.perf_counter(), time.process_time()
    task = WORLDS[name]
    card = build_world(
        directory / "world",
        seed=SEED,
        config=task,
        model_size=SIZE,
        pretraining=PretrainingConfig(num_steps=round(PRETRAINING_STEPS / task.step_by_step_share)),
        teacher=TEACHER,
        num_evaluation_examples=512,
        use_cpu=True,
    )
    for split, number in (("train", 1024), ("validation", 256), ("evaluation", 256)):
        write_json_lines(directory / f"{split}.jsonl", make_dataset(split, number, SEED, task).to_list())  # type: ignore[arg-type]
    rows = make_dataset("train", MOST_CONTEXTS + MOST_FRESH, SEED, task).to_dict()
    grader = partial(grade_world, num_operations=task.num_operations)
    found = read_json(
        linearize(
            str(directory / "world" / "base"),
            str(directory / "world" / "teacher"),
            directory / "linearized",
            task=Task(name, rows["prompt"], rows["answer"], grader, task.max_completion_length + 2),
            max_contexts=MOST_CONTEXTS,
            max_fresh_contexts=MOST_FRESH,
            standard_error=STANDARD_ERROR,
            num_steps=PRODUCTS,
            micro_batch=MOST_CONTEXTS,
            seed=SEED,
        )
    )
    base, teacher = (card[key]["sampled_accuracy"]["accuracy"] for key in ("base", "teacher"))
    target = base + SHARE_OF_GAP * (teacher - base)
    runs = {acceleration: run(directory, task, acceleration, target) for acceleration in METHODS}
    kept = ("rank_of_90_percent", "fewest_for_90_percent", "unbiased", "num_contexts", "num_tokens", "loss",
            "driving_norm", "driving_norm_by_kind", "driving_norm_by_parameter", "eigenvalues",
            "eigenvalue_residuals", "driving_share", "step_size_along_driving", "trace_opd", "trace_opd_sampled",
            "trace_rl", "mean_reward", "cosine_opd_rl", "cosine_halves", "lines", "path")  # fmt: skip
    return {
        "world": name,
        "task": asdict(task),
        "base_accuracy": base,
        "teacher_accuracy": teacher,
        "target": target,
        "linearized": {key: found[key] for key in kept},
        "runs": runs,
        **geometry(directory),
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - started,
        "versions": versions(),
    }


def run(directory: Path, task: TaskConfig, acceleration: str, target: float) -> Record:
    """Train by one method and return what reaching the target cost. Vanilla keeps its checkpoints."""
    arguments, config = settings(directory, task, acceleration, target)

    def callbacks(trainer: OPDTrainer, metrics: MetricsCallback) -> list[TrainerCallback]:
        trainer.remove_callback(PrinterCallback)
        assert arguments.reward is not None
        return [EvaluateNearTarget(trainer, target, resolve_rewards(arguments.reward))]

    with quiet_libraries():
        rows = train(arguments, config, callbacks)
    jumps = [row["accepted_scale"] for row in rows if row["accepted_scale"] is not None]
    return {**to_target(rows, target), "accepted_scales": jumps}


def settings(directory: Path, task: TaskConfig, acceleration: str, target: float) -> tuple[RunArguments, OPDConfig]:
    """Make the arguments of one run. Only vanilla goes on after the target."""
    folder = directory / acceleration
    arguments, config = world_run_arguments(
        folder,
        acceleration=acceleration,
        learning_rate=RATE,
        seed=SEED,
        target_accuracy=target,
        prompts_per_step=PROMPTS_PER_STEP,
        evaluation_problems=256,
        max_steps=STEPS,
        save_steps=EARLY if acceleration == "none" else None,
    )
    arguments.model_name_or_path = str(directory / "world" / "base")
    config.teacher_model_name_or_path = str(directory / "world" / "teacher")
    arguments.dataset_name = str(directory / "train.jsonl")
    arguments.evaluation_dataset_name = str(directory / "evaluation.jsonl")
    config.max_completion_length = task.max_completion_length + 2
    config.per_device_eval_batch_size = 256
    if acceleration == "none":
        arguments.target_accuracy, config.save_total_limit = None, None
    return arguments, config


def geometry(directory: Path) -> Record:
    """Measure vanilla's update: its effective rank, and how early its singular vectors were there."""
    base = load_file(directory / "world" / "base" / "model.safetensors")
    early, final = (
        load_file(directory / "none" / f"checkpoint-{step}" / "model.safetensors") for step in (EARLY, STEPS)
    )
    ranks, alignments, norms = [], [], {}
    for name, start in base.items():
        norms[name] = (final[name].double() - start.double()).norm().item()
        if start.ndim == 2 and locate(name).kind in ("attention", "mlp"):
            before, at_end = (each[name].double() - start.double() for each in (early, final))
            ranks.append(spectrum(at_end).effective_rank)
            left = [singular_vectors(update, k=VECTORS).left for update in (before, at_end)]
            alignments.append(vector_alignment(*left).mean().item())
    return {
        "effective_rank": float(np.mean(ranks)),
        "early_alignment": float(np.mean(alignments)),
        "update_norm_by_parameter": norms,
    }


def signal_of(record: Mapping[str, Any], signal: str) -> float | None:
    """Look up a signal. If all eigenvectors together hold too little, it is one more than there are."""
    found = record["linearized"]
    if not signal.startswith("unbiased"):
        return float(found[signal])
    unbiased = found["unbiased"]
    if unbiased["squared_norm"] <= 0:
        return None
    if signal == "unbiased_share":
        return float(unbiased["driving_share"][FEW - 1])
    rank = unbiased["rank_of_90_percent"]
    return float(len(unbiased["driving_share"]) + 1 if rank is None else rank)


def log_speedup(record: Mapping[str, Any]) -> float | None:
    """Compute log(vanilla's rollouts / EffOPD's) to the target; a bound if only one reached it, None if none did."""
    runs = [record["runs"][name] for name in METHODS]
    if all(each["rollouts_to_target"] is None for each in runs):
        return None
    costs = [each["rollouts_to_target"] or each["spent"]["rollouts_to_target"] for each in runs]
    return float(np.log(costs[0] / costs[1]))


def write_report() -> None:
    """Write the rank correlations and a table of the worlds, of the records that are there."""
    records = [read_json(path) for path in sorted(RECORDS.glob("*.json"))]
    values = {
        **{signal: [signal_of(record, signal) for record in records] for signal in SIGNALS},
        **{outcome: [record[outcome] for record in records] for outcome in ("effective_rank", "early_alignment")},
        "log_speedup": [log_speedup(record) for record in records],
    }
    correlations = {
        f"{signal} -> {outcome}": found and asdict(found)
        for signal in SIGNALS
        for outcome in OUTCOMES
        for found in [
            rank_correlation(values[signal], values[outcome], [0] * len(records))
            if len(records) >= FEWEST_WORLDS
            else None
        ]
    }
    adjusted = holm({pair: found["p_value"] for pair, found in correlations.items() if found is not None})
    missing = [name for name in WORLDS if name not in {record["world"] for record in records}]
    write_json(
        HERE / "linearized_prediction.json", {"worlds": values, "correlations": correlations, "missing": missing}
    )
    lines = ["# Does the concentration of b predict training?", ""]
    lines += [f"{len(records)} of {len(WORLDS)} worlds, one seed each. "
              + (f"Not done yet: {', '.join(missing)}." if missing else "")]  # fmt: skip
    lines += [
        "",
        "| before training | after training | Spearman | 95 % interval | p | p (Holm) | worlds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for pair, found in correlations.items():
        signal, _, outcome = pair.partition(" -> ")
        cells = ("-",) * 5 if found is None else (
            f"{found['estimate']:.2f}", f"[{found['low']:.2f}, {found['high']:.2f}]", f"{found['p_value']:.3f}",
            f"{adjusted[pair]:.3f}", str(found["num_runs"]),
        )  # fmt: skip
        words = [text.replace("|", "\\|") for text in (SIGNALS[signal], OUTCOMES[outcome])]
        lines.append("| " + " | ".join([*words, *cells]) + " |")
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|---|" + "--:|" * (len(COLUMNS) - 1)]
    lines += [_row(record) for record in records]
    write_text(HERE / "linearized_prediction.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def _row(record: Mapping[str, Any]) -> str:
    found, unbiased = record["linearized"], record["linearized"]["unbiased"]
    rl = found["trace_rl"] or {}
    costs = [record["runs"][name]["rollouts_to_target"] for name in METHODS]
    share, error = (unbiased[key][FEW - 1] for key in ("driving_share", "driving_share_error"))
    noise = [each.get("completions_for_unit_noise") for each in (found["trace_opd"], rl)]
    cells = [
        record["world"],
        *(f"{record[key]:.3f}" for key in ("base_accuracy", "teacher_accuracy")),
        *(str(each["num_contexts"]) for each in (found, unbiased)),
        *(
            "-" if each is None else f"{each:.2f}"
            for each in (found["trace_opd"]["relative_standard_error"], unbiased["relative_standard_error"])
        ),
        str(unbiased["rank_of_90_percent"] or f"over {len(unbiased['driving_share'])}"),
        f"{share:.3f} (standard error {error:.3f})",
        *(str(found[signal]) for signal in ("rank_of_90_percent", "fewest_for_90_percent")),
        f"{record['effective_rank']:.1f}",
        f"{record['early_alignment']:.3f}",
        *("-" if cost is None else f"{cost:,}" for cost in costs),
        f"{found['step_size_along_driving']:.3g}, {found['lines']['gradient']['best_true_scale']:g}",
        " / ".join("-" if each is None else f"{each:.1f}" for each in noise),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
