"""Validation sets of one difficulty: the thirds of a world's training prompts by how often the base solves them."""

from collections.abc import Mapping
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.files import write_json_lines
from effopd.world import base_dir, make_dataset, task_config
from effopd.world.evaluate import sample_completions
from effopd.world.reward import world_reward

THIRDS = ("hard", "medium", "easy")
SEED = 0
"""Random seed of the samples: all runs of a world share the thirds."""


def write_thirds(world: str, folder: Path, sizes: Mapping[str, int]) -> dict[str, Path]:
    """Write the thirds of the first training prompts of a world as files that training reads.

    Args:
        world: Name of the world.
        folder: Directory for `hard.jsonl`, `medium.jsonl` and `easy.jsonl`, whose rows have `prompt`, `answer` and
            `success`, the share of the base's samples that are right. Prompts with equal success keep their order.
        sizes: Number of `prompts`, at least 3, and of `samples` of the base for each.

    Returns:
        The files by third. Files that are there are left as they are.
    """
    places = {third: folder / f"{third}.jsonl" for third in THIRDS}
    if all(place.exists() for place in places.values()):
        return places
    task = task_config(world)
    problems = make_dataset("train", sizes["prompts"], config=task)
    base = AutoModelForCausalLM.from_pretrained(base_dir(world)).eval()
    tokenizer = AutoTokenizer.from_pretrained(base_dir(world))
    prompts, answers = list(problems["prompt"]), list(problems["answer"])
    right = [0.0] * len(prompts)
    for sample in range(sizes["samples"]):
        completions = sample_completions(base, tokenizer, prompts, SEED + sample, task.max_completion_length + 2)
        right = [
            before + reward
            for before, reward in zip(right, world_reward(completions, answers, prompts=prompts), strict=True)
        ]
    rows = [
        {"prompt": prompt, "answer": answer, "success": number / sizes["samples"]}
        for prompt, answer, number in zip(prompts, answers, right, strict=True)
    ]
    rows.sort(key=lambda row: float(row["success"]))
    ends = [round(third * len(rows) / 3) for third in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    for third, start, end in zip(THIRDS, ends, ends[1:], strict=False):
        write_json_lines(places[third], rows[start:end])
    return places
