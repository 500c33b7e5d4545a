"""On-policy distillation of language models, made cheaper by extrapolating along the update direction.

With TRL:

    from effopd import EffOPDCallback

    trainer = DistillationTrainer(...)                                   # or GRPOTrainer
    trainer.add_callback(EffOPDCallback(trainer, reward=reward_function))
    trainer.train()

From the command line: `effopd demo`, `effopd train CONFIG.yaml`, `effopd world build --out DIR`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effopd.extrapolation import EffOPDCallback, ExtrapolationConfig

__version__ = "0.1.0"
__all__ = ["EffOPDCallback", "ExtrapolationConfig", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used, so that `import effopd` stays light."""
    if name in __all__:
        from effopd import extrapolation

        return getattr(extrapolation, name)
    raise AttributeError(f"module 'effopd' has no attribute {name!r}")
