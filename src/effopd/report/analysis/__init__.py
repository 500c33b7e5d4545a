"""The report of an analysis: from the records that `effopd analyze` saved to tables, figures and one HTML file.

    from pathlib import Path
    from effopd.report.analysis import write_report

    write_report(Path("analysis"))    # tables.md, figures/*.svg, .pdf and .png, report.html

`records` reads what was saved, `series` groups it for drawing, and `tables`, `figures` and `maps` make what is printed.
`captions`, `payload` and `html` make the interactive report, whose script and style lie in `assets`.
"""

from effopd.report.analysis.write import write_report

__all__ = ["write_report"]
