"""The batches of an evaluation: which completions are sampled together, and how one such batch is done."""

import math
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.checks import check_whole
from effopd.errors import ConfigurationError, DivergedError
from effopd.evaluation.backends import Backend
from effopd.evaluation.divergence import reverse_kl
from effopd.evaluation.prompts import encode_prompts
from effopd.evaluation.results import ExampleRecord
from effopd.evaluation.settings import TaskSettings
from effopd.evaluation.task import Task
from effopd.models.vocabulary import check_vocabulary_sizes
from effopd.sampling import derived_seed

Item = tuple[int, int]
"""Index of a prompt and of one of its samples, both from 0."""


class SampleBatches:
    """Which completions are sampled together. This depends on the arguments alone, so that any batch can be done again.

    The arguments are those of `evaluate`.

    Attributes:
        items: The (prompt, sample) pairs of each batch. The longest prompts come first, so that a batch that does not
            fit into memory fails early.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_samples: int,
        seed: int,
        batch_size: int,
        temperature: float,
    ) -> None:
        check_whole("seed", seed, 0)
        TaskSettings(task.name, num_samples=num_samples, batch_size=batch_size, temperature=temperature)  # checks them
        self.task = task
        self.seed = seed
        self.temperature = temperature
        self._prompt_ids = encode_prompts(tokenizer, task.prompts, task.chat_template_kwargs)
        order = sorted(range(len(self._prompt_ids)), key=lambda prompt: -len(self._prompt_ids[prompt]))
        items: list[Item] = [(prompt, sample) for prompt in order for sample in range(num_samples)]
        self.items = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]

    def run(self, index: int, backend: Backend, teacher: PreTrainedModel | None = None) -> list[ExampleRecord]:
        """Sample one batch, grade it, and measure its KL to the teacher.

        Args:
            index: Index of the batch.
            backend: Backend that generates. With a teacher, its model has to be in memory.
            teacher: Model to which the reverse KL is measured; None measures none.

        Raises:
            ConfigurationError: There is a teacher, and the backend has no model in memory, or one whose vocabulary has
                another size.
        """
        batch = self.items[index]
        prompts = [self._prompt_ids[prompt] for prompt, _ in batch]
        completions = backend.complete(
            prompts,
            derived_seed(self.seed, index),
            max_new_tokens=self.task.max_new_tokens,
            temperature=self.temperature,
        )
        ids = [completion.token_ids for completion in completions]
        texts = backend.tokenizer.batch_decode(ids, skip_special_tokens=True)
        verdicts = self.task.grader(texts, [self.task.answers[prompt] for prompt, _ in batch])
        records = [
            ExampleRecord(*item, text, verdict.passed, verdict.reason, len(completion.token_ids), completion.truncated)
            for item, text, verdict, completion in zip(batch, texts, verdicts, completions, strict=True)
        ]
        if teacher is None:
            return records
        if backend.model is None:
            raise ConfigurationError("The KL to a teacher needs the model in memory; use the backend of transformers.")
        check_vocabulary_sizes(backend.model.config, teacher.config, backend.tokenizer)
        sums = reverse_kl(backend.model, teacher, prompts, ids)
        if not all(map(math.isfinite, sums)):
            raise DivergedError(
                "The KL to the teacher is not finite: the teacher's logits are not, or the model writes what has no "
                "probability for the teacher. Are the teacher's weights whole?"
            )
        return [replace(record, kl=value) for record, value in zip(records, sums, strict=True)]
