"""What cannot work, or would give another result than it seems to, is known before training or stops no run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import (
    assert_same,
    contains_answer,
    distillation_trainer,
    grpo_trainer,
    settings,
    tiny_dataset,
    tiny_model,
    weights,
)
from trl import RLOOConfig, RLOOTrainer

from effopd import trl_hooks
from effopd.errors import CheckpointError, ConfigurationError, UnsupportedError
from effopd.extrapolation import EffOPDCallback, ExtrapolationConfig, Snapshot
from effopd.extrapolation.optimizers import check_optimizer
from effopd.extrapolation.presets import PRESETS
from effopd.parameters import select
from effopd.world.tokenizer import make_tokenizer
from extrapolation.scripted import records, script, with_effopd


def rloo_trainer(out: Path, **overrides: Any) -> RLOOTrainer:
    return RLOOTrainer(
        model=tiny_model(0),
        reward_funcs=contains_answer,
        args=RLOOConfig(**settings(out, num_generations=4, beta=0.0, **overrides)),
        train_dataset=tiny_dataset(),
        processing_class=make_tokenizer(),
    )


# Trainers


class Server:
    """A vLLM server as TRL asks it: of prompts repeated n times, it is given each once, for n completions of it."""

    mode = "server"

    def sync_weights(self) -> None:
        pass

    def generate(self, prompts: list[list[int]], num_generations: int, **kwargs: Any) -> tuple[Any, ...]:
        once = prompts[::num_generations]
        return None, [ids[:1] for ids in once for _ in range(num_generations)], None, None


def test_rloo_on_a_server_validates_each_prompt_with_its_own_completion(tmp_path: Path) -> None:
    trainer = rloo_trainer(tmp_path)
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, Server(), -1
    rollouts = trl_hooks.generate(trainer, list(tiny_dataset(8)), seed=0)
    assert len({tuple(rollout.prompt_ids) for rollout in rollouts}) == 8
    for rollout in rollouts:  # the server answers with the first token of the prompt
        assert rollout.completion_ids == rollout.prompt_ids[:1]
    assert trainer.num_generations == 4


def test_rloo_trains_with_effopd(tmp_path: Path) -> None:
    plain = rloo_trainer(tmp_path / "plain")
    plain.train()
    trainer = rloo_trainer(tmp_path / "effopd")
    with_effopd(
        trainer, scales=[1e6], reward=lambda completions, **kwargs: [0.0] * len(completions), acceptance="reference"
    )
    trainer.train()
    assert_same(weights(plain), weights(trainer))
    assert records(tmp_path / "effopd")[0]["rollouts"] == 20


def test_trainers_that_are_not_tested_have_to_be_vouched_for(tmp_path: Path) -> None:
    class Kept(type(distillation_trainer(tmp_path))):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    class Replaced(Kept):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            return super()._generate_single_turn(*args, **kwargs)

    trainer = distillation_trainer(tmp_path, max_steps=1)
    trainer.__class__ = Kept
    with_effopd(trainer).trainer.remove_callback(EffOPDCallback)
    trainer.__class__ = Replaced
    with pytest.raises(ConfigurationError, match=r"Replaced is not a trainer.*allow_untested_trainer=True"):
        with_effopd(trainer)
    with_effopd(trainer, allow_untested_trainer=True)
    trainer.train()
    assert records(tmp_path)[0]["rollouts"] >= 20


def test_trainers_that_sample_otherwise_are_told_so() -> None:
    from trl import SFTTrainer

    with pytest.raises(ConfigurationError, match="SFTTrainer does not sample by TRL's _generate_single_turn"):
        EffOPDCallback(SFTTrainer.__new__(SFTTrainer), contains_answer)


def test_rollouts_sampled_anew_after_a_jump_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps sample 64 completions in plain TRL, and 128 with jumps after steps 1 and 2."""
    trainer = grpo_trainer(tmp_path, steps_per_generation=4, max_steps=8)
    callback = with_effopd(trainer)
    script(monkeypatch, *(0.1, 0.2, 0.1) * 4)
    sampled: list[int] = []
    generate = trainer._generate_and_score_completions
    monkeypatch.setattr(
        trainer, "_generate_and_score_completions", lambda inputs: (sampled.append(len(inputs)), generate(inputs))[1]
    )
    trainer.train()
    assert sum(sampled) == 128
    assert [row["resampled_rollouts"] for row in records(tmp_path)] == [32, 32, 0, 0]
    assert callback.cost["resampled_rollouts"] == sum(sampled) - 64
    assert 64 <= callback.cost["resampled_tokens"] <= 64 * 6


