"""Many triggers in one process: memory and open files stay what they were."""

import os
from pathlib import Path
from typing import Any

import pytest
from tiny import distillation_trainer
from transformers import TrainerCallback

from effopd.extrapolation import EffOPDCallback

STEPS, FIRST = 2000, 400


class Usage(TrainerCallback):
    """Notes resident memory in bytes and the number of open files every hundred steps."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, int]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            num_open = len([*Path("/proc/self/fd").iterdir()])
            self.seen[state.global_step] = pages * os.sysconf("SC_PAGE_SIZE"), num_open


@pytest.mark.slow
def test_two_thousand_triggers_leave_memory_and_files_as_they_were(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 500, "save_total_limit": 1, "logging_steps": 100}
    small = {"per_device_train_batch_size": 2, "max_completion_length": 2, "learning_rate": 1e-5}
    trainer = distillation_trainer(tmp_path, max_steps=STEPS, **saving, **small)
    callback = EffOPDCallback(trainer, validator="teacher_kl", schedule="every:1", num_prompts=2, scales=[1])
    usage = Usage()
    trainer.add_callback(callback)
    trainer.add_callback(usage)
    trainer.train()
    assert len((tmp_path / "extrapolations.jsonl").read_text().splitlines()) == STEPS
    memory, files = zip(*(usage.seen[step] for step in range(FIRST, STEPS + 1, 100)), strict=True)
    assert max(memory) - memory[0] < 24 << 20, memory
    assert max(files) <= files[0] + 1, files
