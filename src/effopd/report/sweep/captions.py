"""The captions of a sweep's figures, which say what each figure shows and what exactly its error bars are."""

from typing import Any, NamedTuple

import pandas as pd

from effopd.report.sweep.points import shows_kl
from effopd.report.sweep.precision import error_sentence
from effopd.report.sweep.records import SweepRecords

_TITLES = {
    "update_norm": "Accuracy against the norm of the update",
    "embedding_replacement": "The base's embeddings in the trained model",
    "sliding_window": "The update of one module in a window of layers",
    "top_bottom": "The first and the last singular components",
    "norm_matching": "Early checkpoints with the final norm",
    "intervention": "Intervention",
}
_TEXTS = {
    "update_norm": "The left panel shows the final update times a factor, and the right panel shows every checkpoint "
    "as it is. The horizontal axis is the Frobenius norm, over all parameters, of the evaluated model minus the base.",
    "embedding_replacement": "The three models are the base, the final model with the base's embeddings (and with the "
    "base's output head, where it is tied to them), and the final model.",
    "sliding_window": "Each model is the base with the final update of one module in the layers around the centre, and "
    "with nothing else of training. The bars behind the curves, on the right axis, are the norms of the final update "
    "of that module in each single layer. Dashed lines with bands are the base and the final models.",
    "top_bottom": "The left panel shows the first k % of the components of every attention and MLP matrix. Each matrix "
    "is scaled to the norm that the final update of one common run has there, so that runs compare at an equal norm. "
    "The right panel shows the last k %, with the norm that they have. Dashed lines with bands are the base and the "
    "final models.",
    "norm_matching": "The left panel shows checkpoints as they are (dashed), and with every weight's update scaled to "
    "its final norm. The right panel shows an early checkpoint, scaled towards the final norm by beta.",
    "intervention": "One intervention is applied with a range of values.",
}


class SweepCaption(NamedTuple):
    """The words of one figure.

    Attributes:
        name: Name of the figure's files, without a suffix.
        sweep: Name of the sweep that the figure shows.
        task: Name of the task on which its models were evaluated.
        title: Heading above the figure.
        text: What the figure shows, and what its error bars are.
    """

    name: str
    sweep: str
    task: str
    title: str
    text: str


def sweep_captions(records: SweepRecords, points: pd.DataFrame) -> list[SweepCaption]:
    """Make the caption of each figure. There is a figure for each sweep and task, in the order of the specification.

    Args:
        records: The sweep.
        points: Its points, from `sweep_points`.
    """
    captions: list[SweepCaption] = []
    tasks = points["task"].drop_duplicates().tolist()
    for name, entry in records.sweeps.items():
        for task in tasks:
            chosen = points[(points["sweep"] == name) & (points["task"] == task)]
            if chosen.empty:
                continue
            preset = entry["preset"]
            title = (
                _TITLES[preset] + ("" if name == preset else f" ({name})") + ("" if len(tasks) == 1 else f", {task}")
            )
            text = f"{_TEXTS[preset]} {_detail(entry, records, chosen)}{error_bars(records, entry, chosen)}"
            text += error_sentence(chosen)
            file = name if len(tasks) == 1 else f"{name}-{''.join(c if c.isalnum() else '_' for c in task)}"
            while file in [each.name for each in captions]:  # names that differ in punctuation only
                file += "_"
            captions.append(SweepCaption(file, name, task, title, text))
    return captions


def progress_note(records: SweepRecords) -> str:
    """Say how much of an unfinished sweep is drawn; empty for a finished one."""
    done, total = records.results["cell"].nunique(), records.num_cells
    if total is None or done >= total:
        return ""
    return (
        f"{done} of {total} evaluations are finished: curves lack points, and means may lack training seeds. The same"
        " `effopd sweep` goes on."
    )


def error_bars(records: SweepRecords, entry: dict[str, Any], points: pd.DataFrame) -> str:
    """Say in words what the error bars of a figure are.

    Args:
        records: The sweep.
        entry: The entry of the specification that the figure shows.
        points: The points that the figure draws.
    """
    most = max(records.num_training_seeds[run] for run in points["run"].unique())
    problems, seeds = points["num_problems"].min(), points["num_seeds"].max()
    sampled = f", averaged over {seeds} seeds of the sampling" if seeds > 1 else ""
    over_problems = f"95 % bootstrap interval over {problems} problems{sampled}"
    if most == 1:
        text = f"Error bars are the {over_problems}, of one training run. They leave out how much training runs differ."
    else:
        text = (
            f"Each point is the mean over up to {most} training seeds. Its error bar spans two intervals: the 95 % "
            f"t-interval of that mean over training seeds, and the average run's {over_problems}. All models answer "
            "the same problems. A horizontal bar, where there is one, reaches from the least to the greatest value "
            "over training seeds."
        )
    expected = points["run"].map(records.num_training_seeds)
    lacking = int((points["num_training_seeds"] < expected).sum())
    if shows_kl(entry, points):
        text += " The interval of the KL over problems is the normal one, with a standard error from the delta method."
    return text + (f" {lacking} of the {len(points)} points lack training seeds (see the table)." if lacking else "")


def _detail(entry: dict[str, Any], records: SweepRecords, points: pd.DataFrame) -> str:
    if entry["preset"] == "norm_matching":
        kl = (
            " The axis of the KL is logarithmic: a curve ends where the KL is 0."
            if shows_kl(entry, points)
            else " KL to the teacher was not measured, because the specification names none."
        )
        return f"The early checkpoint is the one nearest to {100 * entry['early']:g} % of the training.{kl} "
    if entry["preset"] == "top_bottom":
        other = {"base": "the base's", "trained": "the trained ones"}[entry["other"]]
        return f"Norms are those of {entry['norm_like'] or records.runs[0]}. All other tensors are {other}. "
    return ""
