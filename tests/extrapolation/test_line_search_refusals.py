"""What a line search refuses, with the reason."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import contains_answer, distillation_trainer, grpo_trainer, tiny_dataset

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation import EffOPDCallback, NextRolloutsValidator
from effopd.extrapolation.validation import TeacherKLValidator
from extrapolation.test_next_rollouts import add


def test_wrong_use_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"with a teacher model; got GRPOTrainer\. With rewards"):
        add(grpo_trainer(tmp_path))
    trainer = distillation_trainer(tmp_path)
    with pytest.raises(ConfigurationError, match="validation_dataset was given"):
        add(trainer, validation_dataset=tiny_dataset())
    with pytest.raises(ConfigurationError, match="reward was given"):
        add(trainer, reward=contains_answer)
    for name, value in (("random_numbers", "shared"), ("redraw_prompts", True)):
        with pytest.raises(ConfigurationError, match=f"{name}={value!r} has no effect with validator='next_rollouts'"):
            add(trainer, **{name: value})
    for name, value in (("passes", 2), ("max_kl", 0.1)):
        with pytest.raises(ConfigurationError, match=f"{name}={value!r} has no effect with validator='reward'"):
            EffOPDCallback(trainer, contains_answer, **{name: value})
    for name, value in (("passes", 0), ("max_kl", 0.0), ("max_kl", "far")):
        with pytest.raises(ConfigurationError, match=name):
            add(trainer, **{name: value})
    for preset, validator in (("line_search", TeacherKLValidator()), ("paper", NextRolloutsValidator())):
        with pytest.raises(ConfigurationError, match=f"Got a {type(validator).__name__} with settings for validator="):
            EffOPDCallback(trainer, preset=preset, validator=validator)
    trainer.reference_model = trainer.teacher_model  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="ExOPD"):
        add(trainer)
    del trainer.reference_model  # type: ignore[attr-defined]
    add(trainer, schedule=(1,))
    with pytest.raises(ConfigurationError, match="of which step 2 is the first that can extrapolate"):
        trainer.train()
    trainer.train_dataset = Dataset.from_dict({"prompt": ["1+1="], "image": ["picture"]})
    with pytest.raises(UnsupportedError, match="images"):
        add(trainer)


@pytest.mark.parametrize(
    ("optim", "reason"),
    [
        ("adagrad", "fills its state once and for all"),
        ("paged_adamw_8bit", "memory would run out"),
        ("galore_adamw_layerwise", "steps during the backward pass"),
        ("adalomo", "steps during the backward pass"),
    ],
)
def test_optimizers_that_a_jump_would_break_are_refused(optim: str, reason: str, tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trainer.args.optim = optim
    with pytest.raises(UnsupportedError, match=f"optim='{optim}' .*{reason}"):
        add(trainer)


def test_adagrad_is_refused_also_if_it_is_handed_over(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trainer.optimizer = torch.optim.Adagrad(trainer.model.parameters(), lr=1e-3)
    with pytest.raises(UnsupportedError, match="adagrad"):
        add(trainer)


def test_another_divergence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"reverse KL, which is beta=1, and beta=0.5 trains"):
        add(distillation_trainer(tmp_path, beta=0.5))


def test_images_within_messages_are_refused_when_they_come(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    add(trainer)
    sample = trainer._generate_and_score_completions

    def with_pixels(inputs: list[dict[str, object]]) -> dict[str, object]:
        output: dict[str, object] = sample(inputs)
        return output | {"pixel_values": torch.zeros(len(inputs), 3)}

    trainer._generate_and_score_completions = with_pixels  # type: ignore[method-assign]
    with pytest.raises(UnsupportedError, match="prompts have images"):
        trainer.train()
