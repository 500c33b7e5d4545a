"""The whole report of an analysis, written beside its records."""

import shutil
import tempfile
from pathlib import Path

from effopd.files import write_text
from effopd.report.analysis.figures import FIGURE_NAMES, draw_figures
from effopd.report.analysis.html import make_html
from effopd.report.analysis.records import read_analysis
from effopd.report.analysis.series import read_spectra
from effopd.report.analysis.tables import make_tables, tables_markdown
from effopd.report.drawing import SUFFIXES
from effopd.report.sweep import sweep_section


def write_report(out: Path, sweep: Path | None = None) -> list[Path]:
    """Write `tables.md`, `figures/` (SVG, PDF, PNG) and `report.html` beside the records that `effopd analyze` saved.

    All files are made in a temporary directory and then moved, so that a failure leaves an earlier report as it was.
    Figures of an earlier report are removed if there are no records for them any more. Other files stay. The same
    records make the same files, byte for byte.

    Args:
        out: Directory of the analysis (docs/analysis.md).
        sweep: Directory of a finished sweep, about which the report then has a section.

    Returns:
        The paths written, with `report.html` as the last one.

    Raises:
        DataError: The directory holds no analysis, one of its files cannot be read or lacks a column, or the sweep is
            not finished.
    """
    records = read_analysis(out)
    spectra = read_spectra(records)
    tables = make_tables(records)
    section = sweep_section(sweep) if sweep else ""
    for left in out.glob(".report-*.tmp"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".report-", suffix=".tmp", dir=out))
    try:
        write_text(work / "tables.md", tables_markdown(tables))
        figures = draw_figures(records, spectra, work / "figures")
        write_text(work / "report.html", make_html(records, tables, spectra, section))
        written = [out / path.relative_to(work) for path in (work / "tables.md", *figures, work / "report.html")]
        (out / "figures").mkdir(exist_ok=True)
        for path in written:
            (work / path.relative_to(out)).replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for name in FIGURE_NAMES:
        for stale in (out / "figures" / f"{name}{suffix}" for suffix in SUFFIXES):
            if stale not in written:
                stale.unlink(missing_ok=True)
    return written
