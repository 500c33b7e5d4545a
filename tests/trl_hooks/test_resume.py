"""Being called when training starts or resumes. tests/extrapolation/test_resuming.py tests the order of prompts."""

import gc
from pathlib import Path
from typing import Any

from tiny import distillation_trainer

from effopd import trl_hooks


def test_the_order_of_prompts_is_looked_after_once(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trl_hooks.on_resume(trainer, print)
    initialize = trainer._init_training_state
    trl_hooks.on_resume(trainer, print)
    assert trainer._init_training_state is initialize


class Listener:
    """Notes what its method is called with."""

    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard

    def hear(self, *what: str) -> None:
        self.heard.append(what)


def test_actions_are_called_and_do_not_keep_their_objects_alive(tmp_path: Path) -> None:
    distillation_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    trainer = distillation_trainer(tmp_path, max_steps=2)
    heard: list[Any] = []
    kept, lost = Listener(heard), Listener(heard)
    for each in (kept, lost):
        trl_hooks.on_start(trainer, each.hear)
        trl_hooks.on_resume(trainer, each.hear)
    del lost, each
    gc.collect()
    checkpoint = str(tmp_path / "checkpoint-1")
    trainer.train(resume_from_checkpoint=checkpoint)
    assert sorted(heard) == [(), (checkpoint,)]
    assert trainer.state.global_step == 2


def test_nothing_is_resumed_from_when_training_starts_anew(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    heard: list[Any] = []
    trl_hooks.on_start(trainer, lambda: heard.append("start"))
    trl_hooks.on_resume(trainer, heard.append)
    trainer.train()
    assert heard == ["start"]
