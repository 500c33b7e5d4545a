"""Progress of runs in a terminal, a bar for each."""

from typing import Any

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import override

from effopd.console import progress_bar
from effopd.training.metered import MeteredTrainer
from effopd.training.metrics import MetricsCallback

NO_TRIGGER_YET = "no extrapolation yet"


class RunDisplay:
    """The bars of several runs, shown while this context manager is entered.

    Where the output is no terminal, it prints a line now and then instead.
    """

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._progress = progress_bar(columns=[_Status()], console=self.console, time_left=False)

    def __enter__(self) -> "RunDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def start_run(self, name: str) -> int:
        """Add the bar of a run, and return the number to update it by."""
        return int(self._progress.add_task(name, total=1.0, status="loading"))

    def update(self, task: int, *, fraction: float, status: str) -> None:
        """Set how full a bar is, from 0 to 1, and the text beside it."""
        self._progress.update(task, completed=min(max(fraction, 0.0), 1.0), status=status)  # type: ignore[arg-type]

    def finish_run(self, task: int, status: str) -> None:
        """Fill a run's bar, and set the text beside it."""
        self.update(task, fraction=1.0, status=status)

    def print_line(self, task: int, status: str) -> None:
        """Print a run's status, where bars cannot be drawn."""
        if not self.console.is_terminal:
            self.console.print(f"{self._progress.tasks[task].description}: {status}", soft_wrap=True)


class RunProgress(TrainerCallback):
    """Shows a run's step, accuracy, rollouts spent and last extrapolation, in place of what transformers would print.

    It shows what the other callbacks found, and so comes after them (see `effopd.training.build`).

    Args:
        display: Bars, of which this run gets one.
        name: Name of the run.
        trainer: Trainer that this callback is added to.
        metrics: Callback of the same trainer that counts the rollouts.
        target: Accuracy at which the bar is full; with None, it is full at the last step.
    """

    def __init__(
        self,
        display: RunDisplay,
        name: str,
        trainer: MeteredTrainer,
        metrics: MetricsCallback,
        target: float | None = None,
    ) -> None:
        self.display = display
        self.metrics = metrics
        self.target = target
        self._task = display.start_run(name)
        self._first_accuracy: float | None = None
        self._accuracy: float | None = None
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.display.update(self._task, fraction=0.0, status="first step")

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._show(state)

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if metrics and "eval_accuracy" in metrics:
            self._accuracy = metrics["eval_accuracy"]
            if self._first_accuracy is None:
                self._first_accuracy = self._accuracy
            self._show(state)
            self.display.print_line(self._task, self._status(state))

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.display.finish_run(self._task, self._status(state))

    def _show(self, state: TrainerState) -> None:
        self.display.update(self._task, fraction=self._fraction(state), status=self._status(state))

    def _fraction(self, state: TrainerState) -> float:
        if self.target is None:
            return float(state.global_step / max(state.max_steps, 1))
        if self._accuracy is None or self._first_accuracy is None or self._first_accuracy >= self.target:
            return 0.0
        return (self._accuracy - self._first_accuracy) / (self.target - self._first_accuracy)

    def _status(self, state: TrainerState) -> str:
        parts = [f"step {state.global_step:3d}"]
        if self._accuracy is not None:
            parts.append(f"accuracy {self._accuracy:.3f}")
        if self.metrics.row is not None:
            parts.append(f"{self.metrics.row['rollouts']:,} rollouts")
        if self.metrics.effopd is not None:
            parts.append(describe_extrapolation(self.metrics.effopd.last))
        return ", ".join(parts)


def describe_extrapolation(record: dict[str, Any] | None) -> str:
    """Describe a trigger in a few words: `step 8: x4 accepted`, `step 8: rejected`."""
    if record is None:
        return NO_TRIGGER_YET
    scale = record["accepted_scale"]
    return f"step {record['step']}: " + (f"x{scale:g} accepted" if scale else "rejected")


class _Status(ProgressColumn):
    """A column of steady width with a task's status at its left."""

    @override
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("status", "")))
