"""What a model has forgotten: how well it still does the second skill, and how far it is from its base there."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.world.divergence import kl_on_samples
from effopd.world.evaluate import mean_with_stderr, sample_completions
from effopd.world.second_skill import make_second_dataset, second_completion_length
from effopd.world.task import TaskConfig


def measure_second_skill(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base: PreTrainedModel,
    config: TaskConfig | None = None,
    num_examples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model on prompts of the second skill, which distillation on the task does not train.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of model and base, padding on the left.
        base: Model before it was trained; or the same model, which has then forgotten nothing.
        config: Settings of the world's task (see `task_config`), which say what the skill is; the default task if None.
        num_examples: Number of problems of the evaluation split.
        seed: Random seed for drawing the problems and for sampling.

    Returns:
        The `accuracy` of one completion each, sampled at temperature 1, which counts if it is exactly the right one;
        its standard error `stderr`; and `num_examples`. `kl_to_base` is KL(model || base), and `kl_from_base` is
        KL(base || model); both are measured at the tokens of completions that the base sampled, and have the entries of
        `kl_on_samples`. Averaged over those, KL(base || model) is the divergence of whole completions.
    """
    config = config or TaskConfig()
    dataset = make_second_dataset("evaluation", num_examples, seed, config)
    prompts = list(dataset["prompt"])
    limit = second_completion_length(config) + 2  # room for a longer answer, which is a wrong one
    completions = sample_completions(model, tokenizer, prompts, seed, limit)
    hits = [float(text == answer) for text, answer in zip(completions, dataset["answer"], strict=True)]
    divergences = kl_on_samples(base, model, tokenizer, prompts, seed, limit)
    return {
        **mean_with_stderr(hits),
        "kl_to_base": divergences["other_to_sampler"],
        "kl_from_base": divergences["sampler_to_other"],
    }
