"""The critic of PPO: what it is, how it is trained on the rollouts of the policy, and how it is saved.

Shape suffixes: B sequences, T completion tokens.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, reduce
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import CheckpointError, ConfigurationError, UnsupportedError
from effopd.files import replaced
from effopd.objectives import generalized_advantages

# Beside the anchor of EffOPD in a checkpoint, and not beside its model, of which it is no part.
STATE = "effopd/critic.safetensors"


class Critic(nn.Module):
    """A value head on a copy of the student's backbone. The head starts at 0, and so does every value.

    Args:
        student: Model whose backbone is copied.
    """

    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(student.base_model).requires_grad_(True)  # also what is frozen in the student
        self.head = nn.Linear(student.config.get_text_config().hidden_size, 1)
        self.head.to(student.device)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    @override
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_completion: int) -> torch.Tensor:
        """Estimate the return before each of the last `num_completion` tokens is written: float32 [B, T]."""
        outputs = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        states = outputs.last_hidden_state[:, -num_completion - 1 : -1].float()
        with torch.autocast(states.device.type, enabled=False):
            values_BT: torch.Tensor = self.head(states).squeeze(-1)
        return values_BT


class CriticTraining(TrainerCallback):
    """Gives a trainer advantages by GAE, and trains the critic that they come from.

    The critic has an AdamW of its own, with the policy's settings but a constant learning rate. It takes a step with
    each of the policy's, on the same micro-batches.

    Args:
        critic: Critic, in memory and not yet on the trainer's device.
        trainer: Trainer of the policy, whose checkpoints get the critic's state as well.

    Raises:
        ConfigurationError: Training is in fp16, whose scaled gradients this does not know.
        UnsupportedError: The model is sharded.
    """

    def __init__(self, critic: Critic, trainer: Any) -> None:
        args, accelerator = trainer.args, trainer.accelerator
        if args.fp16:
            raise ConfigurationError("method='ppo' was not made for fp16=True. Use bf16, or neither.")
        if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UnsupportedError(
                f"method='ppo' was not made for {accelerator.distributed_type.value}, which would have to shard the "
                "critic. Use data parallelism (torchrun), or method='grpo' or 'dapo', which have no critic."
            )
        if args.gradient_checkpointing:
            critic.backbone.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs or None)
        self.trainer = trainer
        self.model = accelerator.prepare_model(critic)
        self.critic: Critic = accelerator.unwrap_model(self.model)
        self.optimizer = torch.optim.AdamW(
            self.critic.parameters(),
            lr=args.critic_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
        trl_hooks.on_resume(trainer, self._load)

    @torch.no_grad()
    def advantages(self, batch: dict[str, Any], rewards_B: torch.Tensor) -> torch.Tensor:
        """Compute the advantages of rollouts, with mean 0 and standard deviation 1 over the tokens of all processes.

        The returns, which the critic is to learn, are put into the batch.

        Args:
            batch: Rollouts of this process, as `HookedGRPOTrainer.token_advantages` describes them.
            rewards_B: Their rewards, [B]; a rollout whose reward is NaN trains nothing.

        Returns:
            The advantages, [B, T].
        """
        args, size = self.trainer.args, self.trainer.args.per_device_train_batch_size
        self.critic.eval()
        parts = [self._values(batch, slice(i, i + size)) for i in range(0, len(rewards_B), size)]
        self.critic.train()
        values_BT = torch.cat(parts)
        mask_BT = batch["completion_mask"] * ~rewards_B.isnan()[:, None]
        rewards_B = rewards_B.nan_to_num()
        advantages_BT = generalized_advantages(rewards_B, values_BT, mask_BT, args.gamma, args.gae_lambda)
        batch["returns"] = advantages_BT + values_BT
        batch["values_mask"] = mask_BT
        self._log("explained_variance", self._explained(batch["returns"], advantages_BT, mask_BT))
        mean, deviation = self._moments(advantages_BT, mask_BT)
        standardised_BT: torch.Tensor = (advantages_BT - mean) / (deviation + 1e-8) * mask_BT
        return standardised_BT

    def train_on(self, batch: dict[str, Any]) -> None:
        """Add the gradient of a micro-batch: half the squared error, averaged over the tokens of an optimizer step."""
        trainer, args = self.trainer, self.trainer.args
        errors_BT = (self._values(batch, slice(None)) - batch["returns"]).square() * batch["values_mask"]
        # As TRL's loss over tokens has it: the number is that of all processes, for which DDP takes the mean, and that
        # of all optimizer steps on the same rollouts.
        number = batch["num_items_in_batch"].clamp(min=1) / trainer.accelerator.num_processes
        number = number * trainer.current_gradient_accumulation_steps / args.steps_per_generation
        loss = errors_BT.sum() / (2 * number)
        loss.backward()
        self._log("loss", loss.item() * trainer.current_gradient_accumulation_steps)
        if trainer.accelerator.sync_gradients:
            if args.max_grad_norm:
                nn.utils.clip_grad_norm_(self.critic.parameters(), args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the critic and the state of its optimizer into the checkpoint that was just written."""
        if not args.should_save:
            return
        tensors = {f"weight:{name}": weight.contiguous() for name, weight in self.critic.state_dict().items()}
        for name, parameter in self.critic.named_parameters():
            tensors |= {f"{key}:{name}": value.contiguous() for key, value in self.optimizer.state[parameter].items()}
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
        with replaced(path) as temporary:
            save_file(tensors, temporary)

    def _load(self, checkpoint: str) -> None:
        path = Path(checkpoint) / STATE
        try:
            saved = load_file(path)
            weights = {name: saved[f"weight:{name}"] for name in self.critic.state_dict()}
            self.critic.load_state_dict(weights)
        except Exception as error:  # safetensors, the disk and torch each raise their own
            raise CheckpointError(
                f"{path}, the critic of the checkpoint, cannot be read ({error}). Resume from another checkpoint, or "
                "start a new run from its weights."
            ) from error
        state = self.optimizer.state_dict()
        names = [name for name, _ in self.critic.named_parameters()]
        keys = {key.partition(":")[0] for key in saved} - {"weight"}
        state["state"] = {i: {key: saved[f"{key}:{name}"] for key in keys} for i, name in enumerate(names)}
        self.optimizer.load_state_dict(state)

    def _values(self, batch: dict[str, Any], rows: slice) -> torch.Tensor:
        ids, masks = (
            torch.cat([batch[f"prompt_{kind}"][rows], batch[f"completion_{kind}"][rows]], 1) for kind in ("ids", "mask")
        )
        values_BT: torch.Tensor = self.model(ids, masks, batch["completion_ids"].shape[1])
        return values_BT

    def _moments(self, values_BT: torch.Tensor, mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean and standard deviation over the tokens of all processes."""
        number, total = reduce(torch.stack([mask_BT.sum(), (values_BT * mask_BT).sum()]), "sum")
        mean = total / number.clamp(min=1)
        squares = reduce(((values_BT - mean).square() * mask_BT).sum(), "sum")
        return mean, (squares / number.clamp(min=1)).sqrt()

    def _explained(self, returns_BT: torch.Tensor, errors_BT: torch.Tensor, mask_BT: torch.Tensor) -> float:
        """Compute the share of the returns' variance that the values explain; at most 1, and NaN if there is none."""
        of_errors, of_returns = (self._moments(each, mask_BT)[1].square() for each in (errors_BT, returns_BT))
        return float(1 - of_errors / of_returns) if of_returns else float("nan")

    def _log(self, name: str, value: float) -> None:
        trl_hooks.log_metric(self.trainer, f"critic/{name}", value)
