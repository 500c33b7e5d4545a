import itertools
import random

import pytest
import torch

from effopd.errors import ConfigurationError
from effopd.world import ModelSize, PretrainingConfig, TaskConfig, TeacherConfig
from effopd.world.model import make_model
from effopd.world.pretrain import make_batch, pretrain
from effopd.world.tokenizer import make_tokenizer


def test_only_completions_are_learned() -> None:
    tokenizer = make_tokenizer()
    input_ids, labels = make_batch(tokenizer, TaskConfig(num_operations=3), 32, random.Random(0))
    assert input_ids.shape == labels.shape
    assert bool((labels[:, :8] == -100).all())
    for ids, wanted in zip(input_ids, labels, strict=True):
        learned = wanted[wanted != -100]
        text = tokenizer.decode(ids[ids != tokenizer.pad_token_id])
        assert tokenizer.decode(learned) == text[8:]
        assert text[7] == "=" and text.endswith(";")


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    config = PretrainingConfig(num_steps=100, warmup_steps=10)
    factors = [config.learning_rate_factor(step) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors[10:]))


def test_pretraining_is_deterministic_and_lowers_the_loss() -> None:
    arguments = (
        make_tokenizer(),
        ModelSize(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2),
        TaskConfig(num_operations=1),
        PretrainingConfig(num_steps=40, batch_size=16, learning_rate=1e-2, warmup_steps=0),
        5,
        torch.device("cpu"),
    )
    model, losses = pretrain(*arguments)
    again, same_losses = pretrain(*arguments)
    assert losses == same_losses
    assert losses[-1] < 0.7 * losses[0]
    assert not model.training
    for parameter, same in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, same)


def test_default_model_has_the_documented_size() -> None:
    model = make_model(ModelSize(), make_tokenizer(), max_length=64)
    assert model.num_parameters() == 857_728
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSize(num_layers=0), "num_layers: got 0, expected a whole number of at least 1"),
        (lambda: ModelSize(hidden_size=12, num_heads=4), "expected a multiple of 8"),
        (lambda: PretrainingConfig(num_steps=0), "num_steps: got 0"),
        (lambda: PretrainingConfig(learning_rate=0.0), "learning_rate: got 0.0, expected a finite number, above 0"),
        (lambda: PretrainingConfig(warmup_steps=-1), "warmup_steps: got -1"),
        (lambda: TeacherConfig(samples_per_prompt=1), "samples_per_prompt: got 1, .* at least 2"),
        (lambda: TeacherConfig(learning_rate=-1.0), "learning_rate: got -1.0"),
        (lambda: TeacherConfig(kl_coefficient=-1.0), "kl_coefficient: got -1.0"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()  # type: ignore[operator]
