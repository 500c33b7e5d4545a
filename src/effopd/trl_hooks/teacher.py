"""The teacher under FSDP2, which TRL leaves whole and on the CPU."""

from typing import Any

from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from trl.models import prepare_fsdp


def shard_teacher(trainer: Any) -> None:
    """Shard a trainer's teacher over the processes as the student will be, layer by layer, if they use FSDP2.

    TRL's `DistillationTrainer` leaves that to accelerate's `prepare_model`, which under FSDP moves nothing: it expects
    models to be sharded afterwards, together with an optimizer.
    """
    teacher, state = getattr(trainer, "teacher_model", None), trainer.accelerator.state
    if teacher is None or state.distributed_type != DistributedType.FSDP or state.fsdp_plugin.fsdp_version != 2:
        return
    plugin = state.fsdp_plugin
    layers = plugin.transformer_cls_names_to_wrap or getattr(teacher, "_no_split_modules", None) or ()
    mesh = getattr(trainer.accelerator, "torch_device_mesh", None)
    for module in teacher.modules():
        if type(module).__name__ in layers:
            fully_shard(
                module,
                reshard_after_forward=plugin.reshard_after_forward,
                mp_policy=plugin.mixed_precision_policy or MixedPrecisionPolicy(),
                mesh=mesh[tuple(trainer.accelerator.parallelism_config.fsdp_dim_names)] if mesh is not None else None,
            )
    trainer.teacher_model = prepare_fsdp(teacher, trainer.accelerator)
