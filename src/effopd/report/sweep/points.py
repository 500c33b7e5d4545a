"""From the records of a sweep to points with intervals, tables and figures: `effopd sweep`'s report.

records = read_sweep("runs/world-sweep")
points = sweep_points(records)          # a row per point of every curve, with its error bar: what figures draw
tables = sweep_tables(records, points)  # ready as Markdown and as HTML
captions = sweep_captions(records, points)
write_sweep_report("runs/world-sweep")  # figures/*.svg, *.png and sweep.md
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import t as student_t

from effopd.errors import DataError
from effopd.files import read_json, write_text
from effopd.report.analysis.tables import Table
from effopd.report.drawing import save
from effopd.report.sweep.figures import FIGURES, draw_sweep

CONFIDENCE = 0.95
_KEYS = ["sweep", "task", "run", "kind", "value"]
_QUANTITIES = {
    "accuracy": ("mean", "low", "high", 1.0),
    "kl": ("kl_per_token", "kl_low", "kl_high", math.inf),
}
_WITHOUT_VALUE = ("base", "trained", "replace-embeddings")
_TITLES = {
    "update_norm": "Accuracy against the norm of the update",
    "embedding_replacement": "The base's embeddings in the trained model",
    "sliding_window": "The update of one module in a window of layers",
    "top_bottom": "The first and the last singular components",
    "norm_matching": "Early checkpoints with the final norm",
    "intervention": "Intervention",
}
_TEXTS = {
    "update_norm": "Left, the final update times a factor; right, every checkpoint as it is. The horizontal axis is "
    "the Frobenius norm of the evaluated model minus the base, over all parameters.",
    "embedding_replacement": "The base, the final model with the base's embeddings (and its output head, where that is "
    "tied to them), and the final model.",
    "sliding_window": "The base with the final update of one module in the layers around the centre and nothing else; "
    "behind, on the right axis, the norm of the final update of that module in each single layer. Bands: the base and "
    "the final models.",
    "top_bottom": "Left, the first k % of the components of every attention and MLP matrix, each matrix scaled to the "
    "norm that one common run's final update has there, so that runs compare at an equal norm; right, the last k % "
    "with the norm that they have. Bands: the base and the final models.",
    "norm_matching": "Left, checkpoints as they are (dashed) and with every weight's update scaled to its final norm; "
    "right, an early checkpoint scaled towards the final norm by beta.",
    "intervention": "One intervention over a range of values.",
}


@dataclass(frozen=True, eq=False)
class SweepRecords:
    """A sweep as it was saved.

    Attributes:
        directory: Where it lies.
        sweeps: Entries of the specification by name, each with `preset` and its fields.
        runs: Names of the methods, in the order of the specification.
        num_training_seeds: How many runs each method has, by its name.
        results: `results.parquet`.
    """

    directory: Path
    sweeps: dict[str, dict[str, Any]]
    runs: tuple[str, ...]
    num_training_seeds: dict[str, int]
    results: pd.DataFrame


class SweepCaption(NamedTuple):
    """Words for one figure.

    Attributes:
        name: Of the figure's files, without suffix.
        sweep: Whose it is.
        task: On which task.
        title: Heading.
        text: What it shows, and what exactly its error bars are.
    """

    name: str
    sweep: str
    task: str
    title: str
    text: str


def read_sweep(directory: str | Path) -> SweepRecords:
    """Read the records of a sweep.

    Raises:
        DataError: There are none, or they are damaged.
    """
    directory = Path(directory)
    plan, path = read_json(directory / "sweep.json"), directory / "results.parquet"
    try:
        results = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Run `effopd sweep` with the same --out again.") from error
    seeds = {name: len(found) for name, found in plan["runs"].items()}
    order = {name: index for index, name in enumerate(seeds)}
    results = results.sort_values("run", key=lambda runs: runs.map(order), kind="stable", ignore_index=True)
    return SweepRecords(directory, {s["name"]: s for s in plan["spec"]["sweeps"]}, tuple(seeds), seeds, results)


def sweep_points(records: SweepRecords) -> pd.DataFrame:
    """Every point of every curve: the mean over a method's runs, with its error bar.

    Within a run, the seeds of the sampling are averaged, and so are the ends of their 95 % intervals over problems. Of
    several runs, the error bar spans two intervals, the average one over problems and the 95 % t-interval of the mean
    over runs (one run for each seed of training), from the lower of their lower ends to the higher of their upper
    ones: runs may agree by chance, or because they are one model, as the base is.

    Returns:
        Ordered as the specification, the columns `sweep`, `task`, `run`, `kind`, `value`; `x` (mean over runs), `x_low`
        and `x_high` (least and greatest); `accuracy`, `accuracy_low`, `accuracy_high` in [0, 1]; `kl`, `kl_low`,
        `kl_high` in nats per token, NaN where it was not measured; `update_norm`, `layer_norm` (means over runs);
        `num_training_seeds`, `num_seeds` (of sampling, per run), `num_problems`.
    """
    rows = []
    for keys, group in records.results.groupby(_KEYS, sort=False):
        runs = group.groupby("training_seed").mean(numeric_only=True)
        point: dict[str, Any] = dict(zip(_KEYS, keys, strict=True))
        point |= {"x": runs["x"].mean(), "x_low": runs["x"].min(), "x_high": runs["x"].max()}
        for quantity, (mean, low, high, most) in _QUANTITIES.items():
            values = (runs[mean], runs[low], runs[high])
            names = (quantity, f"{quantity}_low", f"{quantity}_high")
            point |= dict(zip(names, _interval(*values, most), strict=True))
        point |= {"update_norm": runs["update_norm"].mean(), "layer_norm": runs["layer_norm"].mean()}
        point |= {"num_training_seeds": len(runs), "num_seeds": group.groupby("training_seed")["seed"].nunique().min()}
        rows.append(point | {"num_problems": group["num_problems"].min()})
    points = pd.DataFrame(rows)
    orders = {"sweep": list(records.sweeps), "run": list(records.runs)}
    return points.sort_values(
        ["sweep", "task", "run", "kind", "value"],
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        kind="stable",
        ignore_index=True,
    )


def _interval(means: pd.Series, lows: pd.Series, highs: pd.Series, most: float) -> tuple[float, float, float]:
    """Mean over runs and both ends of its error bar, cut off at 0 and `most`."""
    mean, low, high = float(means.mean()), float(lows.mean()), float(highs.mean())
    if len(means) > 1:
        width = float(student_t.ppf((1 + CONFIDENCE) / 2, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
        low, high = min(low, mean - width), max(high, mean + width)
    return mean, max(low, 0.0), min(high, most)


def sweep_captions(records: SweepRecords, points: pd.DataFrame) -> list[SweepCaption]:
    """A caption for each figure, in the order of the specification: one per sweep and task."""
    captions = []
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
            file = name if len(tasks) == 1 else f"{name}-{''.join(c if c.isalnum() else '_' for c in task)}"
            captions.append(SweepCaption(file, name, task, title, text))
    return captions


def error_bars(records: SweepRecords, entry: dict[str, Any], points: pd.DataFrame) -> str:
    """What the error bars of a sweep's points are, in words."""
    most = max(records.num_training_seeds[run] for run in points["run"].unique())
    problems, seeds = points["num_problems"].min(), points["num_seeds"].max()
    sampled = f", averaged over {seeds} seeds of the sampling" if seeds > 1 else ""
    over_problems = f"95 % bootstrap interval over {problems} problems{sampled}"
    if most == 1:
        text = f"Error bars: {over_problems}, of one training run: they leave out how training runs differ."
    else:
        text = (
            f"Points: mean over up to {most} training seeds. Error bars: the wider ends of the 95 % t-interval of that "
            f"mean over training seeds and of a run's {over_problems}; all models answer the same problems. Horizontal "
            "bars, where drawn: least and greatest over training seeds."
        )
    expected = points["run"].map(records.num_training_seeds)
    lacking = int((points["num_training_seeds"] < expected).sum())
    if _has_kl(entry, points):
        text += " The interval of KL over problems is the normal one, with the standard error by the delta method."
    return text + (f" {lacking} of the {len(points)} points lack training seeds (see the table)." if lacking else "")


