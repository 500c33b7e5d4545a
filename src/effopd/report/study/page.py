"""The page of a study: one HTML file without scripts, the verdict table first, then every claim with its figure."""

import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from effopd.files import write_text
from effopd.report.study.boundary import ABOUT, TITLE, boundary_tables, not_looked_for
from effopd.report.study.figure import claim_figure
from effopd.report.study.markdown import evidence
from effopd.report.study.words import METHOD, design, estimate, p_value, summary, verdict

PAGE, EVIDENCE = "study.html", "evidence.md"


def write_study_report(content: Mapping[str, Any], out: Path) -> Path:
    """Write `study.html` and `evidence.md` into the directory of a study.

    Args:
        content: Contents of `claims.json`.
        out: Directory of the study.

    Returns:
        The path of the page.
    """
    write_text(out / EVIDENCE, evidence(content))
    write_text(out / PAGE, make_page(content))
    return out / PAGE


def make_page(content: Mapping[str, Any]) -> str:
    """Make the HTML of the page."""
    claims = content["claims"]
    measured = [claim for claim in claims if claim["verdict"] != "not measured"]
    failed = "".join(f"<li>{escape(line)}</li>" for line in content["failed"])
    parts = {
        "style": _asset("page.css"),
        "design": escape(design(content)),
        "summary": escape(summary(content)),
        "method": escape(METHOD),
        "failed": f"<h2>Failed</h2><ul>{failed}</ul>" if failed else "",
        "rows": "\n".join(map(_row, measured)) or "<tr><td colspan=6>No claim was measured.</td></tr>",
        "claims": "\n".join(_sections(measured)),
        "boundaries": _boundaries(content) if content.get("boundaries") else "",
        "missing": "\n".join(map(_missing, (claim for claim in claims if claim["verdict"] == "not measured"))),
        "versions": escape(", ".join(f"{name} {version}" for name, version in content["versions"].items())),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _row(claim: Mapping[str, Any]) -> str:
    cells = (claim["predicted"], estimate(claim), p_value(claim["p_holm"]), str(claim["num_runs"]))
    numbers = "".join(f"<td class=number>{escape(cell)}</td>" for cell in cells)
    link = f'<a href="#{claim["name"]}">{escape(claim["statement"])}</a>'
    return f"<tr><td>{_badge(claim)}</td><td>{link}</td>{numbers}</tr>"


def _sections(measured: list[Mapping[str, Any]]) -> list[str]:
    """Write the sections of the measured claims, under the headings of their themes."""
    parts, theme = [], None
    for claim in measured:
        if claim["theme"] != theme:
            theme = claim["theme"]
            parts.append(f"<h2>{escape(theme)}</h2>")
        notes = "".join(f"<li>{escape(note)}</li>" for note in claim["notes"])
        worlds = "; ".join(f"{world}: {of['verdict']}" for world, of in claim["worlds"].items())
        figure = claim_figure(claim) if claim["worlds"] else ""
        parts.append(
            f'<section id="{claim["name"]}">\n<h3>{_badge(claim)} {escape(claim["statement"])}</h3>\n'
            f"<p class=quiet>{escape(claim['source'])}. Measured: {escape(claim['statistic'])}.</p>\n{figure}\n"
            f"<p>Predicted <b>{escape(claim['predicted'])}</b>; found <b>{escape(estimate(claim))}</b>, "
            f"p {escape(_equal(p_value(claim['p'])))}, after Holm {escape(p_value(claim['p_holm']))}; "
            f"{claim['num_runs']} runs. By world, before Holm: {escape(worlds) or 'none'}.</p>\n"
            f"{f'<ul>{notes}</ul>' if notes else ''}</section>"
        )
    return parts


def _boundaries(content: Mapping[str, Any]) -> str:
    """Write the section about where the contrast begins."""
    parts = [f"<h2>{TITLE}</h2>", f"<p class=quiet>{escape(ABOUT)}</p>"]
    parts += [f"<h3>{escape(table.title)}</h3>\n{table.html()}" for table in boundary_tables(content)]
    if lines := not_looked_for(content):
        parts.append(f"<p>Not looked for:</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")
    return "\n".join(parts)


def _missing(claim: Mapping[str, Any]) -> str:
    why = escape("; ".join(claim["notes"]))
    return f"<li>{escape(claim['statement'])} <span class=quiet>{escape(claim['source'])}. {why}.</span></li>"


def _badge(claim: Mapping[str, Any]) -> str:
    return f'<b class="badge {claim["verdict"].replace(" ", "-")}">{escape(verdict(claim))}</b>'


def _equal(number: str) -> str:
    return number if number.startswith("<") else f"= {number}"


def _asset(name: str) -> str:
    return (files("effopd") / "report" / "study" / "assets" / name).read_text(encoding="utf-8")
