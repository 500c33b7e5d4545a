"""The page of a linearisation: its numbers as tables and its figures as images, in one HTML file without scripts."""

import base64
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from effopd.files import read_json, write_text
from effopd.report.drawing import save
from effopd.report.linearized.figures import Results, draw_lines, draw_modules, draw_path, draw_spectrum, line_name
from effopd.report.table import NONE, Table

PAGE, RESULT, FIGURES = "linearized.html", "linearized.json", "figures"
_STYLE = """
body { font: 1rem/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d2024; }
h1, h2 { font-family: Charter, Georgia, serif; line-height: 1.2; } h2 { margin-top: 2.6rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption, .scroll + p { color: #5d636b; font-size: 0.9rem; }
table { border-collapse: collapse; font-size: 0.9rem; } .scroll { overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #e3e0d8; text-align: left; } .number { text-align: right; }
"""
_FIGURES: dict[str, tuple[str, str, Callable[[Results], Figure]]] = {
    "spectrum": (
        "Curvature, and where the gradient lies in it",
        "Left: the largest eigenvalues of the Gauss-Newton matrix A. A residual bounds the error of its eigenvalue. "
        "Right: the share of |b|², where b is the negative gradient, in each eigenvector and in the first ones "
        "together. The last eigenvectors are not converged; only their sum is right. Bars and the solid line hold the "
        "noise of the completions that A is made of; the dashed line is from fresh ones and without it, with its "
        "standard error.",
        draw_spectrum,
    ),
    "modules": (
        "Where the gradient is",
        "Share of |b|² in each kind of module and in each layer; what is in no layer has no bar on the right.",
        draw_modules,
    ),
    "path": (
        "Gradient descent, predicted and real",
        "Steps of half the inverse of the largest eigenvalue, on these contexts. The tail is what lies outside the "
        "first eigenvectors; its bound holds for the predicted path.",
        draw_path,
    ),
    "lines": (
        "The quadratic model against the true loss",
        "Mean reverse KL to the teacher on these contexts, at multiples of a displacement from the base. The best "
        "gradient step is the one at which the quadratic model is lowest along b.",
        draw_lines,
    ),
}


def write_linearized_report(directory: Path) -> Path:
    """Draw the figures of a linearisation and write its page.

    Args:
        directory: Directory that was given to `effopd linearize` as `--out`.

    Returns:
        The path of the page, `linearized.html`, beside which are `figures/NAME.svg`, `.pdf` and `.png`.

    Raises:
        DataError: The numbers cannot be read.
    """
    results = read_json(directory / RESULT)
    blocks = [f"<h1>Local quadratic view</h1>\n<p>{_lead(results)}</p>", _gradients(results).html()]
    for name, (title, text, draw) in _FIGURES.items():
        svg = save(draw(results), directory / FIGURES / name)[0]
        image = base64.b64encode(svg.read_bytes()).decode()
        blocks.append(
            f'<h2>{html.escape(title)}</h2>\n<figure><img alt="{html.escape(title)}" '
            f'src="data:image/svg+xml;base64,{image}">\n<figcaption>{html.escape(text)}</figcaption></figure>'
        )
    blocks.append(_lines(results).html())
    if results["updates"]:
        blocks += ["<h2>What training did</h2>", _updates(results).html()]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    write_text(
        directory / PAGE,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Local quadratic view</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(blocks)
        + "\n</body></html>\n",
    )
    return directory / PAGE


def _lead(results: Results) -> str:
    student, teacher, task = (html.escape(str(results[name])) for name in ("student", "teacher", "task"))
    error = _number(results["trace_opd"]["relative_standard_error"])
    return (
        f"Student <code>{student}</code>, teacher <code>{teacher}</code>, prompts <code>{task}</code>: "
        f"{results['num_contexts']:,} completions with {results['num_tokens']:,} tokens, temperature "
        f"{results['temperature']:g}. Loss {results['loss']:.4g} nats per token; |b| = "
        f"{results['driving_norm']:.4g}, with a relative standard error of {error}. Eigenvectors that hold nine "
        f"tenths of |b|²: {results['rank_of_90_percent'] or NONE} from the largest eigenvalue on, "
        f"{results['fewest_for_90_percent'] or NONE} if those that hold most of it come first."
        f"{_without_noise(results.get('unbiased'))} The quadratic model is lowest along b after a step of size "
        f"{results['step_size_along_driving']:.4g}."
    )


def _without_noise(unbiased: Results | None) -> str:
    if unbiased is None:
        return ""
    fresh = f"{unbiased['num_contexts']:,} fresh completions"
    if unbiased["squared_norm"] <= 0:
        return f" {fresh} do not tell b from 0: take these numbers for noise."
    rank = unbiased["rank_of_90_percent"] or f"more than {len(unbiased['driving_share'])}"
    return f" Without the noise of completions, as {fresh} tell, they are {rank} from the largest eigenvalue on."


def _gradients(results: Results) -> Table:
    names = {
        "trace_opd": "distillation, exact KL",
        "trace_opd_sampled": "distillation, sampled",
        "trace_rl": "reinforcement learning",
    }
    rows = []
    for key, label in names.items():
        if (found := results[key]) is not None:
            low, high = found["interval"]
            cells = (found["value"], low, high, found["squared_mean"], found["completions_for_unit_noise"])
            rows.append((label, *map(_number, cells)))
    cosine, halves = results["cosine_opd_rl"], results["cosine_halves"] or {}
    note = (
        "A completion's gradient is scaled so that its mean is the gradient per token. The interval is a 95 % "
        "bootstrap interval over completions. Unit noise is the number of completions whose mean gradient has a "
        "standard error as large as itself; there is none where the mean gradient cannot be told from 0. "
    )
    if results["trace_rl"] is not None:
        note += (
            f"Mean reward {_number(results['mean_reward'])}. Cosine between the mean gradients of distillation and RL: "
            f"{_number(cosine)}; between two halves of the completions: {_number(halves.get('opd'))} for distillation, "
            f"{_number(halves.get('rl'))} for RL."
        )
    header = ("gradient", "trace of its covariance", "from", "to", "squared mean", "completions for unit noise")
    return Table("gradients", "Gradients of single completions", note, header, tuple(rows))


def _lines(results: Results) -> Table:
    rows = tuple(
        (line_name(name), _number(line["true"][0]), _number(line["best_scale"]), _number(line["best_true_scale"]))
        for name, line in results["lines"].items()
    )
    note = "The true loss is lowest at the last number among the multiples that were tried, up to 8."
    header = ("direction", "loss at the base", "best multiple, quadratic", "best multiple, true")
    return Table("lines", "Best multiples", note, header, rows)


def _updates(results: Results) -> Table:
    rows = tuple(
        (
            name,
            *(_number(found[key]) for key in ("norm", "cosine_to_driving", "best_cosine")),
            f"{found['best_num_steps']:,}",
            *(_number(share) for share in found["share_in_first"].values()),
            _number(found["rank_correlation"]),
        )
        for name, found in results["updates"].items()
    )
    first = next(iter(results["updates"].values()))["share_in_first"]
    header = ("update", "norm", "cosine to b", "best cosine to the path", "at step")
    note = (
        "The path is the predicted one of gradient descent, at any of 1, 2, 4, ... steps. Shares are of the squared "
        "norm, in the first eigenvectors. The rank correlation is Spearman's, between the norms of b and of the "
        "update over all parameters."
    )
    shares = tuple(f"share in {rank}" for rank in first)
    return Table("updates", "Updates", note, (*header, *shares, "rank correlation"), rows)


def _number(value: Any) -> str:
    return NONE if value is None else f"{value:.4g}"
