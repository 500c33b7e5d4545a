"""Completions of the same problems by several models, side by side: the page of `effopd show`.

from effopd.report.completions import write_page

write_page(["runs/sweep", ("teacher", "runs/teacher-evaluation")], "page.html")

The directories are those of `effopd sweep` and `effopd evaluate`. A sweep gives the models of the worked example of
arXiv 2605.11739: base, early checkpoint, early checkpoint with the final norm, and final model.
"""

from effopd.report.completions.columns import Column, read_columns
from effopd.report.completions.page import write_page

__all__ = ["Column", "read_columns", "write_page"]
