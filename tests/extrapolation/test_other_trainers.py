"""TRL's experimental trainers: those that sample as the tested ones do work, the others are refused with the reason."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, contains_answer, settings, tiny_dataset, tiny_model, weights

from effopd.errors import ConfigurationError
from effopd.extrapolation import EffOPDCallback
from effopd.extrapolation.checks import check_trainer
from effopd.world.tokenizer import make_tokenizer
from extrapolation.scripted import records


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def gmpo_trainer(out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

    return GMPOTrainer(
        tiny_model(0),
        contains_answer,
        args=GMPOConfig(**settings(out, num_generations=4)),
        train_dataset=tiny_dataset(),
        processing_class=make_tokenizer(),
    )


class TeacherServer:
    """Answers as a vLLM server with a teacher does, for the most probable token and the one that is there."""

    def __init__(self, **kwargs: Any) -> None:
        self.teacher = tiny_model(1).eval()

    def get_sequence_logprobs(
        self, sequences: list[list[int]], prompt_lengths: list[int], **kwargs: Any
    ) -> dict[str, list[Any]]:
        answer: dict[str, list[Any]] = {"logprobs": [], "logprob_token_ids": [], "actual_logprobs": []}
        for ids, start in zip(sequences, prompt_lengths, strict=True):
            with torch.no_grad():
                logprobs = self.teacher(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
            best = logprobs.max(-1, keepdim=True)
            answer["logprobs"].append(best.values.tolist())
            answer["logprob_token_ids"].append(best.indices.tolist())
            answer["actual_logprobs"].append(logprobs.gather(-1, torch.tensor(ids[start:])[:, None]).tolist())
        return answer


def server_distillation_trainer(out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from trl.experimental.server_distillation import ServerDistillationConfig, ServerDistillationTrainer

    monkeypatch.setattr("trl.generation.vllm_client.VLLMClient", TeacherServer)
    return ServerDistillationTrainer(
        tiny_model(0),
        ServerDistillationConfig(**settings(out, teacher_model_server_url="http://localhost:1")),
        train_dataset=tiny_dataset(),
        processing_class=make_tokenizer(),
    )


@pytest.mark.parametrize("make", [gmpo_trainer, server_distillation_trainer])
def test_trainers_that_sample_like_the_tested_ones(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = {}
    for name, slope in (("plain", 0), ("rejecting", -1), ("accepting", 1)):
        trainer = make(tmp_path / name, monkeypatch)
        if slope:
            calls: list[int] = []  # each validation scores by slope more than the one before

            def reward(completions: list[str], slope: int = slope, calls: list[int] = calls, **_: Any) -> list[float]:
                calls.append(0)
                return [float(slope * len(calls))] * len(completions)

            trainer.add_callback(EffOPDCallback(trainer, reward, schedule=[2], scales=[0.5], num_prompts=4))
        trainer.train()
        trained[name] = weights(trainer)
    assert_same(trained["rejecting"], trained["plain"])
    assert any(not torch.equal(trained["accepting"][name], value) for name, value in trained["plain"].items())
    assert [row["accepted_scale"] for row in records(tmp_path / "accepting")] == [0.5]


def test_a_teacher_on_a_server_cannot_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = server_distillation_trainer(tmp_path, monkeypatch)
    for validator in ("teacher_kl", "shared_kl", "next_rollouts"):
        with pytest.raises(ConfigurationError, match=r"ServerDistillationTrainer.*Use "):
            EffOPDCallback(trainer, validator=validator, num_prompts=4)


@pytest.mark.parametrize(
    ("module", "name", "reason"),
    [
        ("gkd", "GKDTrainer", "from inside its loss.*Distil with trl.DistillationTrainer"),
        ("gold", "GOLDTrainer", "from inside its loss.*must share a vocabulary"),
        ("async_grpo", "AsyncGRPOTrainer", "process of its own.*in step: trl.GRPOTrainer"),
        ("async_distillation", "AsyncDistillationTrainer", "process of its own.*in step: trl.DistillationTrainer"),
    ],
)
def test_trainers_that_sample_otherwise_are_refused_with_the_reason(module: str, name: str, reason: str) -> None:
    kind = getattr(importlib.import_module(f"trl.experimental.{module}"), name)
    trainer = kind.__new__(kind)  # its class is all that is looked at
    for allow_untested in (False, True):
        with pytest.raises(ConfigurationError, match=f"{name} does not sample.*{reason}"):
            check_trainer(trainer, allow_untested)
