"""Time, memory, bytes and error of `effopd analyze`, beside those of the full pipeline, on one core.

    python benchmarks/analysis.py              # about ten minutes on an idle core, 8 GB
    python benchmarks/analysis.py --quick      # a smoke test

Both measure a synthetic pair of bf16 checkpoints with the matrix shapes of Qwen2.5-1.5B (four layers) and a power-law
update. The full pipeline loads both models, computes the float32 SVD with vectors of every matrix, and saves the
factors: once with the matrices as stored, and once with each transposed to where LAPACK is faster. Every contestant
runs in a process of its own with one thread. `--device cuda` takes the shapes of Qwen3-8B and runs on the GPU.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from effopd.files import write_json, write_text
from effopd.updates import spectrum
from effopd.updates.jobs import measure_runs

Shapes = dict[str, tuple[int, int]]
METRICS = ("spectral_norm", "spectral_to_frobenius", "effective_rank", "top1pct_norm_ratio")


def layer_shapes(hidden: int, key_value: int, intermediate: int) -> Shapes:
    shapes = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qo"}
    shapes |= {f"self_attn.{name}_proj": (key_value, hidden) for name in "kv"}
    shapes |= {f"mlp.{name}_proj": (intermediate, hidden) for name in ("gate", "up")}
    return shapes | {"mlp.down_proj": (hidden, intermediate)}


MODELS = {
    "Qwen2.5-1.5B": layer_shapes(1536, 256, 8960),
    "Qwen3-8B": layer_shapes(4096, 1024, 12288),
    "quick": layer_shapes(96, 32, 240),
}


def write_pair(directory: Path, shapes: Shapes, num_layers: int, device: str) -> None:
    """Write a base of normal weights, and the same with an update.

    The update's singular values fall as i^-0.7, and its norm is a fiftieth of the weight's.
    """
    base: dict[str, torch.Tensor] = {}
    trained: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    for layer in range(num_layers):
        for module, (rows, columns) in shapes.items():
            weight = torch.randn(rows, columns, device=device) / math.sqrt(columns)
            k = min(rows, columns)
            sigma = torch.arange(1, k + 1, device=device) ** -0.7
            update = (torch.randn(rows, k, device=device) * sigma) @ torch.randn(k, columns, device=device)
            update *= 0.02 * weight.norm() / update.norm()
            name = f"model.layers.{layer}.{module}.weight"
            base[name] = weight.bfloat16().cpu()
            trained[name] = (base[name].to(device).float() + update).bfloat16().cpu()
    for name, tensors in (("base", base), ("trained", trained)):
        (directory / name).mkdir(parents=True)
        save_file(tensors, directory / name / "model.safetensors")
        write_json(directory / name / "config.json", {"model_type": "qwen2"})


def full_pipeline(directory: Path, out: Path, device: str, *, turn: bool) -> dict[str, Any]:
    """Load both models, compute the SVD with vectors in float32, and write the factors to disk."""
    base, trained = (load_file(directory / name / "model.safetensors") for name in ("base", "trained"))
    out.mkdir(parents=True)
    found = {}
    for name, weight in trained.items():
        update = weight.to(device).float() - base[name].to(device).float()
        matrix = update.mT if turn and update.shape[0] < update.shape[1] else update
        left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
        factors = {"left": left, "sigma": sigma, "right": right}
        save_file({key: value.cpu().contiguous() for key, value in factors.items()}, out / f"{name}.safetensors")
        found[name] = metrics_of(sigma.cpu().double().numpy(), max(update.shape))
    return found


def effopd_pipeline(directory: Path, out: Path, device: str, precision: str) -> dict[str, Any]:
    """Do what `effopd analyze --workers 1` does before it draws."""
    records = measure_runs(directory / "base", {"run": directory / "trained"}, out, device=device, precision=precision)
    return {record["parameter"]: [record[name] for name in METRICS] for record in records}


def metrics_of(sigma: np.ndarray, long: int) -> list[float]:
    """Compute the metrics from singular values by their definitions."""
    sigma = sigma[sigma > long * 2.2e-16 * sigma[0]]
    p, square = sigma / sigma.sum(), (sigma**2).sum()
    top = (sigma[: math.ceil(len(sigma) / 100)] ** 2).sum()
    values = (sigma[0], sigma[0] / math.sqrt(square), math.exp(-(p * np.log(p)).sum()), math.sqrt(top / square))
    return [float(value) for value in values]


def exact(directory: Path, device: str) -> dict[str, Any]:
    """Compute the same metrics from torch's float64 singular values."""
    base, trained = (load_file(directory / name / "model.safetensors") for name in ("base", "trained"))
    found = {}
    for name, weight in trained.items():
        update = weight.double() - base[name].double()
        tall = update if update.shape[0] >= update.shape[1] else update.mT
        sigma = torch.linalg.svdvals(tall.to(device)).cpu().numpy()
        found[name] = metrics_of(sigma, max(update.shape))
    return found


