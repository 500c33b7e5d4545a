"""The section of the HTML report about a sweep: its figures as images, their captions and tables."""

import base64
import html
from pathlib import Path

from effopd.errors import DataError
from effopd.report.sweep.figures import FIGURES
from effopd.report.sweep.points import read_sweep, sweep_captions, sweep_points, sweep_tables


def sweep_section(directory: Path) -> str:
    """Figures of a sweep with captions and folded tables, as HTML; everything from the records is escaped.

    Args:
        directory: `--out` of `effopd sweep`.

    Raises:
        DataError: There is no finished sweep.
    """
    records = read_sweep(directory)
    points = sweep_points(records)
    tables = sweep_tables(records, points)
    blocks = []
    for caption in sweep_captions(records, points):
        path = directory / FIGURES / f"{caption.name}.svg"
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
