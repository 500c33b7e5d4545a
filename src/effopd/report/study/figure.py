"""A claim's small figure: the value of every seed, world by world, with intervals, against the threshold, as SVG."""

import html
import math
from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from effopd.report.study.words import estimate
from effopd.report.table import number

WIDTH, LEFT, RIGHT, ROW = 760, 150, 20, 30


def claim_figure(claim: Mapping[str, Any]) -> str:
    """Draw a measured claim: a row for each world, and one for all of them if there are several.

    Args:
        claim: Entry of `claims.json` with at least one value.

    Returns:
        An SVG element. Ratios are on a logarithmic axis.
    """
    rows = [(world, of) for world, of in claim["worlds"].items()]
    if len(rows) > 1:
        rows.append(("all worlds", {**claim, "values": {}}))
    limits = [claim["threshold"], *([-claim["threshold"]] if claim["direction"] == "within" else [])]
    place, ticks = _axis(claim, rows, limits)
    height = ROW * len(rows) + 34
    parts = [_holds(claim, place, height - 28)]
    parts += [
        f'<line class="threshold" x1="{place(x):.1f}" x2="{place(x):.1f}" y1="0" y2="{height - 28}"/>' for x in limits
    ]
    for tick in ticks:
        parts.append(f'<text class="tick" x="{place(tick):.1f}" y="{height - 8}">{tick:.6g}</text>')
    for index, (name, of) in enumerate(rows):
        y = ROW * index + ROW / 2 + 2
        parts.append(f'<text class="world" x="{LEFT - 14}" y="{y + 4:.1f}">{html.escape(name)}</text>')
        if of["low"] is not None:
            ends = (place(of["low"]), place(of["high"]))
            parts.append(f'<line class="interval" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}"/>')
        for seed, value in of["values"].items():
            title = f"seed {seed}: {number(value)}"
            parts.append(
                f'<circle class="seed" cx="{place(value):.1f}" cy="{y}" r="3.5"><title>{title}</title></circle>'
            )
        x = place(of["estimate"])
        parts.append(f'<path class="mean" d="M{x:.1f} {y - 7}v14"><title>mean: {number(of["estimate"])}</title></path>')
    label = html.escape(f"{claim['statistic']}; {estimate(claim)}, predicted {claim['predicted']}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axis(claim: Mapping[str, Any], rows: list[tuple[str, Any]], limits: list[float]) -> tuple[Any, list[float]]:
    """Choose the axis: a function from numbers to pixels, and ticks. Intervals wider than the values are cut off."""
    forward = math.log if claim["is_ratio"] else float
    inner = [forward(x) for x in [*limits, *(v for _, of in rows for v in [*of["values"].values(), of["estimate"]])]]
    spread = max(inner) - min(inner) or max(abs(inner[0]), 1.0) / 10
    ends = [forward(of[end]) for _, of in rows for end in ("low", "high") if of[end] is not None]
    low = max(min([*inner, *ends]), min(inner) - 1.5 * spread) - 0.06 * spread
    high = min(max([*inner, *ends]), max(inner) + 1.5 * spread) + 0.06 * spread

    def place(value: float) -> float:
        share = (forward(value) - low) / (high - low)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    back = math.exp if claim["is_ratio"] else float
    first, last = back(low), back(high)
    return place, [tick for tick in MaxNLocator(5).tick_values(first, last) if first <= tick <= last]


def _holds(claim: Mapping[str, Any], place: Any, height: int) -> str:
    """Shade the side of the threshold on which the claim holds."""
    limit, edges = place(claim["threshold"]), (LEFT, WIDTH - RIGHT)
    if claim["direction"] == "within":
        edges = (place(-claim["threshold"]), limit)
    elif claim["direction"] == "above":
        edges = (limit, edges[1])
    else:
        edges = (edges[0], limit)
    return f'<rect class="holds" x="{edges[0]:.1f}" y="0" width="{max(edges[1] - edges[0], 0):.1f}" height="{height}"/>'
