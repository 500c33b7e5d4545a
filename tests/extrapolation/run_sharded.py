"""The callback on a model that FSDP2 shards over the processes there are, or on a whole one.

Weights move by a script instead of an optimizer and scores are given, so that any difference is the callback's. Each
score is preceded by a forward pass: without care, FSDP2 would go on using the root's weights gathered by it.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny import tiny_dataset, tiny_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torchrun import leave

from effopd.extrapolation import EffOPDCallback, Score, Validator
from effopd.extrapolation import callback as callback_module
from effopd.extrapolation.saved_state import load_state, save_state
from effopd.extrapolation.snapshot import Snapshot

SCORES = {1: [0.1, 0.3, 0.2], 2: [0.5, 0.4], 4: [0.1, 0.2, 0.3, 0.1]}
GUIDES = ("all", "utility:1", "alignment:0")


class ScriptedTrainer:
    """What the callback needs of a trainer."""

    def __init__(self, out: Path, model: torch.nn.Module) -> None:
        self.model = self.model_wrapped = model
        self.accelerator = Accelerator(cpu=True)
        self.train_dataset = tiny_dataset()
        main = self.accelerator.is_main_process
        self.args = SimpleNamespace(output_dir=str(out), seed=0, should_save=main, optim="adamw_torch")
        self.state = SimpleNamespace(global_step=0, max_steps=4, is_world_process_zero=main)
        self.optimizer = SimpleNamespace(state={})
        self._tokenizer = SimpleNamespace(pad_token_id=0)
        self.callback_handler = SimpleNamespace(callbacks=[])
        self._metrics: Any = {"train": defaultdict(list)}
        self._generate_single_turn = self._load_optimizer_and_scheduler = lambda *args: None
        self._get_train_sampler = self._init_training_state = lambda *args: None

    def move(self) -> None:
        """Stand in for an optimizer step, the same for every sharding."""
        self.state.global_step += 1
        for index, parameter in enumerate(self.model.parameters()):
            generator = torch.Generator().manual_seed(100 * self.state.global_step + index)
            delta = 1e-2 * torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                delta = distribute_tensor(delta, parameter.device_mesh, parameter.placements)
            with torch.no_grad():
                parameter.add_(delta)


class Untried(Validator):
    """Is never asked: the scores are given."""

    def scores(self, trainer: Any, rollouts: Any) -> torch.Tensor:
        raise NotImplementedError


def run(out: Path, guide: str = "all") -> dict[str, Any]:
    """Train four steps, being interrupted and resumed after the third; return what was seen."""
    out.mkdir(parents=True, exist_ok=True)
    model = sharded(tiny_model(0))
    trainer = ScriptedTrainer(out, model)
    logits: list[list[float]] = []
    scores: dict[int, list[float]] = {step: list(values) for step, values in SCORES.items()}

    def validate(*args: Any) -> Score:
        with torch.no_grad():
            logits.append(model(torch.tensor([[3, 12, 5]])).logits[0, -1, :4].tolist())
        return Score(scores[trainer.state.global_step].pop(0))

    callback_module.validate = validate
    callback = EffOPDCallback(trainer, validator=Untried(), allow_untested_trainer=True, guide=guide)
    callback.on_train_begin(trainer.args, trainer.state, None)  # type: ignore[arg-type]
    for step in range(1, 5):
        trainer.move()
        callback.on_step_end(trainer.args, trainer.state, None)  # type: ignore[arg-type]
        if step == 3:
            callback.on_save(trainer.args, trainer.state, None)  # type: ignore[arg-type]
            trainer.accelerator.wait_for_everyone()  # a resumed run is another launch
            callback = EffOPDCallback(trainer, validator=Untried(), allow_untested_trainer=True, guide=guide)
            callback._remember_checkpoint(str(out / "checkpoint-3"))
            callback.on_train_begin(trainer.args, trainer.state, None)  # type: ignore[arg-type]
    full = {
        name: (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().clone()
        for name, parameter in model.named_parameters()
    }
    trainer.accelerator.wait_for_everyone()
    rows = [json.loads(line) for line in (out / "extrapolations.jsonl").read_text().splitlines()]
    return {"weights": full, "logits": logits, "rows": rows}


def resave(source: Path, out: Path) -> None:
    """Load the anchor that another number of processes has saved, and save it by the processes there are."""
    snapshot, accelerator = Snapshot(dict(sharded(tiny_model(2)).named_parameters())), Accelerator(cpu=True)
    config = json.loads((source / "effopd" / "state.json").read_text())["config"]
    state = load_state(source, snapshot, config, accelerator)
    save_state(out, snapshot, state, accelerator, accelerator.is_main_process)


def sharded(model: torch.nn.Module) -> torch.nn.Module:
    """Shard a model over the processes, if there are several."""
    if dist.is_initialized():
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


if __name__ == "__main__":
    dist.init_process_group("gloo")
    resave(Path(sys.argv[2]), Path(sys.argv[1]) / "resaved")
    seen = {guide: run(Path(sys.argv[1]) / guide, guide) for guide in GUIDES}
    if dist.get_rank() == 0:
        for guide, each in seen.items():
            save_file(each.pop("weights"), Path(sys.argv[1]) / guide / "weights.safetensors")
        (Path(sys.argv[1]) / "seen.json").write_text(json.dumps(seen))
    leave()
