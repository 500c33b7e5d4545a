"""Evaluation of a model in memory on a task."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.evaluation.backends import Backend, TransformersBackend
from effopd.evaluation.results import Evaluation
from effopd.evaluation.sample_batches import SampleBatches
from effopd.evaluation.task import Task


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_samples: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    temperature: float = 1.0,
    teacher: PreTrainedModel | None = None,
    backend: Backend | None = None,
) -> Evaluation:
    """Evaluate a model in memory.

    Equal arguments give equal results; what is sampled depends on `batch_size`, too. Torch's global generators, the
    model's mode and its `generation_config` are left as they were.

    Args:
        model: A causal language model.
        tokenizer: Tokenizer of the model.
        task: Task to evaluate on (see `load_task`).
        num_samples: n, the number of completions for each prompt, at least 1.
        seed: Random seed for sampling, at least 0.
        batch_size: Number of completions that are generated at a time, at least 1.
        temperature: Sampling temperature, over the whole vocabulary; 0 takes the most probable token.
        teacher: Model with the same tokenizer, to which the reverse KL is measured on the completions; None measures
            none.
        backend: Backend that samples in the model's place, with the same weights; None samples with the model itself.

    Raises:
        ConfigurationError: An argument is out of its range, or the arguments do not go together.
        DataError: A prompt has no tokens, or the grader cannot read an answer.
        UnsupportedError: Completions are programs, and there is no working sandbox.
    """
    batches = SampleBatches(
        task, tokenizer, num_samples=num_samples, seed=seed, batch_size=batch_size, temperature=temperature
    )
    task.check_grader()
    backend = backend or TransformersBackend(model, tokenizer)
    records = [record for index in range(len(batches.items)) for record in batches.run(index, backend, teacher)]
    return Evaluation(sorted(records, key=lambda record: (record.prompt, record.sample)))
