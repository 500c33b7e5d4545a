"""A made-up directory of decision 0006, to schema: spectra are power laws, the rest follows from them or is drawn."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from effopd.parameters import locate
from effopd.report.analysis.payload import make_payload, script_json
from effopd.report.analysis.records import OPTIONAL_FILES, RANKS, UPDATE_COLUMNS, read_analysis
from effopd.report.analysis.series import read_spectra
from effopd.report.analysis.tables import make_tables

DENSE = {
    "self_attn.q_proj": (96, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 96),
    "mlp.gate_proj": (128, 64),
    "mlp.up_proj": (128, 64),
    "mlp.down_proj": (64, 128),
}
FUSED = {"attn.qkv_proj": (128, 64), "attn.c_proj": (64, 64), "mlp.fc1": (128, 64), "mlp.fc2": (64, 128)}
HOSTILE = "</script><img src=x onerror=alert(1)>"


@dataclass
class Fabricated:
    """What to make up.

    Attributes:
        num_experts: None for a dense model; else the MLP matrices are stacks of this many, `down_proj[3]`.
        zero: Runs whose updates are all zeros.
        steps_of: Steps of runs that differ from `steps`.
    """

    runs: Sequence[str] = ("opd", "rl")
    steps: Sequence[int | None] = (10, 20, 30, 40, 50)
    layers: int = 4
    modules: dict[str, tuple[int, int]] = field(default_factory=lambda: dict(DENSE))
    num_experts: int | None = None
    zero: Sequence[str] = ()
    steps_of: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    tokens: int = 60
    token_text: str = "tok"
    embeddings: bool = True
    seed: int = 0

    def of(self, run: str) -> Sequence[int | None]:
        return self.steps_of.get(run, self.steps)


def fabricate(out: Path, plan: Fabricated | None = None) -> Path:
    """Write the records, without tables, figures or report."""
    plan = plan or Fabricated()
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(plan.seed)
    names = _parameters(plan)
    rows, alignments, trajectories = [], [], []
    for number, run in enumerate(plan.runs):
        for checkpoint, step in enumerate(plan.of(run)):
            spectra = {}
            for name, (size, cols) in names.items():
                row, spectrum = _row(plan, rng, number, checkpoint, name, size, cols)
                rows.append({"run": run, "checkpoint": checkpoint, "step": step, **row})
                if spectrum is not None:
                    spectra[name] = spectrum
                    alignments.append(_ranks(plan, run, name, checkpoint, step, len(spectrum)))
                    trajectories.append(_point(rng, plan, run, name, checkpoint, step))
            folder = out / "spectra" / run
            folder.mkdir(parents=True, exist_ok=True)
            save_file(spectra, folder / f"checkpoint-{checkpoint}.safetensors")
    _write(out / "updates.parquet", rows, UPDATE_COLUMNS)
    _write(out / "alignments.parquet", alignments, OPTIONAL_FILES["alignments"])
    if max(len(plan.of(run)) for run in plan.runs) > 1:
        _write(out / "trajectories.parquet", trajectories, OPTIONAL_FILES["trajectories"])
    if plan.embeddings:
        _embeddings(out, plan, rng)
    analysis = {
        "base": "models/base",
        "runs": [{"name": run, "checkpoints": [{"step": step} for step in plan.of(run)]} for run in plan.runs],
        "settings": {"subspace_size": 20, "seed": plan.seed},
        "versions": {"effopd": "0.1.0"},
    }
    (out / "analysis.json").write_text(json.dumps(analysis))
    return out


def _parameters(plan: Fabricated) -> dict[str, tuple[int, int]]:
    names = {"model.embed_tokens.weight": (plan.tokens, 64)}
    for layer in range(plan.layers):
        for module, shape in plan.modules.items():
            name = f"model.layers.{layer}.{module}.weight"
            if plan.num_experts is None or not module.startswith("mlp"):
                names[name] = shape
            else:
                module = module.replace("mlp.", "mlp.experts.")
                names |= {f"model.layers.{layer}.{module}[{i}]": shape for i in range(plan.num_experts)}
        names[f"model.layers.{layer}.input_layernorm.weight"] = (64, 1)
    return names | {"model.norm.weight": (64, 1), "model.rotary_table": (8, 8)}


def _row(
    plan: Fabricated, rng: np.random.Generator, number: int, checkpoint: int, name: str, size: int, cols: int
) -> tuple[dict[str, Any], np.ndarray | None]:
    layer, module, kind = locate(name)
    count = len(plan.of(plan.runs[number]))
    progress = (checkpoint + 1) / count
    zero = plan.runs[number] in plan.zero
    strength = 0.0 if zero else (0.4 + 0.3 * number) * progress**0.6 * (1 + 0.3 * np.sin((layer or 0) / 3))
    strength *= {"norm": 0.001, "embedding": 0.2}.get(kind, 1.0) * rng.uniform(0.9, 1.1)
    row: dict[str, Any] = {
        **dict.fromkeys(UPDATE_COLUMNS[3:]),
        **{"parameter": name, "layer": layer, "module": module, "kind": kind, "rows": size, "cols": cols},
        **{"frobenius_norm": strength, "base_norm": float(np.sqrt(size * cols)), "route": "zero" if zero else "norm"},
        "changed_fraction": 0.0 if zero else rng.uniform(0.2, 0.9),
        **{"dtype": "bfloat16", "rounding_bound": 2.0**-9 * float(np.sqrt(size * cols))},
        "displacement_norm": strength / count,
        "displacement_cosine": None if zero or checkpoint == 0 else rng.uniform(0.1, 0.6),
    }
    if kind not in ("attention", "mlp") or cols == 1:
        return row, None
    spectrum = np.arange(1, min(size, cols) + 1, dtype=np.float64) ** -rng.uniform(0.5 + 0.3 * number, 1 + 0.3 * number)
    spectrum *= strength / np.linalg.norm(spectrum)
    share = spectrum / spectrum.sum() if strength else None
    last = checkpoint == count - 1
    aligned = 1.0 if last else float(np.clip(0.3 + 0.65 * progress + rng.normal(0, 0.04), 0, 1))
    row |= {
        "spectral_norm": spectrum[0],
        "spectral_to_frobenius": spectrum[0] / strength if strength else None,
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())) if share is not None else 0.0,
        "top1pct_norm_ratio": spectrum[0] / strength if strength else None,
        "rank": len(spectrum) if strength else 0,
        "relative_error": 1e-9,
        "route": "gram" if strength else "zero",
        "vector_alignment": None if zero else 0.8 * aligned if not last else 1.0,
        "first_vector_cosine": None if zero else aligned,
        "subspace_alignment": None if zero else aligned,
        "chance_alignment": float(np.sqrt(min(20, cols) / size)) if size > 20 else 1.0,
        "trajectory_evr": 0.85 if count >= 4 and not zero else None,
    }
    return row, spectrum


def _ranks(plan: Fabricated, run: str, name: str, checkpoint: int, step: int | None, size: int) -> dict[str, Any]:
    """Alignments that fall with the rank, and that are known for as many ranks as the matrix has."""
    progress = (checkpoint + 1) / len(plan.of(run))
    row: dict[str, Any] = {"run": run, "checkpoint": checkpoint, "step": step, "parameter": name}
    for rank in RANKS:
        known = rank <= size and run not in plan.zero
        row[f"vector_{rank}"] = progress ** (1 + rank / 10) if known else None
        row[f"subspace_{rank}"] = progress**0.5 if known else None
    return row


def _point(
    rng: np.random.Generator, plan: Fabricated, run: str, name: str, checkpoint: int, step: int | None
) -> dict[str, Any]:
    angle = 1.8 * checkpoint / max(len(plan.of(run)) - 1, 1)
    picture = len(plan.of(run)) >= 5
    return {
        **{"run": run, "parameter": name, "checkpoint": checkpoint, "step": step},
        **{"pc1": -np.cos(angle) + rng.normal(0, 0.03), "pc2": np.sin(angle) + rng.normal(0, 0.03)},
        **{f"{plane}{i}": rng.normal(0, 30) if picture else None for plane in ("tsne", "authors_tsne") for i in (1, 2)},
    }


def _embeddings(out: Path, plan: Fabricated, rng: np.random.Generator) -> None:
    summary, tokens = [], []
    for number, run in enumerate(plan.runs):
        name = "model.embed_tokens.weight"
        cosine = 1 - rng.gamma(2.0, 0.01 * (1 + number), plan.tokens)
        for checkpoint, step in enumerate(plan.of(run)):
            values = 1 - (1 - cosine) * (checkpoint + 1) / len(plan.of(run))
            low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
            row = {"run": run, "checkpoint": checkpoint, "step": step, "parameter": name, "num_tokens": plan.tokens}
            row |= {"num_undefined": 0, "mean": values.mean(), "p05": low, "median": median, "p95": high}
            summary.append(row)
        base = np.random.default_rng(plan.seed + 1).normal(0, 1, (plan.tokens, 2))
        trained = base + rng.normal(0, 0.1 * (1 + number), base.shape)
        for index in range(plan.tokens):
            row = {"run": run, "parameter": name, "token_id": index, "token": f"{plan.token_text}{index}"}
            shown = index % 2 == 0 or plan.tokens < 300
            for key, point in (("base", base[index]), ("trained", trained[index])):
                row |= {f"{key}_x": point[0] if shown else None, f"{key}_y": point[1] if shown else None}
                row |= {f"tsne_{key}_x": -point[1] if shown else None, f"tsne_{key}_y": point[0] if shown else None}
            row |= {"relative_shift": 0.1 * (1 + number)}
            tokens.append(row | {"cosine": cosine[index] if index else None})
    _write(out / "embeddings.parquet", summary, OPTIONAL_FILES["embeddings"])
    _write(out / "embedding_tokens.parquet", tokens, OPTIONAL_FILES["embedding_tokens"])


def _write(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    frame = pd.DataFrame(list(rows), columns=list(columns))
    for column in {"step", "layer", "rank"} & set(columns):
        frame[column] = frame[column].astype("Int64")
    frame.to_parquet(path, index=False)


def tables_of(out: Path) -> dict:
    return make_tables(read_analysis(out))


def payload_of(out: Path) -> dict:
    records = read_analysis(out)
    return json.loads(script_json(make_payload(records, read_spectra(records))))
