"""Records in which every claim holds, and records in which every claim is false: what goes in is known."""

import math
import random
from typing import Any

import pandas as pd

from effopd.study.records import Records
from effopd.study.spec import ROLES

SEEDS = (200, 201, 202, 203)
TARGET = 0.8
# Attention of four layers, then their MLPs: of each, windows are worth more and more in this order.
PARAMETERS = {
    **{f"model.layers.{layer}.self_attn.q_proj.weight": "attention" for layer in range(4)},
    **{f"model.layers.{layer}.mlp.up_proj.weight": "mlp" for layer in (0, 3, 1, 2)},
}
SIZES = {name: (8, 16 if kind == "attention" else 4) for name, kind in PARAMETERS.items()}  # rows and columns
# Steps to the target. Where claims hold, EffOPD needs a quarter of vanilla's, and its settings do not matter.
HOLDS = {"opd": 400, "exopd": 300, "effopd": 100, "line_search": 80}
FAILS = {"opd": 100, "exopd": 90, "effopd": 400, "line_search": 300}


def made_up(holds: bool, *, world: str = "made-up", seeds: tuple[int, ...] = SEEDS, **changes: Any) -> Records:
    """Records of one world, with a little difference between seeds."""
    keys = [(role, seed) for role in ROLES for seed in seeds]
    fields: dict[str, Any] = {
        "planned": frozenset(keys),
        "target": TARGET,
        "updates": _updates(holds, seeds),
        "alignments": _alignments(holds, seeds),
        "embeddings": _embeddings(holds, seeds),
        "sweep": _sweep(holds, seeds),
        "metrics": {
            (role, seed): to_the_end(
                metrics(
                    _steps(role, holds) + round(2000 * _noise(role, seed)), _final(role, holds) + _noise(seed, role)
                )
            )
            for role, seed in keys
        },
        "finished": {
            key: {"alphaopd": {"steps": [250, 500], "accuracy": (0.85 if holds else 0.95) + _noise(key[1])}}
            for key in keys
            if key[0] == "alphaopd"
        },
        "linearized": {seed: _linearized(holds, seed) for seed in seeds},
    }
    return Records(world, **(fields | changes))


def made_up_worlds(holds: bool, number: int = 8) -> list[Records]:
    """Worlds of which b is more and more concentrated, with the outcomes that claims about all worlds expect, or not.

    In each seed, two neighbours are the other way round, so that the correlations of seeds differ.
    """
    worlds = []
    for index in range(number):
        records = made_up(True, world=f"world-{index}")
        for seed, view in records.linearized.items():
            place = _swapped(index, seed % 4, number) if holds else number - 1 - _swapped(index, seed % 4, number)
            view["unbiased"]["driving_share"] = [0.1 + 0.8 * place / number] * 20
        steps = 100 + 50 * (number - index)  # of EffOPD: fewer where b is concentrated
        changed = {key: metrics(steps, 0.9) for key in records.metrics if key[0] == "effopd"}
        records.metrics = {**records.metrics, **changed}
        records.updates["effective_rank"] = 100.0 - index
        ranks = [name for name in records.alignments if name.startswith("subspace")]
        records.alignments[ranks] *= 0.5 + 0.05 * index
        worlds.append(records)
    return worlds


