"""The verdicts of a study as Markdown: `evidence.md` of a study, and from committed records docs/evidence.md."""

from collections.abc import Mapping
from typing import Any

from effopd.report.study.boundary import ABOUT, TITLE, boundary_tables, not_looked_for
from effopd.report.study.words import METHOD, design, estimate, p_value, summary, verdict
from effopd.report.table import Table


def evidence(content: Mapping[str, Any]) -> str:
    """Write the verdicts in GitHub's Markdown, verdict table first.

    Args:
        content: Contents of `claims.json`.
    """
    claims = content["claims"]
    measured = [claim for claim in claims if claim["verdict"] != "not measured"]
    missing = [claim for claim in claims if claim["verdict"] == "not measured"]
    table = Table(
        key="verdicts",
        title="Verdicts",
        note=summary(content),
        header=("verdict", "claim", "source", "predicted", "estimate", "p (Holm)", "runs"),
        rows=tuple(
            (
                verdict(claim),
                claim["statement"],
                claim["source"],
                claim["predicted"],
                estimate(claim),
                p_value(claim["p_holm"]),
                str(claim["num_runs"]),
            )
            for claim in measured
        ),
        text_columns=4,
    )
    parts = [table.markdown(), "## How verdicts are reached", "", METHOD, "", design(content), ""]
    parts += ["## What was measured", ""]
    for claim in measured:
        worlds = "; ".join(
            f"{world}: {estimate(claim, of)} ({len(of['values'])} seeds; before Holm {of['verdict']})"
            for world, of in claim["worlds"].items()
        )
        notes = "".join(f" {note.rstrip('.')}." for note in claim["notes"])
        parts.append(f"- **{claim['name']}**: {claim['statistic'].rstrip('.')}. {worlds}.{notes}")
    if content.get("boundaries"):  # earlier versions did not look for them
        parts += ["", f"## {TITLE}", "", ABOUT, ""]
        parts += [table.markdown().replace("## ", "### ", 1) for table in boundary_tables(content)]
        parts += [f"- Not looked for. {line}" for line in not_looked_for(content)]
    if missing:
        parts += ["", "## Not measured", ""]
        parts += [f"- {claim['statement']} {'; '.join(claim['notes'])}." for claim in missing]
    if content["failed"]:
        parts += ["", "## Failed", "", *(f"- {line}" for line in content["failed"])]
    return "\n".join(parts) + "\n"
