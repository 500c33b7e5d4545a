"""EffOPD under DeepSpeed ZeRO, on the processes there are: what was seen, for each of the setups asked for."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from deepspeed.utils import safe_get_full_fp32_param
from tiny import contains_answer, distillation_trainer, grpo_trainer, tiny_model
from torchrun import leave
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from effopd.extrapolation import EffOPDCallback, Score
from effopd.extrapolation import callback as callback_module
from effopd.extrapolation.zero_snapshot import is_zero

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for minutes

SCORES = {1: [0.1, 0.3, 0.2], 2: [0.5, 0.4], 4: [0.1, 0.2, 0.3, 0.1]}
ACCEPTED = {1: 2.0, 2: 0.0, 4: 4.0}
VALIDATE = callback_module.validate

Weights = dict[str, torch.Tensor]


def zero(stage: int, bf16: bool = False, **settings: Any) -> dict[str, Any]:
    """A configuration of DeepSpeed, as transformers takes it; lists of ZeRO's settings are merged into it."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": bf16},
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own would be compiled
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 64},
    }
    for name, value in settings.items():
        (config if name in ("data_types", "optimizer", "scheduler") else config["zero_optimization"])[name] = value
    return config


OWN_OPTIMIZER = {
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.0, "torch_adam": True}},
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 1e-3, "warmup_num_steps": "auto", "warmup_type": "linear"},
    },
}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
SETUPS = {
    "0-fp32": zero(0),
    "1-fp32": zero(1),
    "1-bf16": zero(1, True),
    "1-bf16-sums-fp32": zero(1, True, data_types={"grad_accum_dtype": "fp32"}),
    "2-fp32": zero(2),
    "2-bf16": zero(2, True),
    "2-bf16-offload": zero(2, True, **OFFLOAD),
    "2-fp32-own-optimizer": zero(2, **OWN_OPTIMIZER),
    "3-fp32": zero(3),
    "3-bf16": zero(3, True),
    "3-bf16-all-persistent": zero(3, True, stage3_param_persistence_threshold=10**6),
    "3-bf16-none-persistent": zero(3, True, stage3_param_persistence_threshold=0),
    "3-bf16-groups": zero(3, True, sub_group_size=1000),
    "3-bf16-offload": zero(3, True, **OFFLOAD),
}


def make(out: Path, config: dict[str, Any] | None, make_trainer: Any = distillation_trainer, **settings: Any) -> Any:
    """A trainer of its own, as if nothing had been trained in this process before; without a configuration, DDP."""
    AcceleratorState._reset_state(reset_partial_state=False)
    unset_hf_deepspeed_config()
    of_deepspeed = {} if config is None else {"deepspeed": json.loads(json.dumps(config))}
    bf16 = bool(config) and config["bf16"]["enabled"]
    settings = {"per_device_train_batch_size": 4, "bf16": bf16, "optim": "adamw_torch"} | settings
    return make_trainer(out, model=tiny_model(0), **of_deepspeed, **settings)


def masters(trainer: Any) -> Weights:
    """The weights that are trained, whole, in float32."""
    return {
        name: (safe_get_full_fp32_param(parameter) if is_zero(parameter) else parameter).detach().clone()
        for name, parameter in trainer.model.named_parameters()
    }


def lows(trainer: Any) -> Weights:
    """The weights that the model computes with, whole."""
    found = {}
    for name, parameter in trainer.model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            found[name] = parameter.detach().clone()
    return found


def differing(left: Weights, right: Weights) -> list[str]:
    return [name for name in left if not torch.equal(left[name].to(right[name].dtype), right[name])]


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "extrapolations.jsonl").read_text().splitlines()]


class Watch(TrainerCallback):
    """Compares the weights at each step, before and after the callback, with those that they should be."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.problems, self.distinct = trainer, [], set()
        self.scores = {step: list(values) for step, values in SCORES.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.anchor = masters(self.trainer)

    def validate(self, *args: Any) -> Score:
        """A forward pass by the engine gives what a plain model with the same weights does."""
        trainer, ids = self.trainer, torch.tensor([[3, 12, 5]])
        low = lows(trainer)
        self.expect("copies in a candidate", differing(masters(trainer), low))
        plain = tiny_model(7)
        for name, parameter in plain.named_parameters():
            parameter.data = low[name]
        with torch.no_grad():
            logits, wanted = trainer.model_wrapped(input_ids=ids).logits[0, -1], plain(ids).logits[0, -1]
        self.expect("logits", [] if torch.equal(logits, wanted) else [str(logits - wanted)])
        self.distinct.add(tuple(logits.tolist()))
        return Score(self.scores[trainer.state.global_step].pop(0))

    def expect(self, what: str, wrong: list[str]) -> None:
        self.problems += [f"step {self.trainer.state.global_step}, {what}: {wrong}"] if wrong else []

    def before(self) -> None:
        self.current = masters(self.trainer)

    def after(self, record: Any) -> None:
        """The masters are those of the accepted scale, to the bit, and the model's weights those rounded once."""
        step = self.trainer.state.global_step
        if step not in SCORES:
            return
        scale, anchor, current = ACCEPTED[step], self.anchor, self.current
        wanted = {
            name: torch.lerp(anchor[name], current[name], 1 + scale) if scale else current[name] for name in anchor
        }
        found = masters(self.trainer)
        self.expect("masters", differing(wanted, found))
        self.expect("copies", differing(found, lows(self.trainer)))
        squares = sum(float((current[name].double() - anchor[name].double()).square().sum()) for name in anchor)
        changed = sum(int((current[name] != anchor[name]).sum()) for name in anchor)
        share = changed / sum(each.numel() for each in anchor.values())
        self.expect("norm", [] if abs(record["delta_norm"]["total"] / squares**0.5 - 1) < 1e-6 else ["total"])
        self.expect("changed", [] if abs(record["changed_fraction"] - share) < 1e-12 else [record["changed_fraction"]])
        self.anchor = found


