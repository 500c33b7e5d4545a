"""Scoring the live weights under verl: one sampled answer for each validation prompt, rewarded as verl rewards."""

import math
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import transfer_queue as tq
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from effopd.extrapolation import Score

PARTITION = "val"  # sampled by rollout.val_kwargs, and not read by a teacher


def validate(trainer: Any, rows: Sequence[int]) -> Score:
    """Publish the live weights, sample an answer to each prompt, and let verl's own reward score it.

    The rollout engine must be asleep, as it is from sampling a step's rollouts to the step's end; it is left asleep.

    Args:
        trainer: verl's trainer, in the driver.
        rows: Indices of the prompts in the training set, at least one.

    Returns:
        Mean and standard error over the prompts. Its tokens are those of the responses, as verl counts them. The score
        is NaN, with a warning, if an answer is missing because verl failed to sample or to reward it: the mean of the
        others would be that of other prompts.
    """
    rows_by_column = collate_fn([trainer.train_dataset[index] for index in rows])
    uids = [str(uuid.uuid4()) for _ in rows]
    batch = tu.get_tensordict(rows_by_column | {"uid": uids, "__rollout_n__": [1] * len(rows)})
    tu.assign_non_tensor_data(batch, "global_steps", trainer.global_steps)
    tu.assign_non_tensor_data(batch, "validate", True)
    pending = {"is_prompt": True, "status": "pending", "global_steps": trainer.global_steps}
    trainer.checkpoint_manager.update_weights(trainer.global_steps)
    try:
        tq.kv_batch_put(keys=uids, partition_id=PARTITION, tags=[dict(pending) for _ in rows])
        trainer.agent_loop_manager.generate_sequences(batch)
        sampled, _ = trainer.replay_buffer.sample(trainer.global_steps, PARTITION, len(rows))
    finally:
        trainer.checkpoint_manager.sleep_replicas()
    if trainer.reward_loop_manager.reward_loop_worker_handles is None:  # the reward model shares the trainer's GPUs
        sampled = trainer._compute_reward_colocate(sampled)
    rewards = _rewards(sampled)
    if sampled.keys:
        tq.kv_clear(keys=sampled.keys, partition_id=PARTITION)
    tokens = sum(tag["response_len"] for tag in sampled.tags)
    if missing := [uid for uid in uids if uid not in rewards]:
        warnings.warn(
            f"Step {trainer.global_steps}: {len(missing)} of {len(rows)} validation answers failed, so these weights "
            "have no score and are not accepted. verl's log has the errors.",
            stacklevel=2,
        )
        return Score(math.nan, rollouts=len(rewards), generated_tokens=tokens)
    score = Score.of((rewards[uid] for uid in uids), rollouts=len(rows), generated_tokens=tokens)
    return replace(score, values=())  # other weights are scored on other answers


def _rewards(sampled: Any) -> dict[str, float]:
    """Return the reward of each prompt's answer; of an answer in several parts, the last part has it."""
    if not sampled.keys:
        return {}
    data = tq.kv_batch_get(keys=sampled.keys, partition_id=sampled.partition_id, select_fields=["rm_scores"])
    rewards = dict(zip(sampled.keys, data["rm_scores"].sum(dim=1).tolist(), strict=True))
    parts = sorted((key.rsplit("_", 2) for key in rewards), key=lambda part: int(part[2]))  # prompt, sample, part
    return {uid: rewards[f"{uid}_{sample}_{part}"] for uid, sample, part in parts}