def products(directory: Path, device: str) -> dict[str, Any]:
    """Time the floor: only the float64 product of every update with itself."""
    base, trained = (load_file(directory / name / "model.safetensors") for name in ("base", "trained"))
    seconds = 0.0
    for name, weight in trained.items():
        update = (weight.double() - base[name].double()).to(device)
        tall = update if update.shape[0] >= update.shape[1] else update.mT
        started = now(device)
        tall.mT @ tall
        seconds += now(device) - started
    return {"seconds": seconds}


CONTESTANTS: dict[str, Callable[[Path, Path, str], dict[str, Any]]] = {
    "full pipeline": lambda directory, out, device: full_pipeline(directory, out, device, turn=False),
    "full pipeline, turned": lambda directory, out, device: full_pipeline(directory, out, device, turn=True),
    "effopd": lambda directory, out, device: effopd_pipeline(directory, out, device, "float64"),
    "effopd, float32": lambda directory, out, device: effopd_pipeline(directory, out, device, "float32"),
    "float64 SVD": lambda directory, out, device: exact(directory, device),
    "products": lambda directory, out, device: products(directory, device),
}


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_rss() -> int:
    """Peak memory of this program in bytes. getrusage would also count what the process was before exec."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def contest(name: str, directory: Path, out: Path, device: str) -> None:
    """Run one contestant, in a process of its own, and print what it took as JSON."""
    torch.set_num_threads(1 if device == "cpu" else 8)
    started, cpu = now(device), time.process_time()
    found = CONTESTANTS[name](directory, out, device)
    seconds = now(device) - started
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": time.process_time() - cpu,
                "peak_rss_bytes": peak_rss(),
                "bytes_written": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
                "found": found,
            }
        )
    )


def run(name: str, directory: Path, device: str) -> dict[str, Any]:
    out = directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--contestant", name, "--directory", str(directory), "--device", device]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    print(f"{name}: {result['seconds']:.1f} s, {result['peak_rss_bytes'] / 1e9:.2f} GB", flush=True)
    return result


def families(rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Make updates on which one of the routes loses digits."""
    torch.manual_seed(0)
    noise = torch.randn(rows, columns, dtype=torch.float64)

    def product(rank: int) -> torch.Tensor:
        return torch.randn(rows, rank).double() @ torch.randn(rank, columns).double()

    base = (0.02 * torch.randn(rows, columns)).bfloat16().double()
    spike = product(1)
    flat = torch.linalg.qr(noise if rows >= columns else noise.mT).Q
    return {
        "low rank plus noise": product(16) + 0.3 * noise,
        "exact rank 1": product(1),
        "exact rank 16": product(16),
        "all zero": torch.zeros(rows, columns, dtype=torch.float64),
        "one spike at 100x": noise + spike * (100 * (math.sqrt(rows) + math.sqrt(columns)) / spike.norm()),
        "flat": flat if rows >= columns else flat.mT,
        "LoRA merged in bf16": (base + 2e-4 * product(16)).bfloat16().double() - base,
    }


def family_errors(rows: int, columns: int) -> dict[str, dict[str, Any]]:
    """Find the worst relative error of the metrics on each family, and the route taken."""
    result: dict[str, dict[str, Any]] = {}
    for name, update in families(rows, columns).items():
        found = spectrum(update)
        if name == "all zero":
            exactly = (found.effective_rank, found.spectral_norm, found.spectral_to_frobenius) == (0, 0, None)
            result[name] = {"route": found.route, "error": 0.0 if exactly else math.inf}
            continue
        sigma = torch.linalg.svdvals(update if rows >= columns else update.mT).numpy()
        expected = metrics_of(sigma, max(rows, columns))
        errors = [abs(getattr(found, key) / value - 1) for key, value in zip(METRICS, expected, strict=True)]
        result[name] = {"route": found.route, "error": max(errors)}
        print(f"{name}: {result[name]}", flush=True)
    return result


def largest_matrix(directory: Path, shape: tuple[int, int]) -> dict[str, Any]:
    """Measure an MLP matrix of a 32B model, whose update takes more than 1 GB in float64."""
    name = "model.layers.0.mlp.up_proj.weight"
    torch.manual_seed(0)
    for model in ("base", "trained"):
        (directory / model).mkdir(parents=True)
        save_file({name: torch.randn(shape, dtype=torch.bfloat16)}, directory / model / "model.safetensors")
        write_json(directory / model / "config.json", {"model_type": "qwen2"})
    result = run("effopd", directory, "cpu")
    return {"shape": shape, "seconds": result["seconds"], "peak_rss_bytes": result["peak_rss_bytes"]}