class Calls(TrainerCallback):
    def __init__(self, action: Any) -> None:
        self.action = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.action()


def exact(out: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Train with given scores, and once more from a checkpoint in the middle."""
    finished = []
    for checkpoint in (None, str(out / "checkpoint-3")):
        trainer = make(out, config, max_steps=5, save_strategy="steps", save_steps=3)
        watch = Watch(trainer)
        callback_module.validate = watch.validate
        effopd = EffOPDCallback(trainer, reward=contains_answer, num_prompts=10)
        for callback in (watch, Calls(watch.before), effopd, Calls(lambda watch=watch, e=effopd: watch.after(e.last))):
            trainer.add_callback(callback)
        if checkpoint:  # its anchor is that of the step before, which `watch` does not know
            watch.scores, watch.after = {4: SCORES[4][:]}, lambda record: None
        trainer.train(resume_from_checkpoint=checkpoint)
        finished.append((masters(trainer), lows(trainer)))
        if not checkpoint:
            seen = {"problems": watch.problems, "distinct": len(watch.distinct)}
            seen["accepted"] = [row["accepted_scale"] for row in read(out)]
            seen["files"] = sorted(path.name for path in (out / "checkpoint-3" / "effopd").iterdir())
            seen["dtype"] = str(next(iter(finished[0][1].values())).dtype)
    seen["resumed"] = [differing(finished[0][part], finished[1][part]) for part in (0, 1)]
    seen["rows"] = len(read(out))
    return seen


JUDGES: dict[str, dict[str, Any]] = {
    "reward": {"reward": contains_answer},
    "teacher_kl": {"validator": "teacher_kl"},
    "shared_kl": {"preset": "adaptive", "scales": [1, 2, 4]},
    "ahead": {"preset": "line_search", "passes": 2},
    "accumulated": {"preset": "line_search", "passes": 2},
    "grpo": {},
}


def judged(out: Path, config: dict[str, Any] | None, judge: str) -> dict[str, Any]:
    """Train with real rollouts, and once more from a checkpoint in the middle."""
    callback_module.validate = VALIDATE
    finished, schedules = [], []
    for checkpoint in (None, str(out / "checkpoint-2")):
        kind = grpo_trainer if judge == "grpo" else distillation_trainer
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "warmup_steps": 10}
        if judge == "accumulated":
            settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        trainer = make(out, config, kind, **settings)
        effopd = EffOPDCallback(trainer, **{"num_prompts": 7} | JUDGES[judge])
        trainer.add_callback(effopd)
        trainer.train(resume_from_checkpoint=checkpoint)
        finished.append(masters(trainer))
        schedules.append(trainer.lr_scheduler.get_last_lr()[0])
    return {"resumed": differing(*finished), "rows": read(out), "rate": effopd._rate.multiple, "schedules": schedules}


def rejected(out: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Reject all that is tried; train without the callback; and raise while a candidate is in the model."""
    finished, callback_module.validate = [], VALIDATE
    for reward in (lambda completions, **kwargs: [0.0] * len(completions), None, fails_at_a_candidate()):
        trainer = make(out, config, max_steps=3)
        if reward:
            watch = Watch(trainer)
            trainer.add_callback(Calls(watch.before))
            trainer.add_callback(EffOPDCallback(trainer, reward, num_prompts=7, acceptance="reference", scales=[1e3]))
        try:
            trainer.train()
        except ZeroDivisionError:
            return {"rejected": differing(*finished), "restored": differing(watch.current, masters(trainer))}
        finished.append(masters(trainer))
    raise AssertionError("nothing was raised")


def fails_at_a_candidate() -> Any:
    calls: list[int] = []

    def reward(completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(len(completions))
        if len(calls) == 3:  # an empty completion, W_t, a candidate
            raise ZeroDivisionError("a candidate is in the model")
        return [0.0] * len(completions)

    return reward


def main(out: Path, names: list[str]) -> None:
    seen: dict[str, Any] = {}
    for name in names:
        if "/" in name:
            setup, judge = name.split("/")
            seen[name] = (rejected if judge == "none" else partial(judged, judge=judge))(out / name, SETUPS.get(setup))
        else:
            seen[name] = exact(out / name, SETUPS[name])
        dist.barrier()  # until all processes have read what is removed next
        shutil.rmtree(out / name, ignore_errors=True) if dist.get_rank() == 0 else None
    if dist.get_rank() == 0:
        (out / "seen.json").write_text(json.dumps(seen))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
