"""`effopd curves`: accuracy against optimizer steps, for several runs and benchmarks, from saved evaluations.

`checkpoints` tells the steps and `report` draws, and neither imports the other. This module joins the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from scipy.stats import t as student_t

from effopd.checkpoints.runs import step_of
from effopd.checks import is_finite_number
from effopd.console import print_places
from effopd.errors import ConfigurationError, DataError, listing
from effopd.files import load_yaml, read_json, read_json_lines
from effopd.report.accuracy import write_accuracy

Places = Mapping[str, str | Path | Sequence[str | Path]]
"""For each name, a directory that holds evaluations, at any depth, or a list of those."""

IN_TRAINING = "evaluated in training"
_SUMMARY, _METRICS, _CONFIG = "summary.json", "metrics.jsonl", "config.yaml"
_NEEDED = ("model", "task", "mean", "interval", "num_problems", "step")
# What evaluations of one task must share, because accuracies differ with it.
_SHARED = ("task_digest", "temperature", "max_new_tokens", "chat", "system_prompt", "chat_template_kwargs")
# Of training's own evaluations, those are fields of the run's config.yaml.
_SHARED_IN_TRAINING = (
    *("evaluation_dataset_name", "evaluation_config", "evaluation_split", "num_evaluation_examples", "reward"),
    *("system_prompt", "prompt_template", "temperature", "max_completion_length"),
)
_POINT = ["role", "name", "task", "step"]
_NORMAL = 1.959964  # of a 95 % interval


def draw_curves(
    runs: Places,
    out: str | Path,
    *,
    baselines: Places | None = None,
    base: str | Path | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Draw accuracy against optimizer steps, with a panel for each task and the baselines' final values as lines.

    An evaluation is a directory that `effopd evaluate` wrote; its `summary.json` tells the step of its model, or where
    an earlier version left that out, the checkpoint does. The directory of a run that `effopd train` wrote counts too:
    its `metrics.jsonl` has the accuracies of training's own evaluation. Several evaluations of one step, of several
    seeds, are averaged.

    Args:
        runs: Evaluations of the checkpoints of each run.
        out: Path of the files without a suffix: `out.svg`, `out.pdf`, `out.png` and the table `out.md` are written.
        baselines: Evaluations of each baseline, of which the last step counts.
        base: Evaluations of the model that all runs started from, which is their step 0.
        console: Console that is told what was written; None for stdout.

    Returns:
        The paths written.

    Raises:
        ConfigurationError: There is no run.
        DataError: There are no evaluations, one cannot be read or has no step, or evaluations of one task differ in
            their problems or in how completions were prompted and sampled.
    """
    if not runs:
        raise ConfigurationError("Got no run to draw; expected at least one, NAME=DIR.")
    if not Path(out).name:
        raise ConfigurationError(f"--out {str(out)!r} has no name for files; give a path without a suffix, DIR/NAME.")
    rows = [row | {"role": "run", "name": name} for name, place in runs.items() for row in _evaluations(place)]
    if base is not None:
        start = [row | {"step": 0} for row in _of_one_step(base)]
        rows += [row | {"role": "run", "name": name} for name in runs for row in start]
    if lost := [row["place"] for row in rows if row["step"] is None]:
        raise DataError(
            f"The step of the model is not known that was evaluated in {lost[0]}; expected a folder checkpoint-N, or "
            "one with trainer_state.json. Give the base as --base, and a single model as --baseline."
        )
    for name, place in (baselines or {}).items():
        ends = []
        for each in _listed(place):  # runs may end at different steps
            found = pd.DataFrame(_evaluations(each)).fillna({"step": -1})
            ends.append(found[found["step"] == found.groupby("task")["step"].transform("max")])
        last = pd.concat(ends).assign(step=lambda table: table.groupby("task")["step"].transform("max"))
        rows += [row | {"role": "baseline", "name": name} for row in last.to_dict("records")]
    # Directories may be given twice, or one within another.
    once = {(*(row[key] for key in _POINT), Path(row["place"]).resolve()): row for row in rows}
    rows = list(once.values())
    _check_comparable(rows)
    written = write_accuracy(_points(rows), Path(out))
    pictures, table = written[:-1], written[-1]
    print_places(console or Console(highlight=False), {"Figure": ", ".join(map(str, pictures)), "Table": table})
    return written


