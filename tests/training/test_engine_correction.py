"""The sampled estimator's correction for vLLM, with an engine whose log-probabilities are made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_vllm import around, sample_with
from tiny import assert_same, settings, tiny_dataset, tiny_model, weights

from effopd import trl_hooks
from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation import EffOPDCallback
from effopd.training import OPDConfig, OPDTrainer
from effopd.trl_hooks.vllm import check_engine_logprobs, pad_engine_logprobs
from effopd.world.tokenizer import make_tokenizer


def made_up(token: int, place: int) -> float | None:
    """What the engine reports for a token: often far from the trainer's own, and sometimes NaN."""
    return float("nan") if token == 7 else -0.6 * token - 0.5 * place


class Engine:
    """Samples completions of one to six tokens, whatever the weights, and notes for what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.generator = torch.Generator().manual_seed(0)

    def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        self.asked += [each.logprobs for each in params]
        return [self.answer(row["prompt_token_ids"], each.logprobs) for row, each in zip(prompts, params, strict=True)]

    def answer(self, prompt: list[int], logprobs: int | None) -> Any:
        length = int(torch.randint(1, 7, (1,), generator=self.generator))
        tokens = torch.randint(3, 10, (length,), generator=self.generator).tolist()
        reported = [
            {token: SimpleNamespace(rank=1, logprob=made_up(token, place))} for place, token in enumerate(tokens)
        ]
        output = SimpleNamespace(token_ids=tokens, logprobs=None if logprobs is None else reported)
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[output])


@pytest.fixture
def engine() -> Engine:
    return Engine()


def opd_trainer(
    out: Path, engine: Engine | None, monkeypatch: pytest.MonkeyPatch, estimator: str = "sampled", **overrides: Any
) -> OPDTrainer:
    """A trainer of one optimizer step of two micro-batches; with an engine, that samples."""
    overrides = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1} | overrides
    trainer = OPDTrainer(
        model=tiny_model(0),
        teacher_model=tiny_model(1),
        args=OPDConfig(**settings(out, estimator=estimator, **overrides)),
        train_dataset=tiny_dataset(),
        processing_class=make_tokenizer(),
    )
    if engine is not None:
        sample_with(trainer, around(engine, monkeypatch))
    return trainer


def batches(trainer: OPDTrainer) -> list[dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer._prepare_inputs([*tiny_dataset(8)])
    return trainer._buffered_inputs


def test_each_token_keeps_its_log_probability_through_shuffling_and_splitting(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batches(opd_trainer(tmp_path, engine, monkeypatch))
    assert engine.asked == [0] * 8
    assert len(found) == 2
    for batch in found:
        logprobs = batch[trl_hooks.ENGINE_LOGPROBS]
        assert logprobs.dtype == torch.float32
        for ids, mask, row in zip(batch["completion_ids"], batch["completion_mask"], logprobs, strict=True):
            for place, (token, real, value) in enumerate(zip(ids, mask, row, strict=True)):
                wanted = made_up(int(token), place) if real else 0.0
                torch.testing.assert_close(value, torch.tensor(wanted), equal_nan=True)


@pytest.mark.parametrize("clip_max", [5.0, 1.5])
def test_the_gradient_is_that_of_a_plain_computation(
    clip_max: float, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = opd_trainer(tmp_path, engine, monkeypatch, vllm_importance_sampling_clip_max=clip_max)
    inputs = batches(trainer)[0]
    trainer.compute_loss(trainer.model, inputs).backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    student, teacher = (
        model(ids, attention_mask=attention)
        .logits[:, -length - 1 : -1]
        .log_softmax(-1)
        .gather(-1, inputs["completion_ids"][..., None])[..., 0]
        for model in (trainer.model, trainer.teacher_model)
    )
    mask, reported = inputs["completion_mask"], inputs[trl_hooks.ENGINE_LOGPROBS]
    ratio = torch.where(reported.isnan(), 1.0, (student.detach() - reported).exp())
    assert ratio[mask.bool()].max() > clip_max  # there is something to truncate
    weight = ratio.clamp(max=clip_max)
    loss = -(weight * (teacher - student).detach() * student * mask).sum() / inputs["num_items_in_batch"]
    loss.backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)
    logged = trainer._metrics["train"]
    assert logged["sampling/importance_sampling_ratio/mean"] == [pytest.approx(weight[mask.bool()].mean().item())]
    difference = (student - reported).abs()[mask.bool() & ~reported.isnan()].mean().item()
    assert logged["sampling/sampling_logp_difference/mean"] == [pytest.approx(difference, rel=1e-5)]


def test_an_engine_that_agrees_with_the_trainer_changes_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = opd_trainer(tmp_path, engine, monkeypatch)
    inputs = batches(trainer)[0]
    inputs.pop(trl_hooks.ENGINE_LOGPROBS)
    plain = trainer.compute_loss(trainer.model, inputs)
    inputs[trl_hooks.ENGINE_LOGPROBS] = inputs[trl_hooks.SAMPLING_LOGPROBS]
    assert trainer.compute_loss(trainer.model, inputs) == plain


@pytest.mark.parametrize("overrides", [{"vllm_importance_sampling_correction": False}, {"estimator": "full_vocab"}])
def test_the_engine_is_not_asked_where_nothing_is_corrected(
    overrides: dict[str, Any], tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = opd_trainer(tmp_path, engine, monkeypatch, **overrides)
    assert not any(trl_hooks.ENGINE_LOGPROBS in batch for batch in batches(trainer))
    assert engine.asked == [None] * 8


def test_a_trainer_that_samples_itself_trains_the_same_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    for on in (True, False):
        trainer = opd_trainer(
            tmp_path / str(on), None, monkeypatch, max_steps=3, vllm_importance_sampling_correction=on
        )
        trainer.train()
        trained.append(weights(trainer))
        assert not any("sampling/" in name for row in trainer.state.log_history for name in row)
    assert_same(*trained)


@pytest.mark.parametrize("preset", ["paper", "line_search"])
def test_it_trains_with_effopd_and_validation_asks_for_nothing(
    preset: str, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = opd_trainer(tmp_path, engine, monkeypatch, max_steps=2, logging_steps=1)
    reward = None if preset == "line_search" else lambda completions, **kwargs: [float(len(c)) for c in completions]
    trainer.add_callback(EffOPDCallback(trainer, reward=reward, preset=preset, num_prompts=4))
    trainer.train()
    assert engine.asked.count(0) == 2 * 8
    assert (engine.asked.count(None) > 0) == (preset == "paper")
    rows = [row for row in trainer.state.log_history if "sampling/importance_sampling_ratio/mean" in row]
    assert len(rows) == 2
    assert all(0 < row["sampling/importance_sampling_ratio/mean"] <= 5 for row in rows)
    assert trainer.vllm_generation.logprobs is None


@pytest.mark.parametrize("reported", [[[[-1.0]]], [[[-1.0], [-1.0]], [[-1.0]]], [[[-1.0, -2.0]], [[-1.0]]], []])
def test_what_is_not_one_number_for_each_token_is_refused(reported: Any) -> None:
    with pytest.raises(UnsupportedError, match="did not report one log-probability for each sampled token"):
        pad_engine_logprobs(reported, torch.tensor([[1, 0], [1, 0]]))


def server(temperature: float, mode: str) -> Any:
    client = SimpleNamespace(get_server_info=lambda: {"model_config": {"logprobs_mode": mode}})
    return SimpleNamespace(
        temperature=temperature,
        accelerator=SimpleNamespace(is_main_process=True),
        vllm_generation=SimpleNamespace(mode="server", vllm_client=client),
    )


def test_a_server_that_leaves_the_temperature_out_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"runs with --logprobs-mode raw_logprobs, .* temperature of 0.7"):
        check_engine_logprobs(server(0.7, "raw_logprobs"))
    check_engine_logprobs(server(0.7, "processed_logprobs"))
    check_engine_logprobs(server(1.0, "raw_logprobs"))  # at this temperature, they are the same


def test_a_bound_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"vllm_importance_sampling_clip_max: got 0\.5"):
        OPDConfig(**settings(tmp_path, vllm_importance_sampling_clip_max=0.5))
