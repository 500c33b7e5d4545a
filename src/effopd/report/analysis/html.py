"""The interactive report: one HTML file with its data, script and style inside, which fetches nothing."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from effopd.report.analysis.captions import Caption, make_captions
from effopd.report.analysis.payload import make_payload, script_json
from effopd.report.analysis.records import AnalysisRecords, last_checkpoints
from effopd.report.analysis.series import SampledSpectrum
from effopd.report.table import Table

_SCRIPTS = ("core.js", "lines.js", "maps.js", "embeddings.js", "table.js")
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_MAX_FACTS = 60
_MAX_JSON = 100_000

# Of each section: its key, its heading, its introduction, and its parts in order. A part is the key of a figure, or the
# key of a table after how it is shown: open (`table:`), hidden behind its title (`folded:`), or untitled (`bare:`).
# The parts `sweep`, `all` and `provenance` have functions of their own.
_SECTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("overview", "Overview", "", ("table:spectral", "folded:spectral_by_kind")),
    (
        "distance",
        "How far the weights moved",
        "The update ΔW is a checkpoint minus the base. Its norm says how far training moved the weights, and its "
        "spread over layers and modules says where.",
        ("norms", "folded:norms", "layers", "folded:modules", "table:stored"),
    ),
    (
        "concentration",
        "How concentrated the update is",
        "An update that uses few directions has a large spectral norm for its Frobenius norm, and a small effective "
        "rank.",
        ("concentration", "heat", "spectra", "tail"),
    ),
    (
        "direction",
        "When its directions were found",
        "Each checkpoint's update is compared with that of the run's last one.",
        ("alignment", "ranks", "folded:alignment", "early", "trajectory", "paths"),
    ),
    (
        "embeddings",
        "Embedding shift",
        "The direction of each token's embedding is compared before and after training.",
        ("quantiles", "histogram", "shift", "folded:embeddings"),
    ),
    (
        "sweep",
        "What parts of the update are worth",
        "Models that have only a part of the update were evaluated with `effopd sweep`.",
        ("sweep",),
    ),
    ("matrices", "All matrices", "", ("all",)),
    ("unknown", "Ignored or not known", "", ("bare:unknown",)),
    ("provenance", "What was analysed", "", ("provenance",)),
)


def make_html(
    records: AnalysisRecords, tables: Mapping[str, Table], spectra: Sequence[SampledSpectrum], sweep: str = ""
) -> str:
    """Make the report as one HTML document.

    Every text that comes from checkpoints is escaped, or stands in a block of JSON that is not run as a script. A
    content security policy allows the two scripts by their hashes, and no request at all.

    Args:
        records: The analysis.
        tables: Its tables by key, as `make_tables` returns them.
        spectra: Its singular values, as `read_spectra` returns them.
        sweep: HTML of the section about a sweep, as `sweep_section` returns it; empty for no such section.
    """
    script = '"use strict";\n(() => {\n' + "".join(_asset(name) for name in _SCRIPTS) + "})();\n"
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("</script", "<\\/script")
    payload = make_payload(records, list(spectra))
    captions = make_captions(records, list(spectra))
    sections = [section for section in _SECTIONS if sweep or section[0] != "sweep"]
    values = {
        "policy": _policy(plotly, script),
        "title": html.escape("Weight updates: " + ", ".join(records.runs)),
        "style": _asset("report.css"),
        "contents": "\n".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, *_ in sections),
        "lead": _lead(records),
        "facts": _facts(records),
        "sections": _sections(sections, records, tables, captions, payload["aggregated"], sweep),
        "records": script_json(payload),
        "plotly": plotly,
        "script": script,
    }
    # This is one pass over the template alone, so a place that occurs in an inserted text is not filled.
    return _PLACE.sub(lambda place: values[place[1]], _asset("report.html"))


def _asset(name: str) -> str:
    return (files("effopd.report.analysis") / "assets" / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _lead(records: AnalysisRecords) -> str:
    base = records.analysis.get("base")
    of_base = f" against the base <code>{html.escape(base)}</code>" if isinstance(base, str) else ""
    names = [f"<strong>{html.escape(run)}</strong>" for run in records.runs]
    runs = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"{'Runs' if len(names) > 1 else 'Run'} {runs}{of_base}."


def _facts(records: AnalysisRecords) -> str:
    rows = records.updates
    layers = len(rows.dropna(subset="layer").drop_duplicates(["tower", "layer"]))
    facts = (
        ("runs" if len(records.runs) != 1 else "run", len(records.runs)),
        ("checkpoints in all", rows.groupby("run")["checkpoint"].nunique().sum()),
        ("layers" if layers != 1 else "layer", layers),
        ("attention and MLP matrices", records.matrices["parameter"].nunique()),
        ("parameters of any kind", rows["parameter"].nunique()),
    )
    return "\n".join(f"<div><dt>{label}</dt><dd>{int(value):,}</dd></div>" for label, value in facts)


def _sections(
    chosen: Sequence[tuple[str, str, str, tuple[str, ...]]],
    records: AnalysisRecords,
    tables: Mapping[str, Table],
    captions: Mapping[str, Caption],
    aggregated: int | None,
    sweep: str,
) -> str:
    sections = []
    numbers = {key: number for number, key in enumerate((k for k, c in captions.items() if not c.absent), start=1)}
    for key, title, introduction, parts in chosen:
        blocks = [f'<h2 id="{key}-title">{title}</h2>']
        if introduction:
            blocks.append(f'<p class="intro">{introduction}</p>')
        for part in parts:
            how, _, name = part.rpartition(":")
            if how:
                blocks.append(_table(tables[name], how))
            elif part == "sweep":
                blocks.append(sweep)
            elif part == "all":
                blocks.append(_all_matrices(aggregated))
            elif part == "provenance":
                blocks.append(_provenance(records))
            else:
                blocks.append(_figure(captions[part], numbers.get(part)))
        sections.append(f'<section id="{key}" aria-labelledby="{key}-title">\n' + "\n".join(blocks) + "\n</section>")
    return "\n".join(sections)


def _figure(caption: Caption, number: int | None) -> str:
    title = html.escape(caption.title)
    if number is None:
        return f'<div class="absent"><h3>{title}</h3><p class="notice">{html.escape(caption.absent)}</p></div>'
    return (
        f'<figure data-figure="{caption.key}" aria-labelledby="figure-{caption.key}">\n'
        f'<div class="heading"><span>Figure {number}</span><h3 id="figure-{caption.key}">{title}</h3></div>\n'
        '<div class="controls"></div><div class="keys"></div><div class="plots"></div>\n'
        f"<figcaption>{html.escape(caption.text)}</figcaption>\n</figure>"
    )


def _table(table: Table, how: str) -> str:
    title = html.escape(table.title)
    if how == "folded" and not table.rows:
        return ""  # the figure beside it says why there is nothing to show
    if how == "folded":
        return f"<details><summary>Table: {title}</summary>\n{table.html()}\n</details>"
    if how == "bare":
        return f'<div class="wrap">{table.html()}</div>'
    return f"<h3>{title}</h3>\n{table.html()}"


def _all_matrices(aggregated: int | None) -> str:
    what = (
        f"The {aggregated:,} rows of single matrices are in <code>updates.parquet</code>. The table shows their means "
        "over the matrices of each layer and module, and the number of those matrices."
        if aggregated
        else "There is one row for each run, checkpoint and matrix, as in <code>updates.parquet</code>."
    )
    return (
        f'<p class="intro">{what} Choose the head of a column to sort by it, and choose it again to reverse the '
        "order.</p>\n"
        '<div data-table="matrices"><div class="controls" role="search" aria-label="Filters of the table"></div>'
        '<div class="scroll" role="region" tabindex="0" aria-label="All matrices"></div>'
        '<div class="pages"></div></div>'
    )


def _provenance(records: AnalysisRecords) -> str:
    facts = [line for key, value in records.analysis.items() if key != "runs" for line in _flat(value, key)]
    for run, rows in records.updates.groupby("run", sort=False):
        count, steps = rows["checkpoint"].nunique(), rows["step"].dropna()
        between = f", steps {int(steps.min()):,} to {int(steps.max()):,}" if len(steps) else ", steps not known"
        facts.append((f"run {run}", f"{count} checkpoint{'s' if count != 1 else ''}{between}"))
    last = last_checkpoints(records.updates)
    routes = last.loc[last["route"].notna(), "route"].value_counts()
    counts = ", ".join(f"{route} ({count:,})" for route, count in routes.items())
    facts.append(("routes at the last checkpoints", counts))
    items = "\n".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts[:_MAX_FACTS])
    whole = json.dumps(records.analysis, indent=2, ensure_ascii=False)
    whole = (
        whole if len(whole) <= _MAX_JSON else whole[:_MAX_JSON] + "\n... cut short here; the rest is in analysis.json"
    )
    return (
        f'<dl class="plain">\n{items}\n</dl>\n'
        f'<details><summary>analysis.json</summary><pre tabindex="0">{html.escape(whole)}</pre></details>'
    )


def _flat(value: Any, path: str) -> list[tuple[str, str]]:
    """Flatten JSON into pairs of a path and a text. A list stays one text."""
    if isinstance(value, dict) and value:
        return [line for key, inner in value.items() for line in _flat(inner, f"{path}.{key}")]
    return [(path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