def _detail(entry: dict[str, Any], records: SweepRecords, points: pd.DataFrame) -> str:
    if entry["preset"] == "norm_matching":
        kl = "" if _has_kl(entry, points) else " KL to the teacher was not measured: the specification has none."
        return f"The early checkpoint is the one nearest to {100 * entry['early']:g} % of the training.{kl} "
    if entry["preset"] == "top_bottom":
        other = {"base": "the base's", "trained": "the trained ones"}[entry["other"]]
        return f"Norms are those of {entry['norm_like'] or records.runs[0]}; all other tensors are {other}. "
    return ""


def sweep_tables(records: SweepRecords, points: pd.DataFrame) -> dict[str, Table]:
    """A table for each figure, by the name of its files."""
    tables = {}
    for caption in sweep_captions(records, points):
        chosen = points[(points["sweep"] == caption.sweep) & (points["task"] == caption.task)]
        with_kl = _has_kl(records.sweeps[caption.sweep], chosen)
        header = (
            "run",
            "curve",
            "value",
            "norm of the update",
            "accuracy, %",
            *(["KL, nats / token"] if with_kl else []),
        )
        rows = []
        for point in chosen.to_dict("records"):
            accuracy = _cell([100 * point[name] for name in ("accuracy", "accuracy_low", "accuracy_high")], ".1f")
            kl = [_cell([point[name] for name in ("kl", "kl_low", "kl_high")], ".3g")] if with_kl else []
            seeds = f"{point['num_training_seeds']} of {records.num_training_seeds[point['run']]}"
            value = "" if point["kind"] in _WITHOUT_VALUE else f"{point['value']:g}"
            curve = (point["run"], point["kind"], value, f"{point['update_norm']:.4g}")
            rows.append((*curve, accuracy, *kl, seeds))
        head = (*header, "training seeds")
        tables[caption.name] = Table(caption.name, caption.title, caption.text, head, tuple(rows), text_columns=2)
    return tables


