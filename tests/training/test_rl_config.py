"""Which settings each method of reinforcement learning chooses, and which it refuses."""

from pathlib import Path
from typing import Any

import pytest
from small_rl_runs import PLAIN, rl_world
from small_runs import world

from effopd.errors import ConfigurationError
from effopd.training import OPDConfig, RLConfig, build_trainer
from effopd.training.config_file import parse_config


def test_what_each_method_chooses(tmp_path: Path) -> None:
    grpo, dapo, ppo = (rl_world(tmp_path, method=method)[1] for method in ("grpo", "dapo", "ppo"))
    assert [(each.loss_type, each.beta) for each in (grpo, dapo, ppo)] == [("grpo", 0.001), ("dapo", 0), ("dapo", 0)]
    assert [(each.epsilon, each.epsilon_high) for each in (grpo, dapo, ppo)] == [(0.2, None), (0.2, 0.28), (0.2, None)]
    assert (dapo.overlong_buffer, dapo.dynamic_sampling_rounds) == (12 // 5, 10)
    assert (ppo.gamma, ppo.gae_lambda, ppo.critic_learning_rate) == (1.0, 1.0, 1e-5)
    assert rl_world(tmp_path, method="dapo", epsilon_high=0.3, overlong_buffer=0)[1].overlong_buffer == 0
    assert rl_world(tmp_path, method="grpo", beta=0.0, loss_type="dr_grpo")[1].loss_type == "dr_grpo"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "opd"}, "expected one of grpo, dapo, ppo"),
        ({"overlong_buffer": 4}, "overlong_buffer=4 has no effect with method='grpo'; .* set method to dapo"),
        ({"method": "ppo", "dynamic_sampling_rounds": 0}, "has no effect with method='ppo'"),
        ({"method": "dapo", "gae_lambda": 0.9}, "gae_lambda=0.9 has no effect with method='dapo'"),
        ({"gamma": 0.9}, "set method to ppo"),
        ({"critic_learning_rate": 1e-5}, "set method to ppo"),
        ({"method": "dapo", "beta": 0.01}, "beta=0.01: method='dapo' has no KL term"),
        ({"method": "dapo", "loss_type": "grpo"}, "averages over the tokens"),
        ({"method": "ppo", "loss_type": "cispo"}, "averages over the tokens"),
        ({"method": "ppo", "scale_rewards": "none"}, "takes its advantages from a critic"),
        ({"reward_weights": [1.0]}, "sum of the rewards"),
        ({"num_generations_eval": 4}, "one sampled answer"),
        ({"method": "dapo", "overlong_buffer": 13}, "longer than a completion"),
        ({"method": "ppo", "gae_lambda": 1.5}, "gae_lambda: got 1.5"),
        ({"method": "ppo", "critic_learning_rate": 0.0}, "critic_learning_rate: got 0.0"),
        ({"method": "dapo", "dynamic_sampling_rounds": -1}, "For no dynamic sampling, write 0"),
        ({"save_only_model": True}, "saves no optimizer state"),
        ({"sync_ref_model": True}, "moves the reference model, which no checkpoint holds"),
        (
            {
                "eval_strategy": "steps",
                "eval_steps": 1,
                "load_best_model_at_end": True,
                "metric_for_best_model": "reward",
            },
            "is not measured in evaluations, which give the accuracy",
        ),
        ({"generation_batch_size": 16, "save_strategy": "best"}, "save between optimizer steps"),
    ],
)
def test_settings_without_effect_or_sense(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rl_world(tmp_path, **config)


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ({"acceleration": "adaptive"}, {}, r"\(shared_kl\), and method='grpo' has no teacher"),
        ({"acceleration": "line_search", "extrapolation": None}, {"method": "ppo"}, r"\(next_rollouts\).*no teacher"),
        ({"extrapolation": {"validator": "teacher_kl"}}, {"method": "dapo"}, r"\(teacher_kl\).*no teacher"),
        ({"reference_model_name_or_path": "world:base"}, {}, "has no effect with method='grpo'"),
        ({"alphaopd_target": 0.9}, {}, "has no effect with method='grpo'"),
        (PLAIN | {"reward": []}, {}, "learns from rewards, and no reward is set"),
        ({"num_train_examples": 1}, {}, "1 rows are fewer than the 2 of one"),
        ({}, {"method": "ppo", "fp16": True}, "fp16"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    arguments: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=message):
        build_trainer(*rl_world(tmp_path / "out", arguments, **config))


def test_dynamic_sampling_needs_whole_groups(tmp_path: Path) -> None:
    """A process that samples 8 completions cannot hold all 16 of a prompt, as if two processes shared them."""
    arguments, config = rl_world(tmp_path, method="dapo", per_device_train_batch_size=4)
    config.num_generations = 16
    with pytest.raises(ConfigurationError, match=r"needs all 16 samples of a prompt .* each samples 8 completions"):
        build_trainer(arguments, config)


@pytest.mark.parametrize("name", ["stop_without_improvement", "target_accuracy"])
def test_stopping_needs_evaluations(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} needs evaluation_dataset_name"):
        world(tmp_path, {name: 1})


def test_the_method_chooses_the_fields_of_a_file(tmp_path: Path) -> None:
    base = {"model_name_or_path": "world:base", "dataset_name": "world:train", "reward": "world", "use_cpu": "true"}
    base |= {"output_dir": "out", "bf16": "false"}
    path = tmp_path / "config.yaml"

    def parse(more: dict[str, str], *overrides: str) -> Any:
        path.write_text("".join(f"{key}: {value}\n" for key, value in (base | more).items()))
        return parse_config(str(path), overrides)[1]

    assert type(parse({"method": "ppo", "gae_lambda": "0.9"})) is RLConfig
    assert parse({"method": "grpo"}, "--method", "dapo").method == "dapo"
    assert type(parse({"teacher_model_name_or_path": "world:teacher"})) is OPDConfig
    for more, overrides, message in (
        ({"method": "grpo", "teacher_model_name_or_path": "world:teacher"}, (), "path has no effect with"),
        ({"method": "dapo"}, ("--estimator", "sampled"), "estimator has no effect with method='dapo'"),
        ({}, ("--gae_lambda", "0.9"), "gae_lambda has no effect with method='opd'"),
        ({"num_generations": "8"}, (), "num_generations has no effect with method='opd'"),
        ({"method": "grpo", "num_generation": "8"}, (), "did you mean num_generations"),
        ({"stop_without_improvement": "3", "evaluation_dataset_name": "world:test"}, (), "while eval_strategy is 'no'"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=message):
            parse(more, *overrides)
