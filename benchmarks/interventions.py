"""What the parts of a sweep's cell cost, each beside the obvious way: truncating, intervening and evaluating.

    python benchmarks/interventions.py            # one layer of Qwen2.5-1.5B, and a model of four of its layers, CPU
    python benchmarks/interventions.py --quick    # a smoke test in seconds

Each part times its ways in turn, many times, in one process, so that a machine that gets slower does so for all ways.

    keep the top 10 % of every matrix of a layer
        ours        keep_top(dW, ...), with eigenvectors of the short side's Gram matrix, in float64
        obvious     torch.linalg.svd(dW, full_matrices=False) and U_k diag(S_k) V_k, in float32

    go from the trained model in memory to an intervened one, and back
        live        enter and leave the block of LiveModel.intervened
        disk        write the model with intervene, and load it with from_pretrained
        reload      load a model that was written before, and copy every parameter, because loading only maps its pages;
                    they are in the page cache

    sample and grade a completion to each problem of the embedded world, from its base and its teacher
        batched     evaluate in batches of 256, graded, with intervals
        one_by_one  call model.generate on one prompt at a time, and the world's reward
"""

import argparse
import gc
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from effopd.evaluation import evaluate, load_task
from effopd.files import write_json, write_text
from effopd.interventions import Intervention, LiveModel, Scale, TopComponents, Window, decompose, intervene, keep_top
from effopd.interventions.truncate import top_count
from effopd.world import model_path
from effopd.world.reward import world_reward

# hidden size, MLP size, query heads, key-value heads, vocabulary
SHAPES = {"tiny": (128, 512, 4, 2, 1000), "qwen2.5-1.5b": (1536, 8960, 12, 2, 151_936)}
PERCENT = 10.0
INTERVENTIONS: dict[str, Intervention] = {
    "scale 0.5": Scale(0.5),
    "window of one layer's MLP": Window("mlp", 1, 0),
    "top 10 %": TopComponents(PERCENT),
}


def layer_updates(shapes: str) -> dict[str, torch.Tensor]:
    """Make updates of a layer's matrices, which are differences of bf16 numbers: low rank plus noise."""
    hidden, mlp, heads, kv_heads, _ = SHAPES[shapes]
    kv = hidden // heads * kv_heads
    sizes = {"q": (hidden, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, hidden)}
    sizes |= {"gate": (mlp, hidden), "up": (mlp, hidden), "down": (hidden, mlp)}
    updates = {}
    for name, (rows, columns) in sizes.items():
        base = (0.02 * torch.randn(rows, columns)).bfloat16()
        change = 1e-5 * torch.randn(rows, 16) @ torch.randn(16, columns) + 1e-5 * torch.randn(rows, columns)
        updates[name] = (base.float() + 10 * change).bfloat16().double() - base.double()
    return updates


def ours(update: torch.Tensor) -> torch.Tensor:
    decomposition = decompose(update)
    return keep_top(update, top_count(PERCENT, decomposition.rank), decomposition)


def obvious(update: torch.Tensor) -> torch.Tensor:
    left, sigma, right = torch.linalg.svd(update.float(), full_matrices=False)
    count = top_count(PERCENT, len(sigma))
    return left[:, :count] @ torch.diag(sigma[:count]) @ right[:count]


def truncation(shapes: str, repeats: int) -> dict[str, Any]:
    updates = layer_updates(shapes)
    ways = {"ours": ours, "obvious": obvious}
    seconds = {name: {way: [] for way in ways} for name in updates}
    difference = 0.0
    for _ in range(repeats):
        for name, update in updates.items():
            results = {}
            for way, function in ways.items():
                started = time.perf_counter()
                results[way] = function(update)
                seconds[name][way].append(time.perf_counter() - started)
            gap = torch.linalg.vector_norm(results["ours"] - results["obvious"])
            difference = max(difference, float(gap / torch.linalg.vector_norm(results["ours"])))
    rows = {
        name: {"shape": list(updates[name].shape), **{way: statistics.median(values) for way, values in ways_.items()}}
        for name, ways_ in seconds.items()
    }
    totals = {way: sum(row[way] for row in rows.values()) for way in ways}
    return {
        "matrices": rows,
        "seconds": totals,
        "obvious_to_ours": totals["obvious"] / totals["ours"],
        "largest_relative_difference": difference,
    }


def write_models(shapes: str, layers: int, directory: Path) -> tuple[Path, Path]:
    """Write a random base, and the same with small noise, in bf16."""
    hidden, mlp, heads, kv_heads, vocabulary = SHAPES[shapes]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    model.save_pretrained(directory / "trained")
    return directory / "base", directory / "trained"


def memory_against_disk(shapes: str, layers: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        base, trained = write_models(shapes, layers, Path(folder))
        model = AutoModelForCausalLM.from_pretrained(trained, dtype="auto")
        live = LiveModel(model, base)
        with live.intervened(TopComponents(PERCENT)):  # decomposes each matrix, as the first truncation of a sweep does
            pass
        results = {
            name: three_ways(live, base, trained, intervention, Path(folder) / "out", repeats)
            for name, intervention in INTERVENTIONS.items()
        }
        parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"layers": layers, "parameters": parameters, "interventions": results}


def three_ways(
    live: LiveModel, base: Path, trained: Path, intervention: Intervention, out: Path, repeats: int
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"live": [], "disk": [], "reload": []}
    for _ in range(repeats):
        timed(seconds["live"], lambda: enter_and_leave(live, intervention))
        timed(seconds["disk"], lambda: write_and_load(base, trained, intervention, out))
        timed(seconds["reload"], lambda: load_and_read(out))
        shutil.rmtree(out)
        gc.collect()
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {"seconds": medians, **{f"{way}_to_live": medians[way] / medians["live"] for way in ("disk", "reload")}}


