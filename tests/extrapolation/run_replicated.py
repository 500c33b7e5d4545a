"""Plain TRL with EffOPD on the processes there are (DDP): every process must end with the same weights."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from tiny import contains_answer, distillation_trainer, tiny_model
from torchrun import leave

from effopd.extrapolation import EffOPDCallback


def train(out: Path, checkpoint: str | None = None, model: Any = None, **settings: Any) -> torch.Tensor:
    """All weights in one vector. Eleven prompts, and seven, do not divide by two."""
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer = distillation_trainer(out, model, per_device_train_batch_size=4, **saving)
    reward = None if {"validator", "preset"} & settings.keys() else contains_answer
    trainer.add_callback(EffOPDCallback(trainer, reward, **{"num_prompts": 11} | settings))
    trainer.train(resume_from_checkpoint=checkpoint)
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def adapted() -> Any:
    torch.manual_seed(5)
    return get_peft_model(tiny_model(0), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "extrapolations.jsonl").read_text().splitlines()]


def num_confirmed(row: dict[str, Any]) -> int:
    return sum(candidate["confirmation"] is not None for candidate in row["candidates"])


def main(out: Path) -> None:
    weights = train(out)
    copies = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
    dist.all_gather(copies, weights)
    rows = read(out)
    resumed = train(out, str(out / "checkpoint-3"))
    train(out / "shared", validator="shared_kl", num_prompts=7)
    shared = read(out / "shared")
    ahead = train(out / "ahead", preset="line_search", num_prompts=7, passes=2)
    dist.all_gather(copies_ahead := [torch.empty_like(ahead) for _ in copies], ahead)
    resumed_ahead = train(
        out / "ahead", str(out / "ahead" / "checkpoint-3"), preset="line_search", num_prompts=7, passes=2
    )
    lora = train(out / "lora", None, adapted(), validator="shared_kl", num_prompts=7)
    dist.all_gather(copies_lora := [torch.empty_like(lora) for _ in copies], lora)
    resumed_lora = train(
        out / "lora", str(out / "lora" / "checkpoint-3"), adapted(), validator="shared_kl", num_prompts=7
    )
    if dist.get_rank() == 0:
        seen = {
            "rollouts": [row["rollouts"] / (1 + len(row["candidates"])) for row in rows],
            "same_everywhere": all(torch.equal(copy, weights) for copy in copies),
            "same_resumed": torch.equal(resumed, weights),
            "moved": any(row["accepted_scale"] for row in rows),
            "shared": [row["rollouts"] / (1 + num_confirmed(row)) for row in shared],
            "ahead_same": all(torch.equal(copy, ahead) for copy in [*copies_ahead, resumed_ahead]),
            "ahead_moved": any(row["accepted_scale"] for row in read(out / "ahead")),
            "lora_same": all(torch.equal(copy, lora) for copy in [*copies_lora, resumed_lora]),
            "lora_moved": any(row["accepted_scale"] for row in read(out / "lora")),
            "shared_moved": any(row["accepted_scale"] for row in shared),
        }
        (out / "seen.json").write_text(json.dumps(seen))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
