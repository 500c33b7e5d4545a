"""What one extrapolation candidate costs, beside a copy of the same bytes and the obvious way to make a candidate.

    python benchmarks/extrapolation_cost.py                                        # 0.5 billion parameters, CPU
    python benchmarks/extrapolation_cost.py --device cuda --shapes qwen3-4b        # on a GPU

Three ways are timed in turn, many times, in one process, so that a machine that gets slower does so for all of them:

    candidate   Snapshot.write_candidate sets the parameters to W_t + scale * (W_t - anchor), in one pass
    copy        sets the parameters to W_t, tensor by tensor, which is the least that any way can cost
    obvious     clones the state dict to the CPU, loops over its tensors, and loads it back

A second part times the callback on the embedded world at a step that is no trigger, beside the step itself.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from effopd.extrapolation.snapshot import Snapshot
from effopd.files import write_json, write_text

# hidden size, MLP size, layers, query heads x head size, key-value heads x head size, vocabulary, tied embeddings
SHAPES = {
    "tiny": (64, 256, 2, 64, 32, 1000, True),
    "qwen2.5-0.5b": (896, 4864, 24, 896, 128, 151_936, True),
    "qwen3-4b": (2560, 9728, 36, 4096, 1024, 151_936, True),
}
SCALE = 4.0


def make_model(shapes: str, dtype: torch.dtype, device: str) -> torch.nn.ParameterDict:
    """Make parameters with a real model's shapes and the spread of trained weights."""
    hidden, mlp, layers, query, key, vocabulary, tied = SHAPES[shapes]
    sizes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        sizes["lm_head.weight"] = (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        sizes |= {
            f"{prefix}.self_attn.q_proj.weight": (query, hidden),
            f"{prefix}.self_attn.k_proj.weight": (key, hidden),
            f"{prefix}.self_attn.v_proj.weight": (key, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, query),
            f"{prefix}.mlp.gate_proj.weight": (mlp, hidden),
            f"{prefix}.mlp.up_proj.weight": (mlp, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, mlp),
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
        }
    model = torch.nn.Module()
    for name, size in sizes.items():
        parameter = torch.nn.Parameter(0.02 * torch.randn(size, dtype=dtype, device=device))
        model.register_parameter(name.replace(".", "/"), parameter)
    return model  # type: ignore[return-value]


def obvious_way(model: torch.nn.Module, anchor: dict[str, torch.Tensor], current: dict[str, torch.Tensor]) -> None:
    """Extrapolate as one first writes it in a notebook. `anchor` and `current` are clones on the CPU."""
    candidate = {}
    for name in current:
        candidate[name] = current[name] + SCALE * (current[name] - anchor[name])
    model.load_state_dict(candidate)


def state_dict_on_cpu(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def measure(shapes: str, dtype: torch.dtype, device: str, snapshot_device: str | None, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = make_model(shapes, dtype, device)
    parameters = {name.replace("/", "."): parameter for name, parameter in model.named_parameters()}
    snapshot = Snapshot(parameters, snapshot_device)
    anchor = state_dict_on_cpu(model)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    snapshot.begin()
    ways: dict[str, Callable[[], None]] = {
        "candidate": lambda: snapshot.write_candidate(SCALE),
        "copy": snapshot.restore,
        "obvious": lambda: obvious_way(model, anchor, state_dict_on_cpu(model)),
    }
    if device == "cuda":
        twins = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        ways["device_copy"] = lambda: [p.detach().copy_(twins[n]) for n, p in parameters.items()] and None
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            snapshot.restore()
            synchronize(device)
            started = time.perf_counter()
            way()
            synchronize(device)
            if repeat:  # the first round touches every page for the first time
                seconds[name].append(time.perf_counter() - started)
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        f"{name}_to_copy": statistics.median([a / b for a, b in zip(seconds[name], seconds["copy"], strict=True)])
        for name in ways
        if name != "copy"
    }
    return {
        "shapes": shapes,
        "parameters": sum(parameter.numel() for parameter in parameters.values()),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "snapshot_device": snapshot_device or ("cpu, pinned" if device == "cuda" else "cpu"),
        "gigabytes": num_bytes / 1e9,
        "seconds": medians,
        "spread": {name: [min(values), max(values)] for name, values in seconds.items()},
        "copy_gigabytes_per_second": 2 * num_bytes / medians["copy"] / 1e9,
        **ratios,
        "obvious_to_candidate": medians["obvious"] / medians["candidate"],
    }


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step_overhead(steps: int) -> dict[str, float]:
    """Time `on_step_end` at steps without a trigger, and the training steps, on the embedded world, in seconds."""
    import tempfile

    from effopd.experiments.arguments import world_run_arguments
    from effopd.extrapolation import EffOPDCallback
    from effopd.training import build_trainer
    from effopd.world import world_reward

    with tempfile.TemporaryDirectory() as out:
        arguments, config = world_run_arguments(
            Path(out), acceleration="none", learning_rate=1e-5, seed=0, max_steps=steps, save_steps=None
        )
        trainer, metrics = build_trainer(arguments, config)
        callback = EffOPDCallback(trainer, world_reward, schedule=[steps + 1])
        own: list[float] = []
        original = callback.on_step_end

        def timed(*args: Any, **kwargs: Any) -> None:
            started = time.perf_counter()
            original(*args, **kwargs)
            own.append(time.perf_counter() - started)

        callback.on_step_end = timed  # type: ignore[method-assign]
        trainer.add_callback(callback)
        trainer.train()
        assert metrics.row is not None
        step = metrics.row["seconds_total"] / steps
    return {"step_seconds": step, "callback_seconds": statistics.median(own), "share": statistics.median(own) / step}


def table(results: list[dict[str, Any]], overhead: dict[str, float] | None) -> str:
    """Write the records as Markdown."""
    lines = [
        "| shapes | dtype | device | copies on | GB | candidate s | copy s | obvious s | candidate / copy "
        "| obvious / candidate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        s = r["seconds"]
        lines.append(
            f"| {r['shapes']} | {r['dtype']} | {r['device']} | {r['snapshot_device']} | {r['gigabytes']:.2f} "
            f"| {s['candidate']:.3f} | {s['copy']:.3f} | {s['obvious']:.3f} | {r['candidate_to_copy']:.2f} "
            f"| {r['obvious_to_candidate']:.1f} |"
        )
    if overhead:
        lines += [
            "",
            f"At a step without a trigger, the callback takes {1e6 * overhead['callback_seconds']:.1f} microseconds of "
            f"a {overhead['step_seconds']:.2f} s step of the embedded world ({overhead['share']:.5%}).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="qwen2.5-0.5b", help="model whose shapes are taken")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each way; default: %(default)s")
    parser.add_argument("--steps", type=int, default=12, help="steps of the embedded world; 0 leaves that part out")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/extrapolation_cost"), help="path without suffix"
    )
    options = parser.parse_args()
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        for snapshot_device in [None] if options.device == "cpu" else [None, "cuda"]:
            results.append(measure(options.shapes, dtype, options.device, snapshot_device, options.repeats))
            print(json.dumps(results[-1]), flush=True)
    overhead = step_overhead(options.steps) if options.steps else None
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    write_json(options.out.with_suffix(".json"), {"machine": machine, "results": results, "step_overhead": overhead})
    write_text(options.out.with_suffix(".md"), table(results, overhead))
    print(table(results, overhead))


if __name__ == "__main__":
    main()
