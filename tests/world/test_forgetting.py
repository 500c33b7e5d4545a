import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from world.tiny_world import PRETRAINING, SIZE

from effopd.world import ModelSize, PretrainingConfig, TaskConfig, base_dir, measure_second_skill
from effopd.world.divergence import kl_on_samples
from effopd.world.model import make_model
from effopd.world.pretrain import pretrain
from effopd.world.tokenizer import make_tokenizer


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(make_model(SIZE, make_tokenizer(), max_length=64))
    return made[0], made[1]


def test_divergences_agree_with_all_completions_enumerated() -> None:
    """With one token, the divergence of completions is that of the distributions after the prompt."""
    tokenizer = make_tokenizer()
    first, second = models()
    with torch.no_grad():
        inputs = tokenizer(["1+2="], return_tensors="pt")["input_ids"]
        p, q = (model(inputs).logits[0, -1].double().softmax(-1) for model in (first, second))
    found = kl_on_samples(first, second, tokenizer, ["1+2="] * 5, seed=0, max_new_tokens=1, batch_size=2)
    assert found["sampler_to_other"]["nats_per_token"] == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert found["other_to_sampler"]["nats_per_token"] == pytest.approx((q * (q / p).log()).sum().item(), rel=1e-5)
    assert found["sampler_to_other"]["num_examples"] == 5


def test_padding_and_what_follows_the_end_do_not_count() -> None:
    """Prompts of two lengths in one batch give what each gives alone, and the mean over tokens weighs by length."""
    tokenizer = make_tokenizer()
    first, second = models()
    with torch.no_grad():  # so that completions end after about two tokens
        first.lm_head.weight.zero_()
    together = kl_on_samples(first, second, tokenizer, ["1+2=", "3*4-5="] * 500, seed=0, max_new_tokens=4)
    alone = [
        kl_on_samples(first, second, tokenizer, [prompt] * 500, seed=1, max_new_tokens=4)["sampler_to_other"]
        for prompt in ("1+2=", "3*4-5=")
    ]
    mean = sum(each["nats_per_completion"] for each in alone) / 2
    assert together["sampler_to_other"]["nats_per_completion"] == pytest.approx(mean, rel=0.1)
    length = together["sampler_to_other"]["nats_per_completion"] / together["sampler_to_other"]["nats_per_token"]
    ending = 1 / 18
    assert length == pytest.approx(sum((1 - ending) ** before for before in range(4)), rel=0.05)


def test_a_model_has_forgotten_nothing_of_itself_and_another_has() -> None:
    tokenizer = make_tokenizer()
    config = TaskConfig(num_operations=1, second_skill="sorting", second_skill_share=0.5, sorted_digits=3)
    size = ModelSize(hidden_size=32, intermediate_size=32, num_layers=1, num_heads=2)
    training = PretrainingConfig(num_steps=60, batch_size=32, learning_rate=1e-2, warmup_steps=5)
    base, _ = pretrain(tokenizer, size, config, training, 0, torch.device("cpu"))
    other, _ = pretrain(tokenizer, size, config, PRETRAINING, 1, torch.device("cpu"))
    state = torch.get_rng_state()
    own = measure_second_skill(base, tokenizer, base, config, num_examples=50)
    assert torch.equal(torch.get_rng_state(), state)
    assert own["kl_to_base"]["nats_per_token"] == own["kl_from_base"]["nats_per_token"] == 0
    measured = measure_second_skill(other, tokenizer, base, config, num_examples=50)
    assert measured["accuracy"] <= own["accuracy"]
    assert measured["kl_to_base"]["nats_per_token"] > 0.1
    assert measured["num_examples"] == 50
    rate = own["accuracy"]
    assert own["stderr"] == pytest.approx(math.sqrt(rate * (1 - rate) / 50))


def test_the_shipped_base_answers_at_once_on_demand() -> None:
    base, tokenizer = AutoModelForCausalLM.from_pretrained(base_dir()), AutoTokenizer.from_pretrained(base_dir())
    measured = measure_second_skill(base, tokenizer, base, num_examples=1000, seed=5)
    assert 0.17 <= measured["accuracy"] <= 0.28  # its direct answers were measured right in 0.22 of all cases
