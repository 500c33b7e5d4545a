"""The loss of TRL's DistillationTrainer, for each rollout apart and replaced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, distillation_trainer, kl_by_hand, tiny_dataset, weights

from effopd import trl_hooks


@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_divergence_per_rollout_is_the_exact_reverse_kl(beta: float, tmp_path: Path) -> None:
    """Against a plain computation of each sequence by itself, whatever trains; nothing of training is touched."""
    trainer = distillation_trainer(tmp_path, beta=beta)
    rollouts = trl_hooks.generate(trainer, [{"prompt": "1+" * (i % 3) + "1="} for i in range(11)], seed=0)
    before = weights(trainer)
    trainer._metrics["eval"]["kept"] = [1.0]
    divergences = trl_hooks.divergence_per_rollout(trainer, rollouts)
    assert dict(trainer._metrics["eval"]) == {"kept": [1.0]}
    assert not trainer._metrics["train"]
    assert trainer.model.training
    trainer.model.eval()
    trl_hooks.divergence_per_rollout(trainer, rollouts[:1])
    assert not trainer.model.training
    assert_same(before, weights(trainer))
    for rollout, divergence in zip(rollouts, divergences, strict=True):
        torch.testing.assert_close(divergence.double(), kl_by_hand(trainer, rollout), rtol=1e-4, atol=1e-6)


def test_replaced_loss_is_put_back() -> None:
    original = trl_hooks.divergence_loss()
    with pytest.raises(KeyError), trl_hooks.replaced_loss(lambda *args, **kwargs: (None, None, None)):
        assert trl_hooks.divergence_loss() is not original
        raise KeyError
    assert trl_hooks.divergence_loss() is original


def test_the_teacher_reads_rollouts_once_where_its_states_are_kept(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    rollouts = trl_hooks.generate(trainer, list(tiny_dataset(11)), seed=0)
    original, read = trainer._get_last_hidden_state, []

    def counted(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        read.append(model is trainer.teacher_model)
        return original(model, *args, **kwargs)

    trainer._get_last_hidden_state = counted
    kept: dict[int, torch.Tensor] = {}
    divergences = [trl_hooks.divergence_per_rollout(trainer, rollouts, states) for states in (None, kept, kept)]
    assert trainer._get_last_hidden_state is counted
    assert read == [False, True] * 4 + [False] * 2  # two micro-batches: 8 and 3 rollouts
    assert sorted(kept) == [0, 8]
    for first, *others in zip(*divergences, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_token_logprobs_are_those_of_the_whole_distributions() -> None:
    torch.manual_seed(0)
    hidden, heads = torch.randn(2, 3, 5, 4), torch.randn(2, 7, 4)
    tokens = torch.randint(7, (3, 5))
    settings: dict[str, Any] = {}
    for role in ("student", "teacher"):
        settings |= {f"{role}_lm_head_bias": None, f"{role}_final_logit_softcapping": None, f"{role}_logit_scale": 1.0}
    settings["teacher_lm_head_bias"] = torch.randn(7)
    student, teacher, entropy = trl_hooks.token_logprobs(
        tokens, hidden[0].requires_grad_(), hidden[1], *heads, temperature=1.3, **settings
    )
    plain = ((hidden[0] @ heads[0].T) / 1.3).log_softmax(-1)
    biased = ((hidden[1] @ heads[1].T + settings["teacher_lm_head_bias"]) / 1.3).log_softmax(-1)
    torch.testing.assert_close(student, plain.gather(-1, tokens[..., None])[..., 0])
    torch.testing.assert_close(teacher, biased.gather(-1, tokens[..., None])[..., 0])
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))
    assert student.requires_grad
    assert not teacher.requires_grad
