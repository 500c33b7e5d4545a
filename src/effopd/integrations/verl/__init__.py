"""EffOPD in verl (experimental): a trainer that extrapolates at the end of verl's synchronous training step.

Importing this registers the trainer. verl imports it in all of its processes if the environment says so:

    VERL_USE_EXTERNAL_MODULES=effopd.integrations.verl python -m verl.trainer.main_ppo \
        trainer.v1.trainer_mode=effopd ...

`settings` says what a configuration may hold, `trainer` is the driver's part, and `worker` the part of each process
that holds a shard of the weights.
"""

from effopd.extras import needed_by

with needed_by("effopd.integrations.verl"):
    import verl  # noqa: F401  first, since its parts need it whole

    from effopd.integrations.verl.trainer import EffOPDTrainer
    from effopd.integrations.verl.worker import ExtrapolatingWorker

__all__ = ["EffOPDTrainer", "ExtrapolatingWorker"]