def _swapped(index: int, seed: int, number: int) -> int:
    pair = 2 * (seed % (number // 2))
    return {pair: pair + 1, pair + 1: pair}.get(index, index) if seed else index


def metrics(steps: int, final: float, *, reached: bool = True) -> list[dict[str, Any]]:
    """Three rows: before the target, at it, and at the end."""
    rows = []
    for step, accuracy in ((steps - 1, 0.1), (steps, TARGET if reached else 0.2), (steps + 1, final)):
        counts = dict.fromkeys(("rollouts", "generated_tokens", "teacher_tokens", "seconds_total"), 10 * step)
        counts["optimizer_steps"] = step
        rows.append({"step": step, "accuracy": accuracy, "validation_rollouts": 0, "accepted_scale": None, **counts})
    return rows


def to_the_end(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a last row, which is after as many steps for all."""
    return [*rows, rows[-1] | {"step": 1000}]


def _noise(*place: object) -> float:
    """A small number that is always the same for the same place."""
    return random.Random(" ".join(map(str, place))).uniform(-0.001, 0.001)


def _steps(role: str, holds: bool) -> int:
    known = HOLDS if holds else FAILS
    for name in ("line_search", "exopd", "effopd", "opd"):
        if role.startswith(name):
            steps = known[name]
            if role.startswith(("effopd-validation", "effopd-easy", "effopd-medium", "effopd-hard")) and not holds:
                return 4 * steps
            return steps // 4 if role == "effopd-reset" and not holds else steps
    return 50


def _final(role: str, holds: bool) -> float:
    return 0.9 if role == "effopd" or holds else 0.97


def _linearized(holds: bool, seed: int) -> dict[str, Any]:
    """The local quadratic view: b grows along `PARAMETERS`, but for as many neighbours as make seeds differ."""
    of_elements = {name: 1.0 + index for index, name in enumerate(PARAMETERS)}
    names = list(of_elements)
    for one, other in list(zip(names[::2], names[1::2], strict=True))[: seed % 4]:
        of_elements[one], of_elements[other] = of_elements[other], of_elements[one]
    norms = {name: value * math.prod(SIZES[name]) ** 0.5 for name, value in of_elements.items()}
    share = (0.9 if holds else 0.2) + _noise(seed)
    return {
        "unbiased": {"squared_norm": 1.0, "driving_share": [share] * 20},
        "driving_norm_by_parameter": norms,
        "trace_opd": {"completions_for_unit_noise": (5 if holds else 50) + 100 * _noise(seed), "squared_mean": 1.0},
        "trace_rl": {"completions_for_unit_noise": 20.0, "squared_mean": 1.0, "value": 20.0},
        "num_contexts": 100,
        "cosine_opd_rl": (0.8 if holds else -0.3) + _noise(seed),
    }


def _updates(holds: bool, seeds: tuple[int, ...]) -> pd.DataFrame:
    rows = []
    for role in ("opd", "rl", "dapo", "ppo"):
        best = (role == "opd") == holds
        apart = 0 if holds else {"dapo": 20, "ppo": 40}.get(role, 0)  # RL algorithms differ in rank
        for seed in seeds:
            for checkpoint in range(10):
                for index, (parameter, kind) in enumerate(PARAMETERS.items()):
                    rows.append(
                        {
                            **{"role": role, "seed": seed, "checkpoint": checkpoint, "step": 10 * (checkpoint + 1)},
                            **{
                                "parameter": parameter,
                                "kind": kind,
                                "rows": SIZES[parameter][0],
                                "cols": SIZES[parameter][1],
                                "frobenius_norm": (1.0 + (index if holds else 8 - index))
                                * math.prod(SIZES[parameter]) ** 0.5,
                            },
                            "spectral_to_frobenius": (0.5 if best else 0.4) + _noise(seed, role),
                            "effective_rank": (50 if best else 60) + apart + 100 * _noise(seed, role),
                            "top1pct_norm_ratio": (0.9 if best else 0.8) + _noise(seed, role),
                            "trajectory_evr": (0.97 if holds else 0.7) + _noise(seed),
                        }
                    )
    return pd.DataFrame(rows)


def _alignments(holds: bool, seeds: tuple[int, ...]) -> pd.DataFrame:
    rows = []
    for role in ("opd", "rl"):
        power = 0.3 if (role == "opd") == holds else 0.8
        for seed in seeds:
            for checkpoint in range(10):
                share = (checkpoint + 1) / 10
                for parameter in PARAMETERS:
                    ranks = {f"subspace_{k}": share**power + _noise(seed, role) for k in range(1, 21)}
                    step = 10 * (checkpoint + 1)
                    rows.append({"role": role, "seed": seed, "step": step, "parameter": parameter, **ranks})
    return pd.DataFrame(rows)


def _embeddings(holds: bool, seeds: tuple[int, ...]) -> pd.DataFrame:
    rows = []
    for role in ("opd", "rl"):
        for seed in seeds:
            mean = (0.98 if (role == "opd") == holds else 0.95) + _noise(seed, role)
            place = {"role": role, "seed": seed, "parameter": "model.embed_tokens.weight"}
            rows += [{**place, "checkpoint": 0, "mean": 0.5}, {**place, "checkpoint": 1, "mean": mean}]
    return pd.DataFrame(rows)


def _sweep(holds: bool, seeds: tuple[int, ...]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for role in ("opd", "rl", "dapo", "ppo"):
            for sweep, kind, value, mean, norm, layer_norm in _points(role, holds):
                moved = mean + (0 if kind == "base" or norm == 0 else _noise(seed, role, sweep, kind, value))
                place = {"role": role, "seed": seed, "sweep": sweep, "kind": kind, "value": value}
                layer_norm += _noise(seed, role, kind, value)
                step = 10 if sweep == "norm_matching" else 100
                rows.append({**place, "mean": moved, "step": step, "update_norm": norm, "layer_norm": layer_norm})
    return pd.DataFrame(rows)


def _points(role: str, holds: bool) -> list[tuple[str, str, float, float, float, float]]:
    """The points of all sweeps: sweep, kind, value, accuracy, norm of the update, norm of the layer."""
    opd = role == "opd"
    norm = 1.0 if opd == holds else 2.0
    norm = 0.5 if role == "ppo" and not holds else norm  # the RL algorithms differ
    points = [("update_norm", "scale", alpha, 0.5 + 0.4 * alpha, alpha * norm, 0.0) for alpha in (0.0, 0.5, 1.0)]
    points += [
        ("update_norm", "checkpoint", step, 0.5 + 0.004 * step, 0.01 * step * norm, 0.0) for step in (10, 50, 100)
    ]
    replaced = 0.9 if holds else 0.8
    points += [("embedding_replacement", "trained", 0.0, 0.9, 1.0, 0.0)]
    points += [("embedding_replacement", "replace-embeddings", 0.0, replaced, 1.0, 0.0)]
    mlp = (0.52, 0.7, 0.71, 0.53) if holds else (0.61, 0.52, 0.51, 0.6)
    points += [("sliding_window", "base", 0.0, 0.5, 0.0, 0.0)]
    strong = "mlp" if holds else "attention"
    for centre in range(4):
        for kind, mean in (
            ("mlp", mlp[centre]),
            ("attention", (0.5 + 0.004 * centre) if holds else (0.75 - 0.004 * centre)),
        ):
            # OPD's norm is where accuracy is sensitive if the claims hold, and RL's where it is not.
            sensitive = kind == strong
            layer_norm = 2.0 if (sensitive == opd) == holds else 1.0
            points.append(("sliding_window", kind, float(centre), mean, 1.0, layer_norm))
    top = {1.0: 0.85, 10.0: 0.9, 100.0: 0.9} if opd == holds else {1.0: 0.7, 10.0: 0.6, 100.0: 0.9}
    points += [("top_bottom", "top", percent, mean, 1.0, 0.0) for percent, mean in top.items()]
    points += [("top_bottom", "base", 0.0, 0.5, 0.0, 0.0)]
    points += [
        ("top_bottom", "bottom", 90.0, 0.5 if holds else 0.88, 0.4, 0.0),
        ("top_bottom", "bottom", 100.0, 0.9, 1.0, 0.0),
    ]
    betas = (0.85, 0.86, 0.85) if holds else (0.3, 0.55, 0.2)
    return points + [
        ("norm_matching", "beta", beta, mean, 1.0, 0.0) for beta, mean in zip((0.75, 1.0, 1.25), betas, strict=True)
    ]
