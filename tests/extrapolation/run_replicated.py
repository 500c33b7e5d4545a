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

from effopd.errors import DivergedError
from effopd.extrapolation import EffOPDCallback
from effopd.trl_hooks import rollouts


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


def diverged(out: Path) -> list[float]:
    """What was sampled for validation on all processes and what was recorded, of a candidate that diverges midway."""
    trainer = distillation_trainer(out, max_steps=1, per_device_train_batch_size=2, per_device_eval_batch_size=2)
    callback = EffOPDCallback(trainer, contains_answer, num_prompts=8, scales=[1])
    trainer.add_callback(callback)
    check, sample, counts = rollouts._check_logits, rollouts._sample, {"checked": 0, "sampled": 0}

    def fails_at_the_fourth_batch(*args: Any) -> None:
        counts["checked"] += 1
        if counts["checked"] == 4:
            raise DivergedError("as if")
        check(*args)

    def counted(trainer: Any, prompt_ids: list[list[int]], *args: Any) -> list[list[int]]:
        counts["sampled"] += len(prompt_ids)
        return sample(trainer, prompt_ids, *args)

    rollouts._check_logits, rollouts._sample = fails_at_the_fourth_batch, counted
    try:
        trainer.train()
    finally:
        rollouts._check_logits, rollouts._sample = check, sample
    sampled = torch.tensor(float(counts["sampled"]))
    dist.all_reduce(sampled)
    return [sampled.item(), callback.cost["rollouts"]]


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
    diverged_cost = diverged(out / "diverged")
    if dist.get_rank() == 0:
        seen = {
            "diverged": diverged_cost,
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
