"""On-policy distillation of language models, made cheaper by extrapolating along the update direction.

With TRL:

    from effopd import EffOPDCallback

    trainer = DistillationTrainer(...)                                   # or GRPOTrainer
    trainer.add_callback(EffOPDCallback(trainer, reward=reward_function))
    trainer.train()

What training does to the weights, while it does it, with any transformers Trainer:

    trainer.add_callback(UpdateMonitorCallback(trainer, every=10))       # updates.jsonl, TensorBoard

From the command line: `effopd demo`, `effopd train CONFIG.yaml`, `effopd world build --out DIR`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effopd.extrapolation import EffOPDCallback, ExtrapolationConfig
    from effopd.training.monitor import UpdateMonitorCallback

__version__ = "0.1.0"
__all__ = ["EffOPDCallback", "ExtrapolationConfig", "UpdateMonitorCallback", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used, so that `import effopd` stays light."""
    if name == "UpdateMonitorCallback":
        from effopd.training import monitor

        return monitor.UpdateMonitorCallback
    if name in __all__:
        from effopd import extrapolation

        return getattr(extrapolation, name)
    raise AttributeError(f"module 'effopd' has no attribute {name!r}")
