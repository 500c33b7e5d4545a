"""What is asked of a model and how it is sampled: the settings that `effopd evaluate` and a task of a sweep share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from effopd.checks import check_number, check_text, check_whole
from effopd.errors import ConfigurationError

if TYPE_CHECKING:
    from effopd.evaluation.task import Task

BACKENDS = ("hf", "vllm")


@dataclass(frozen=True)
class TaskSettings:
    """A task as it is put to a model.

    Attributes:
        task: Name of the task, as `effopd.evaluation.load_task` takes it.
        data: File with the rows of a benchmark, in its own columns, in place of those of the hub; None for the hub.
        limit: Number of problems to take, from the first on, at least 1; None takes all.
        chat: Whether to put text prompts into the model's chat template.
        system_prompt: Text of the system's message, which comes before each problem; only with `chat`.
        chat_template_kwargs: What the chat template is given besides the messages, by name; only with `chat`. For
            Qwen3, `{"enable_thinking": false}` is the mode without thinking.
        max_new_tokens: Limit on the tokens of a completion, at least 1; None takes the task's own.
        num_samples: Number of completions per problem, at least 1.
        temperature: Sampling temperature over the whole vocabulary, at least 0; 0 takes the most probable token.
        batch_size: Number of completions that are sampled at a time, at least 1.

    Raises:
        ConfigurationError: A value is out of its range, or the values do not go together.
    """

    task: str
    data: str | None = None
    limit: int | None = None
    chat: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    max_new_tokens: int | None = None
    num_samples: int = 1
    temperature: float = 1.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        for field in ("task", "data", "system_prompt"):
            if (value := getattr(self, field)) is not None or field == "task":
                check_text(field, value)
        for field in ("limit", "max_new_tokens", "num_samples", "batch_size"):
            if (value := getattr(self, field)) is not None or field in ("num_samples", "batch_size"):
                check_whole(field, value, 1)
        if not isinstance(self.chat, bool):
            raise ConfigurationError(f"chat: got {self.chat!r}, expected true or false.")
        if self.system_prompt is not None and not self.chat:
            raise ConfigurationError(
                "system_prompt: got one without chat, whose template would hold it; set chat, too."
            )
        if self.chat_template_kwargs is not None and (not isinstance(self.chat_template_kwargs, dict) or not self.chat):
            raise ConfigurationError(
                f"chat_template_kwargs: got {self.chat_template_kwargs!r}, expected values by name, and chat."
            )
        check_number("temperature", self.temperature, low=0)
        if self.temperature == 0 and self.num_samples > 1:
            raise ConfigurationError(
                f"temperature 0 samples nothing: {self.num_samples} samples would be equal; ask for 1."
            )

    def load(self) -> "Task":
        """Load the problems, as they are put to the model.

        Raises:
            ConfigurationError: There is no such task, or a setting does not go with it.
            DataError: The data cannot be read, or do not have the columns of the task; or a problem has a system
                message of its own beside `system_prompt`.
            UnsupportedError: lm-eval is not installed, or its task does not generate or runs code without a sandbox.
        """
        from effopd.evaluation.tasks import load_task  # here: it loads torch

        task = load_task(self.task, limit=self.limit, data=self.data)
        if self.chat:
            task = task.as_chat(self.system_prompt, self.chat_template_kwargs)
        return task if self.max_new_tokens is None else replace(task, max_new_tokens=self.max_new_tokens)
