"""The section about a sweep in the HTML report of an analysis: its figures as images, with captions and tables."""

import base64
import html
from pathlib import Path

from effopd.errors import DataError
from effopd.report.sweep.captions import progress_note, sweep_captions
from effopd.report.sweep.points import sweep_points
from effopd.report.sweep.precision import held_sentence
from effopd.report.sweep.records import FIGURES_FOLDER, read_sweep
from effopd.report.sweep.tables import sweep_tables


def sweep_section(directory: Path) -> str:
    """Make HTML of a sweep's figures, with their captions and folded tables. All text from the records is escaped.

    Args:
        directory: Directory that was given to `effopd sweep` as `--out`.

    Raises:
        DataError: There is no finished sweep.
    """
    records = read_sweep(directory)
    points = sweep_points(records)
    tables = sweep_tables(records, points)
    note, held = progress_note(records), held_sentence(records)
    blocks = [f"<p><strong>{html.escape(note)}</strong></p>"] if note else []
    blocks += [f'<p class="intro">{html.escape(held)}</p>'] if held else []
    for caption in sweep_captions(records, points):
        path = directory / FIGURES_FOLDER / f"{caption.name}.svg"
        if not path.exists():
            raise DataError(f"{path} is missing. Run `effopd sweep` with the same --out again.")
        image = base64.b64encode(path.read_bytes()).decode()
        title = html.escape(caption.title)
        blocks.append(
            f'<figure class="printed"><h3>{title}</h3>\n'
            f'<img alt="{title}" src="data:image/svg+xml;base64,{image}">\n'
            f"<figcaption>{html.escape(caption.text)}</figcaption>\n"
            f"<details><summary>Table: {title}</summary>\n{tables[caption.name].html()}\n</details></figure>"
        )
    return "\n".join(blocks)