# Optimizers


class AveragesWeights(torch.optim.Optimizer):
    """Makes the weights anew from a copy in its state at each step, as schedule-free optimizers do."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                kept = state.setdefault("z", parameter.clone())
                kept.sub_(parameter.grad, alpha=group["lr"])
                parameter.lerp_(kept, 0.9)


def test_an_optimizer_that_keeps_weights_is_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trainer.optimizer = AveragesWeights(trainer.model.parameters(), lr=1e-3)
    with_effopd(trainer)
    with pytest.raises(UnsupportedError, match=r"AveragesWeights, holds the weights in its state \('z'\)"):
        trainer.train()


def test_a_small_matrix_that_resembles_its_state_by_chance_is_not_what_is_looked_at() -> None:
    small, large = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(8, 8))
    optimizer = torch.optim.SGD([small, large], lr=0.1, momentum=0.9)
    optimizer.state = {small: {"momentum_buffer": torch.ones(2, 2)}, large: {"momentum_buffer": torch.zeros(8, 8)}}
    check_optimizer(optimizer)
    optimizer.state[large]["momentum_buffer"].fill_(1)
    with pytest.raises(UnsupportedError, match=r"SGD, holds the weights in its state \('momentum_buffer'\)"):
        check_optimizer(optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.Adafactor(p, lr=0.1),
        lambda p: torch.optim.NAdam(p, lr=0.1),
    ],
)
def test_ordinary_optimizers_pass(make: Any) -> None:
    model = tiny_model(0)
    optimizer = make(model.parameters())
    for _ in range(3):
        ids = torch.tensor([[3, 12, 5, 7]])
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        check_optimizer(optimizer)


# Settings


def test_resuming_by_another_rule_is_refused(tmp_path: Path) -> None:
    save = {"save_strategy": "steps", "save_steps": 3}
    trainer = distillation_trainer(tmp_path, **save)
    with_effopd(trainer)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-3"
    other = distillation_trainer(tmp_path, **save)
    with_effopd(other, preset="adaptive")
    message = r"other extrapolation settings \(schedule 'powers_of_two' \(now 'every:1'\)"
    with pytest.raises(CheckpointError, match=message):
        other.train(resume_from_checkpoint=str(checkpoint))
    elsewhere = distillation_trainer(tmp_path, **save)
    with_effopd(elsewhere, snapshot_device="cpu")  # where copies lie decides nothing
    elsewhere.train(resume_from_checkpoint=str(checkpoint))
    state = checkpoint / "effopd" / "state.json"
    saved = json.loads(state.read_text())
    del saved["config"]["random_numbers"]  # as it was when all candidates shared them
    state.write_text(json.dumps(saved))
    again = distillation_trainer(tmp_path, **save)
    with_effopd(again)
    with pytest.raises(CheckpointError, match=r"random_numbers 'shared' \(now 'independent'\)"):
        again.train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_from_before_some_were_settings_is_resumed(tmp_path: Path) -> None:
    save = {"save_strategy": "steps", "save_steps": 3}
    trainer = distillation_trainer(tmp_path, **save)
    with_effopd(trainer, random_numbers="shared")
    trainer.train()
    checkpoint = tmp_path / "checkpoint-3"
    state = checkpoint / "effopd" / "state.json"
    saved = json.loads(state.read_text())
    for name in ("random_numbers", "min_delta", "guide"):
        del saved["config"][name]
    state.write_text(json.dumps(saved))
    again = distillation_trainer(tmp_path, **save)
    with_effopd(again, random_numbers="shared")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 6


def test_a_reward_that_is_not_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the validator shared_kl does not use it"):
        EffOPDCallback(distillation_trainer(tmp_path), contains_answer, preset="adaptive")


def test_a_schedule_that_never_comes_is_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    with_effopd(trainer, schedule="every:7")
    with pytest.raises(ConfigurationError, match="'every:7' has no step among the 6 of this training"):
        trainer.train()


def test_a_callback_that_was_never_added_is_said(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    kept = EffOPDCallback(trainer, contains_answer)
    with pytest.warns(UserWarning, match="was made for this trainer and not added to it"):
        trainer.train()
    del kept
    trainer.train()  # of one that is gone, nothing is said


def test_shared_random_numbers_cannot_be_had_from_a_server(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trainer.vllm_generation = SimpleNamespace(mode="server")
    with_effopd(trainer)
    with pytest.raises(ConfigurationError, match="cannot be had from a vLLM server"):
        with_effopd(trainer, random_numbers="shared")


def test_settings_that_used_to_fail_at_the_first_trigger(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    with pytest.raises(ConfigurationError, match="scales: got '2,4', expected a list of numbers"):
        with_effopd(trainer, scales="2,4")
    with pytest.raises(ConfigurationError, match="snapshot_device: got 'warp', which torch cannot use here"):
        with_effopd(trainer, snapshot_device="warp")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="snapshot_device: got 'cuda'"):
            with_effopd(trainer, snapshot_device="cuda")
    with pytest.raises(ConfigurationError, match="random_numbers: got 'common', expected one of"):
        ExtrapolationConfig(random_numbers="common")  # type: ignore[arg-type]
    rows = [*tiny_dataset(9), {"prompt": None, "answer": "3"}]
    with pytest.raises(ConfigurationError, match=r"prompt of validation row 9 of those checked is None"):
        with_effopd(trainer, validation_dataset=rows)
    messages = [{"prompt": [{"role": "user", "content": "1+1="}], "answer": "2"}] * 10
    with pytest.raises(ConfigurationError, match="has no chat template"):
        with_effopd(trainer, validation_dataset=messages)


def reward_in_words(completions: list[str], **kwargs: Any) -> list[str]:
    return ["good"] * len(completions)


def reward_of_a_missing_column(completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
    return [1.0] * len(completions)


def reward_that_is_no_list(completions: list[str], **kwargs: Any) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (reward_in_words, "'reward_in_words' returned the reward 'good'; it must return one number for each"),
        (reward_of_a_missing_column, "TypeError: .*'solution'. The rows have the columns prompt, answer"),
        (reward_that_is_no_list, "'reward_that_is_no_list' returned 1.0 for 1 completions"),
    ],
)
def test_rewards_that_cannot_work_are_known_before_training(reward: Any, message: str, tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    with_effopd(trainer, reward=reward)
    initial = weights(trainer)
    with pytest.raises(ConfigurationError, match=message):
        trainer.train()
    assert_same(initial, weights(trainer))


def test_trying_rewards_out_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    def noisy(completions: list[str], **kwargs: Any) -> list[float]:
        return torch.rand(len(completions)).tolist()

    plain = distillation_trainer(tmp_path / "plain")
    plain.train()
    trainer = distillation_trainer(tmp_path / "effopd")
    with_effopd(trainer, reward=noisy, scales=[1e30])
    trainer.train()
    assert_same(weights(plain), weights(trainer))


# Names, as models of five architectures give them, and which of them the paper's public code moves.
NAMES = {
    "llama": {
        "model.embed_tokens.weight": False,
        "model.layers.0.self_attn.q_proj.weight": True,
        "model.layers.0.mlp.down_proj.weight": True,
        "model.layers.0.input_layernorm.weight": False,
        "model.layers.0.post_attention_layernorm.weight": True,
        "model.norm.weight": False,
        "lm_head.weight": False,
    },
    "gpt_neox": {
        "gpt_neox.layers.0.attention.query_key_value.weight": True,
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": True,
        "gpt_neox.layers.0.input_layernorm.weight": False,
        "gpt_neox.embed_in.weight": False,
    },
    "codegen": {
        "transformer.h.0.attn.qkv_proj.weight": True,
        "transformer.h.0.ln_1.weight": False,
        "transformer.h.0.mlp.fc_in.weight": True,
    },
    "blocks_without_a_parent": {
        "decoder.layers.0.q_proj.weight": True,
        "decoder.layers.0.O_PROJ.weight": True,
        "decoder.layers.0.gate_proj.weight": True,
        "decoder.layers.0.fc1.weight": False,
    },
    "ffn": {
        "transformer.blocks.0.ffn.w1.weight": True,
        "layers.0.feed_forward.w2.weight": True,
        "layers.0.ffn_norm.weight": True,
        "transformer.blocks.0.norm_1.weight": False,
        "tok_embeddings.weight": False,
    },
}


@pytest.mark.parametrize("architecture", NAMES)
def test_parameters_of_the_reference(architecture: str) -> None:
    names = NAMES[architecture]
    assert set(select(names, PRESETS["reference"].parameters)) == {name for name, moves in names.items() if moves}


def test_the_snapshot_is_of_the_live_parameters() -> None:
    model = tiny_model(0)
    assert Snapshot(dict(model.named_parameters())).parameters["lm_head.weight"] is model.lm_head.weight