def _listed(places: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [places] if isinstance(places, str | Path) else places


def _evaluations(places: str | Path | Sequence[str | Path]) -> list[dict[str, Any]]:
    rows = []
    for place in _listed(places):
        found = [*_of_evaluate(Path(place)), *_of_training(Path(place))]
        if not found:
            raise DataError(
                f"{place} holds no evaluation: no {_SUMMARY} at any depth, and no {_METRICS} with accuracies. Give "
                "what `effopd evaluate` or `effopd train` wrote."
            )
        rows += found
    return rows


def _of_one_step(places: str | Path | Sequence[str | Path]) -> list[dict[str, Any]]:
    rows = _evaluations(places)
    if len(steps := {row["step"] for row in rows}) > 1:
        raise DataError(
            f"--base {rows[0]['place']}: got evaluations of steps {listing(sorted(map(str, steps)))}; expected "
            "those of one model, from which the runs started."
        )
    return rows


def _of_evaluate(place: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(place.rglob(_SUMMARY)):
        summary = read_json(path)
        if not {"model", "task", "mean", "interval"} <= summary.keys():
            continue  # another command's summary, such as that of the demo
        _check_summary(path, summary)
        low, high = summary["interval"]
        step = summary["step"] if "step" in summary else step_of(Path(summary["model"]))
        yield {
            **{"place": str(path.parent), "task": summary["task"], "step": step},
            **{"accuracy": summary["mean"], "low": low, "high": high, "num_problems": summary["num_problems"]},
            "shared": {name: summary.get(name) for name in _SHARED},
        }


def _check_summary(path: Path, summary: Mapping[str, Any]) -> None:
    interval = summary["interval"] if isinstance(summary["interval"], list) else []
    numbers = [summary["mean"], summary.get("num_problems"), *interval]
    if (
        len(numbers) != 4
        or not all(map(is_finite_number, numbers))
        or not isinstance(summary["model"], str)
        or not isinstance(summary["task"], str)
        or not isinstance(summary.get("step"), int | None)
    ):
        got = ", ".join(f"{name} {summary.get(name)!r}" for name in _NEEDED)
        raise DataError(
            f"{path}: got {got}; expected texts, numbers, and two numbers as interval. Evaluate the model again, or "
            "move the file away if another command wrote it."
        )


def _of_training(place: Path) -> Iterator[dict[str, Any]]:
    path = place / _METRICS
    if not path.is_file():
        return
    shared = _shared_in_training(place / _CONFIG)
    for number, row in enumerate(read_json_lines(path), start=1):
        _check_metrics(f"{path}, row {number}", row)
        if (accuracy := row.get("accuracy")) is not None:
            half = _NORMAL * (row.get("accuracy_stderr") or 0.0)
            yield {
                **{"place": str(path), "task": IN_TRAINING, "step": row["step"], "num_problems": None},
                **{"accuracy": accuracy, "low": max(accuracy - half, 0.0), "high": min(accuracy + half, 1.0)},
                "shared": shared,
            }


def _check_metrics(place: str, row: Any) -> None:
    if isinstance(row, dict):
        numbers = row.get("accuracy"), row.get("accuracy_stderr") or 0.0
        if numbers[0] is None or (isinstance(row.get("step"), int) and all(map(is_finite_number, numbers))):
            return
    raise DataError(
        f"{place}: got {str(row)[:80]}, expected an object with `step`, a whole number, and `accuracy`, a number. Mend "
        "or remove the line."
    )


def _shared_in_training(path: Path) -> dict[str, Any]:
    """Read what identifies training's own evaluation; of a run without a config.yaml, nothing is known."""
    if not path.is_file():
        return {}
    try:
        config = load_yaml(path.read_text(encoding="utf-8"))
        return {name: config[name] for name in _SHARED_IN_TRAINING if name in config}
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as settings of a run ({error}). Mend the file, or remove it."
        ) from error


def _check_comparable(rows: Sequence[Mapping[str, Any]]) -> None:
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        for name, value in row["shared"].items():
            one = first.setdefault((row["task"], name), row)
            if value != one["shared"][name]:
                raise DataError(
                    f"The evaluations in {one['place']} and {row['place']} of {row['task']} differ in {name}: "
                    f"{one['shared'][name]} and {value}. They cannot be compared; evaluate all models in the same way, "
                    "with `effopd evaluate`."
                )


def _points(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Average the evaluations of one model's step on one task, and give each point its 95 % interval.

    The interval of a single evaluation is that over problems; of several, the wider of that, on average, and Student's
    t-interval of their mean, since seeds share their problems.
    """
    points = []
    for values, group in pd.DataFrame(rows).groupby(_POINT, sort=False):
        mean, low, high = (float(group[name].mean()) for name in ("accuracy", "low", "high"))
        if len(group) > 1:
            half = float(student_t.ppf(0.975, len(group) - 1) * group["accuracy"].sem())
            low, high = min(low, max(mean - half, 0.0)), max(high, min(mean + half, 1.0))
        point = dict(zip(_POINT, values, strict=True)) | {"accuracy": mean, "low": low, "high": high}
        problems = group["num_problems"].min()
        points.append(point | {"evaluations": len(group), "problems": None if pd.isna(problems) else int(problems)})
    return pd.DataFrame(points)