def timed(seconds: list[float], way: Callable[[], object]) -> None:
    started = time.perf_counter()
    way()
    seconds.append(time.perf_counter() - started)


def enter_and_leave(live: LiveModel, intervention: Intervention) -> None:
    with live.intervened(intervention):
        pass


def write_and_load(base: Path, trained: Path, intervention: Intervention, out: Path) -> None:
    intervene(base, trained, [intervention], out, dtype="stored")  # as the model in memory, which is in bf16
    load_and_read(out)


def load_and_read(directory: Path) -> None:
    for parameter in AutoModelForCausalLM.from_pretrained(directory, dtype="auto").parameters():
        parameter.detach().clone()


def throughput(problems: int, repeats: int) -> dict[str, Any]:
    """Measure completions per second, and the accuracy that each way finds."""
    task = load_task("world", limit=problems)
    results = {}
    for name in ("world:base", "world:teacher"):
        model = AutoModelForCausalLM.from_pretrained(model_path(name)).eval()
        tokenizer = AutoTokenizer.from_pretrained(model_path(name))
        seconds: dict[str, list[float]] = {way.__name__: [] for way in (batched, one_by_one)}
        accuracy: dict[str, float] = {}
        for _ in range(repeats):
            for way in (batched, one_by_one):
                started = time.perf_counter()
                accuracy[way.__name__] = way(model, tokenizer, task)
                seconds[way.__name__].append(time.perf_counter() - started)
        rates = {way: problems / statistics.median(values) for way, values in seconds.items()}
        results[name] = {"completions_per_second": rates, "accuracy": accuracy}
        results[name]["batched_to_one_by_one"] = rates["batched"] / rates["one_by_one"]
    return {"problems": problems, "models": results}


def batched(model: Any, tokenizer: Any, task: Any) -> float:
    return evaluate(model, tokenizer, task).mean


def one_by_one(model: Any, tokenizer: Any, task: Any) -> float:
    torch.manual_seed(0)
    rewards = []
    for prompt, answer in zip(task.prompts, task.answers, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=task.max_new_tokens)
        text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        rewards += world_reward([text], [answer], prompts=[prompt])
    return statistics.mean(rewards)


def table(record: dict[str, Any]) -> str:
    """Write the record as Markdown."""
    truncated, moved, evaluated = (record[part] for part in ("truncation", "memory_against_disk", "throughput"))
    lines = [
        f"Keeping the top {PERCENT:g} % of each matrix of one layer of {record['shapes']} with "
        f"{record['machine']['threads']} thread(s): over the layer, obvious / ours = "
        f"{truncated['obvious_to_ours']:.1f}. The results differ by at most "
        f"{truncated['largest_relative_difference']:.1g} of their norm (ours is in float64, the obvious way in "
        "float32).",
        "",
        "| matrix | shape | ours s | obvious s | obvious / ours |",
        "|---|---|---|---|---|",
    ]
    for name, row in truncated["matrices"].items():
        shape = " x ".join(map(str, row["shape"]))
        ratio = row["obvious"] / row["ours"]
        lines.append(f"| {name} | {shape} | {row['ours']:.2f} | {row['obvious']:.2f} | {ratio:.1f} |")
    lines += [
        "",
        f"A model of {moved['layers']} such layers, with {moved['parameters'] / 1e6:.0f} million parameters in bf16, "
        "goes from trained to intervened and back. The live model has its decompositions from an earlier percentage.",
        "",
        "| intervention | live s | disk s | reload s | disk / live | reload / live |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in moved["interventions"].items():
        s = row["seconds"]
        lines.append(
            f"| {name} | {s['live']:.3f} | {s['disk']:.2f} | {s['reload']:.2f} | {row['disk_to_live']:.1f} "
            f"| {row['reload_to_live']:.1f} |"
        )
    lines += [
        "",
        f"Each of {evaluated['problems']} problems of the embedded world gets one completion, sampled and graded.",
        "",
        "| model | batched, per s | one by one, per s | batched / one by one | accuracy, batched | one by one |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in evaluated["models"].items():
        rates, accuracy = row["completions_per_second"], row["accuracy"]
        lines.append(
            f"| {name} | {rates['batched']:.0f} | {rates['one_by_one']:.1f} | {row['batched_to_one_by_one']:.0f} "
            f"| {accuracy['batched']:.3f} | {accuracy['one_by_one']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="qwen2.5-1.5b", help="model whose shapes are taken")
    parser.add_argument("--layers", type=int, default=4, help="layers of the model that goes to the disk and back")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each way; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="take tiny shapes, and write only if --out is given")
    parser.add_argument("--out", type=Path, help="results without suffix; default: benchmarks/results/interventions")
    options = parser.parse_args()
    torch.manual_seed(0)
    shapes = "tiny" if options.quick else options.shapes
    record = {
        "machine": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
        },
        "shapes": shapes,
        "truncation": truncation(shapes, options.repeats),
        "memory_against_disk": memory_against_disk(shapes, options.layers, options.repeats),
        "throughput": throughput(10 if options.quick else 500, options.repeats),
    }
    print(json.dumps(record), table(record), sep="\n")
    out = options.out or (None if options.quick else Path("benchmarks/results/interventions"))
    if out:
        write_json(out.with_suffix(".json"), record)
        write_text(out.with_suffix(".md"), table(record))


if __name__ == "__main__":
    main()