def worst_error(found: dict[str, list[float]], expected: dict[str, list[float]]) -> float:
    pairs = ((value, truth) for name in expected for value, truth in zip(found[name], expected[name], strict=True))
    return max(abs(value / truth - 1) for value, truth in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure small matrices, and write nothing to results/")
    parser.add_argument("--device", default="cpu", help="device that computes, cpu or cuda; default: %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="number of layers; default: %(default)s")
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each contestant, whose median counts; default: %(default)s"
    )
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contest(options.contestant, options.directory, options.directory / "out", options.device)
        return
    model = "quick" if options.quick else "Qwen2.5-1.5B" if options.device == "cpu" else "Qwen3-8B"
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "pair"
        write_pair(directory, MODELS[model], options.layers, options.device)
        rounds = [{name: run(name, directory, options.device) for name in CONTESTANTS} for _ in range(options.repeats)]
        summary = summarise(model, options.layers, options.device, rounds)
        if options.device == "cpu":
            summary["families"] = family_errors(*((96, 240) if options.quick else (1536, 8960)))
            shape = (600, 200) if options.quick else (27648, 5120)
            summary["largest_matrix"] = largest_matrix(Path(temporary) / "large", shape)
    text = markdown(summary)
    print(text)
    if not options.quick:
        stem = "analysis" if options.device == "cpu" else "analysis_cuda"
        write_json(Path(__file__).parent / "results" / f"{stem}.json", summary)
        write_text(Path(__file__).parent / "results" / f"{stem}.md", text)


def summarise(model: str, layers: int, device: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    expected = rounds[0]["float64 SVD"]["found"]
    floor = float(np.median([each["products"]["found"]["seconds"] for each in rounds]))
    rows = {}
    for name in CONTESTANTS:
        if name in ("products", "float64 SVD"):
            continue
        seconds = [each[name]["seconds"] for each in rounds]
        rows[name] = {
            "seconds": float(np.median(seconds)),
            "full_pipeline_ratio": float(
                np.median([each["full pipeline"]["seconds"] / each[name]["seconds"] for each in rounds])
            ),
            "turned_pipeline_ratio": float(
                np.median([each["full pipeline, turned"]["seconds"] / each[name]["seconds"] for each in rounds])
            ),
            "seconds_over_floor": float(np.median(seconds)) / floor,
            "peak_rss_bytes": max(each[name]["peak_rss_bytes"] for each in rounds),
            "bytes_written": rounds[0][name]["bytes_written"],
            "worst_relative_error": worst_error(rounds[0][name]["found"], expected),
        }
    device_name = torch.cuda.get_device_name() if device != "cpu" else "cpu, one thread"
    return {
        "model": model,
        "layers": layers,
        "device": device_name,
        "repeats": len(rounds),
        "product_seconds": floor,
        "torch": torch.__version__,
        "contestants": rows,
    }


def markdown(summary: dict[str, Any]) -> str:
    lines = [
        f"# What measuring an update costs: {summary['model']}, {summary['layers']} layers, {summary['device']}",
        "",
        "| | seconds | full pipeline / this | turned / this | over the floor | peak RSS | written | worst error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in summary["contestants"].items():
        lines.append(
            f"| {name} | {row['seconds']:.1f} | {row['full_pipeline_ratio']:.1f}x "
            f"| {row['turned_pipeline_ratio']:.1f}x | {row['seconds_over_floor']:.1f}x "
            f"| {row['peak_rss_bytes'] / 1e9:.2f} GB | {row['bytes_written'] / 1e6:,.0f} MB "
            f"| {row['worst_relative_error']:.0e} |"
        )
    lines += [
        "",
        f"The numbers are medians of {summary['repeats']} runs. The contestants take turns, each in a process of its "
        "own. Reading and writing are included, starting Python is not. `turned` is the full pipeline with each matrix "
        "transposed to where LAPACK is faster. The floor is only the float64 product of every update with itself, "
        f"{summary['product_seconds']:.1f} s. "
        "The error is the largest relative error of four metrics over all matrices, against the float64 SVD.",
        "",
    ]
    if "families" in summary:
        lines += ["| update | route | worst error |", "|---|---|---|"]
        lines += [f"| {name} | {row['route']} | {row['error']:.0e} |" for name, row in summary["families"].items()]
        large = summary["largest_matrix"]
        lines += [
            "",
            f"A {large['shape'][0]} x {large['shape'][1]} matrix takes {large['seconds']:.0f} s and "
            f"{large['peak_rss_bytes'] / 1e9:.2f} GB of memory at its peak.",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
