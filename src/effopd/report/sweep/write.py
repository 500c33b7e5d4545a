"""The whole report of a sweep, written beside its records."""

from pathlib import Path

from effopd.files import write_text
from effopd.report.drawing import save
from effopd.report.sweep.captions import progress_note, sweep_captions
from effopd.report.sweep.figures import draw_sweep
from effopd.report.sweep.points import sweep_points
from effopd.report.sweep.precision import held_sentence
from effopd.report.sweep.records import FIGURES_FOLDER, read_sweep
from effopd.report.sweep.tables import sweep_tables


def write_sweep_report(directory: str | Path) -> list[Path]:
    """Draw every figure of a sweep and write its tables, from the records in its directory.

    Args:
        directory: Directory that was given to `effopd sweep` as `--out`.

    Returns:
        The paths written: `figures/NAME.svg`, `.pdf` and `.png` for each sweep and task, and `sweep.md`.

    Raises:
        DataError: The records cannot be read.
    """
    records = read_sweep(directory)
    points = sweep_points(records)
    written: list[Path] = []
    note, held = progress_note(records), held_sentence(records)
    parts = ["# Sweep\n", *([f"**{note}**\n"] if note else []), *([f"{held}\n"] if held else [])]
    tables = sweep_tables(records, points)
    for caption in sweep_captions(records, points):
        chosen = points[(points["sweep"] == caption.sweep) & (points["task"] == caption.task)]
        figure = draw_sweep(records.sweeps[caption.sweep], chosen, records.runs)
        written += save(figure, records.directory / FIGURES_FOLDER / f"{caption.name}.svg")
        image = f"![{caption.title}]({FIGURES_FOLDER}/{caption.name}.svg)\n"
        parts += [tables[caption.name].markdown().replace("\n\n", f"\n\n{image}\n", 1)]
    write_text(records.directory / "sweep.md", "\n".join(parts))
    return [*written, records.directory / "sweep.md"]