def write_sweep_report(directory: str | Path) -> list[Path]:
    """Draw every figure of a sweep and write its tables, from the records in its directory.

    Args:
        directory: `--out` of `effopd sweep`.

    Returns:
        The paths written: `figures/NAME.svg` and `.png` for each sweep and task, and `sweep.md`.

    Raises:
        DataError: The records cannot be read.
    """
    records = read_sweep(directory)
    points = sweep_points(records)
    written: list[Path] = []
    parts = ["# Sweep\n"]
    tables = sweep_tables(records, points)
    for caption in sweep_captions(records, points):
        chosen = points[(points["sweep"] == caption.sweep) & (points["task"] == caption.task)]
        entry = records.sweeps[caption.sweep]
        figure = draw_sweep(entry, chosen, records.runs)
        written += save(figure, records.directory / FIGURES / caption.name)
        image = f"![{caption.title}]({FIGURES}/{caption.name}.svg)\n"
        parts += [tables[caption.name].markdown().replace("\n\n", f"\n\n{image}\n", 1)]
    write_text(records.directory / "sweep.md", "\n".join(parts))
    return [*written, records.directory / "sweep.md"]


def _has_kl(entry: dict[str, Any], points: pd.DataFrame) -> bool:
    """Other sweeps have it for the models that they share with this one, and do not show it."""
    return entry["preset"] == "norm_matching" and bool(points["kl"].notna().any())


def _cell(values: list[float], spec: str) -> str:
    mean, low, high = values
    return "\u2013" if math.isnan(mean) else f"{mean:{spec}} [{low:{spec}}, {high:{spec}}]"
