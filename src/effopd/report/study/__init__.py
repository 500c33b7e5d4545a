"""The report of a study: one HTML file, verdicts first, and the same in Markdown. It reads `claims.json` alone."""

from effopd.report.study.markdown import evidence
from effopd.report.study.page import write_study_report

__all__ = ["evidence", "write_study_report"]
