"""What the card of a world says beyond accuracies, measured on models that are built, which it leaves as they are."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.files import read_json, write_json
from effopd.world.concentration import measure_concentration
from effopd.world.divergence import kl_on_samples
from effopd.world.forgetting import measure_second_skill
from effopd.world.task import TaskConfig, make_dataset

CARD = "card.json"
MEASURES = "measures"
"""The entry of the card that `measure_world` adds."""
CONCENTRATION_PROMPTS = 64


def measure_world(directory: Path, num_examples: int = 2000, lanczos_steps: int = 100) -> dict[str, Any]:
    """Measure what the axes of a world are about, and add it to the world's card under `measures`.

    Args:
        directory: Directory that `build_world` has built.
        num_examples: Number of problems to measure divergences and the second skill on.
        lanczos_steps: Number of steps of the Lanczos method, at least 50; each costs about two training steps.

    Returns:
        The whole card. Its `measures` are `kl_base_to_teacher` (KL(base || teacher) on the base's own completions, see
        `kl_on_samples`), `second_skill` (its `skill`, and for `base` and `teacher` what `measure_second_skill`
        returns), and `concentration` (see `measure_concentration`).

    Raises:
        DataError: There is no card, or it cannot be read.
    """
    card = read_json(directory / CARD)
    config = TaskConfig(**card["settings"]["task"])
    tokenizer = AutoTokenizer.from_pretrained(directory / "base")
    base, teacher = (
        AutoModelForCausalLM.from_pretrained(directory / name, dtype=torch.float32) for name in ("base", "teacher")
    )
    seed = card["settings"]["seed"]
    limit = config.max_completion_length + 2
    prompts = list(make_dataset("evaluation", num_examples, seed, config)["prompt"])
    second = {
        name: measure_second_skill(model, tokenizer, base, config, num_examples, seed)
        for name, model in (("base", base), ("teacher", teacher))
    }
    train_prompts = list(make_dataset("train", CONCENTRATION_PROMPTS, seed, config)["prompt"])
    card[MEASURES] = {
        "kl_base_to_teacher": kl_on_samples(base, teacher, tokenizer, prompts, seed, limit)["sampler_to_other"],
        "second_skill": {"skill": config.second_skill, **second},
        "concentration": measure_concentration(
            directory / "base", directory / "teacher", train_prompts, seed, limit, lanczos_steps
        ),
    }
    write_json(directory / CARD, card)
    return card
