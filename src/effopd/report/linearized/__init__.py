"""The report of a linearisation: from `linearized.json` to figures and one HTML page, which holds them.

from effopd.report.linearized import write_linearized_report

write_linearized_report(Path("linearized"))    # linearized.html, figures/*.svg, .pdf and .png
"""

from effopd.report.linearized.page import write_linearized_report

__all__ = ["write_linearized_report"]
