"""The report of a sweep: from the records that `effopd sweep` saved to points with error bars, tables and figures.

from effopd.report.sweep import read_sweep, sweep_captions, sweep_points, sweep_tables, write_sweep_report

records = read_sweep("runs/world-sweep")
points = sweep_points(records)              # a row for each point of each curve, which is what the figures draw
tables = sweep_tables(records, points)      # tables that can be written as Markdown and as HTML
captions = sweep_captions(records, points)
write_sweep_report("runs/world-sweep")      # figures/*.svg, .pdf and .png, and sweep.md
"""

from effopd.report.sweep.captions import SweepCaption, sweep_captions
from effopd.report.sweep.points import sweep_points
from effopd.report.sweep.precision import is_off
from effopd.report.sweep.records import SweepRecords, read_sweep
from effopd.report.sweep.section import sweep_section
from effopd.report.sweep.tables import sweep_tables
from effopd.report.sweep.write import write_sweep_report

__all__ = [
    "SweepCaption",
    "SweepRecords",
    "is_off",
    "read_sweep",
    "sweep_captions",
    "sweep_points",
    "sweep_section",
    "sweep_tables",
    "write_sweep_report",
]
