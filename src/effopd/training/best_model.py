"""Which of a run's checkpoints is the best: the one with the highest accuracy."""

from pathlib import Path

from transformers import TrainerState, TrainingArguments

from effopd.errors import ConfigurationError

_MEASURE = "accuracy"


def rate_by_accuracy(config: TrainingArguments) -> None:
    """Have the best model be that with the highest accuracy, where transformers would take a loss that is not measured.

    Raises:
        ConfigurationError: `metric_for_best_model` names another measure.
    """
    plateau = config.lr_scheduler_type == "reduce_lr_on_plateau"
    if not (config.load_best_model_at_end or config.save_strategy == "best" or plateau):
        return
    if config.metric_for_best_model in (None, "loss"):
        config.metric_for_best_model, config.greater_is_better = _MEASURE, True
    elif config.metric_for_best_model.removeprefix("eval_") != _MEASURE:
        raise ConfigurationError(
            f"metric_for_best_model={config.metric_for_best_model!r} is not measured in evaluations, which give the "
            f"{_MEASURE}. Leave it out."
        )


def best_step(config: TrainingArguments, state: TrainerState) -> int | None:
    """Find the step whose model training loaded at its end; None if it left the last one."""
    if not config.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    return int(Path(state.best_model_checkpoint).name.rpartition("-")[2])
