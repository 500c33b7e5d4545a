"""What ends a training run from outside: what the user sees, and whether the run goes on once the cause is gone.

PYTHONPATH=src:tests python tests/faults/causes.py WORK --out causes.jsonl [--only REGEX]
"""

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effopd.training.complete_checkpoints import newest_checkpoint
from faults.compare_directories import contents, differences
from faults.kill_everywhere import import_everything, in_child, write_records
from faults.workloads import training

RUN = {"monitor_every": None, "reward": "faults.causes:reward"}


def reward(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """A reward that random models sometimes earn, and that can be made to fail."""
    if calls is not None:
        calls.append(1)
        if len(calls) == FAILING_CALL:
            raise KeyError("unit")
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]


calls: list[int] | None = None
FAILING_CALL = 8


NO_SPACE = "Error while serializing: I/O error: No space left on device (os error 28)"  # as safetensors says it


def _full(writer: str) -> Callable[[Path], None]:
    """Make the disk full, for one of the ways in which files are written, once the first checkpoint is complete."""

    def start(out: Path) -> None:
        import io

        import safetensors.torch
        import torch

        places = {"safetensors": (safetensors.torch, "serialize_file"), "torch": (torch, "save"), "text": (io, "open")}
        owner, name = places[writer]
        function, usage = getattr(owner, name), shutil.disk_usage

        def is_full() -> bool:
            return (out / "checkpoint-2" / "effopd-complete.json").exists()

        def write(first: Any, *args: Any, **kwargs: Any) -> Any:
            if is_full() and writer == "safetensors":  # which puts a file in the place of /dev/full
                raise safetensors.SafetensorError(NO_SPACE)
            if is_full() and writer == "text" and args and args[0][0] in "wa" and str(first).startswith(str(out)):
                first = "/dev/full"
            result = function(first, *args, **kwargs)
            if is_full() and writer == "torch":  # which need not notice that what it had left in its buffer is lost
                os.truncate(args[0], Path(args[0]).stat().st_size - 100)
            return result

        setattr(owner, name, write)
        shutil.disk_usage = lambda path: usage(path)._replace(free=0) if is_full() else usage(path)

    return start


def _at_step(step: int, action: Callable[[Any], None]) -> Callable[[Path], None]:
    """Do something to the trainer when a step begins."""

    def start(out: Path) -> None:
        from effopd.training.metrics import MetricsCallback

        begin = MetricsCallback.on_step_begin

        def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begin(self, args, state, control, **kwargs)
            if state.global_step == step - 1:
                action(self.trainer)

        MetricsCallback.on_step_begin = on_step_begin

    return start


def _spoil_teacher(trainer: Any) -> None:
    trainer.teacher_model.lm_head.weight.data[0, 0] = float("nan")


def _stop_server(trainer: Any) -> None:
    """Sample by a server at a loopback port where nobody listens."""
    import requests

    trainer._generate_single_turn = lambda *args, **kwargs: requests.post("http://127.0.0.1:9/generate", timeout=5)


def _interrupt(trainer: Any) -> None:
    raise KeyboardInterrupt


def _failing_reward(out: Path) -> None:
    from faults import causes  # the module that the run imports, which is not this one when it is started as a script

    causes.calls = []


def _no_server(out: Path) -> None:
    from trl.generation import vllm_client, vllm_generation
    from trl.trainer import distillation_trainer

    for module in (vllm_client, vllm_generation, distillation_trainer):  # as if it were installed
        module.is_vllm_available = lambda *args, **kwargs: True


def _clock_goes_back(out: Path) -> None:
    """Set the clock back by an hour at every look at it, and date each checkpoint an hour before the last one."""
    from effopd.training import metrics

    mark, now = metrics.mark_complete, [time.time()]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    def mark_complete(checkpoint: Path, totals: Any, config: Any) -> None:
        mark(checkpoint, totals, config)
        os.utime(checkpoint, times=(back(), back()))

    time.time = back
    metrics.mark_complete = mark_complete


def _cut(name: str) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        os.truncate(checkpoint / name, (checkpoint / name).stat().st_size // 2)

    return damage


def _flip(name: str, first: int = 0) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        data = bytearray((checkpoint / name).read_bytes())
        data[first : first + 64] = bytes(255 - byte for byte in data[first : first + 64])
        (checkpoint / name).write_bytes(data)

    return damage


@dataclass(frozen=True)
class Cause:
    """A cause.

    Attributes:
        says: Regular expression of what the user sees; empty if the command ends well.
        start: Function that brings the cause about in the process of the command, given its output directory.
        damage: Function that damages a checkpoint, with which a second start is then made.
        changes: Settings of the run.
        resumes: Whether the run goes on when the cause is gone.
    """

    says: str
    start: Callable[[Path], None] = lambda out: None
    damage: Callable[[Path], None] | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    resumes: bool = True


_CLOCK = (("save_steps", 1), ("save_total_limit", 1))
_SERVER = (
    ("use_vllm", True),
    ("vllm_mode", "server"),
    ("vllm_server_base_url", "http://127.0.0.1:9"),
    ("vllm_server_timeout", 0.0),
)
_HALF = r"checkpoint-2 is damaged: {} has \d+ bytes, and had \d+ .* the same command then starts anew\."

CAUSES = {
    "disk full, at the model": Cause("No space left on device.*the same command continues", _full("safetensors")),
    "disk full, at the optimizer": Cause("No space left on device.*the same command continues", _full("torch")),
    "disk full, at the records": Cause("No space left on device.*the same command continues", _full("text")),
    "clock set back": Cause("", _clock_goes_back, changes=_CLOCK),
    "teacher of NaN": Cause(
        r"In step 3, the loss is nan, because the teacher has weights that are not finite: .* from checkpoint-2",
        _at_step(3, _spoil_teacher),
    ),
    "reward raises": Cause(
        r"After step \d, the reward function raised KeyError: 'unit' \(.*causes\.py, line \d+\)\. Mend it\.",
        _failing_reward,
    ),
    "vLLM server dies": Cause(
        r"After step 2, a server could not be reached: ConnectionError: .*continues from checkpoint-2",
        _at_step(3, _stop_server),
    ),
    "no vLLM server": Cause(
        r"Training needs a server: ConnectionError: The vLLM server can't be reached at http://127\.0\.0\.1:9",
        _no_server,
        changes=_SERVER,
        resumes=False,
    ),
    "model cut short": Cause(_HALF.format("model.safetensors"), damage=_cut("model.safetensors")),
    "model's header flipped": Cause(
        "checkpoint-2 is damaged: model.safetensors: .*header", damage=_flip("model.safetensors")
    ),
    "optimizer cut short": Cause(_HALF.format("optimizer.pt"), damage=_cut("optimizer.pt")),
    "optimizer's header flipped": Cause(
        "checkpoint-2 is damaged: optimizer.pt: Bad magic number for file header", damage=_flip("optimizer.pt")
    ),
    "anchor cut short": Cause(
        _HALF.format("effopd/anchor-.*safetensors"), damage=_cut("effopd/anchor-00000-of-00001.safetensors")
    ),
    "trainer's state cut short": Cause(_HALF.format("trainer_state.json"), damage=_cut("trainer_state.json")),
    "marker cut short": Cause(
        "checkpoint-2 is damaged: effopd-complete.json is no JSON", damage=_cut("effopd-complete.json")
    ),
}


def cause_and_go_on(name: str, work: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Bring a cause about, read what the user sees, take the cause away, and start the command again.

    Args:
        name: Name of the cause.
        work: Directory to work in.
        expected: Contents of the directories of uninterrupted runs by their settings, which are added to.
    """
    cause = CAUSES[name]
    out, log, inputs = work / "out", work / "log", work / "inputs"
    workload = training(**RUN | dict(cause.changes))
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir(parents=True)
    assert in_child(lambda: workload.prepare(inputs), log) == 0, log.read_text()

    def run(start: Callable[[Path], None] = lambda out: None) -> int:
        def command() -> None:
            start(out)
            workload.run(inputs, out)

        return in_child(command, log)

    key = repr(cause.changes)
    if cause.resumes and key not in expected:
        shutil.rmtree(out, ignore_errors=True)
        assert run() == 0, log.read_text()
        expected[key] = contents(out)
    shutil.rmtree(out, ignore_errors=True)
    intact = work / "intact"
    if cause.damage:
        assert run(_at_step(4, _interrupt)) != 0
        checkpoint = newest_checkpoint(out)
        assert checkpoint is not None
        shutil.rmtree(intact, ignore_errors=True)
        shutil.copytree(checkpoint, intact)
        cause.damage(checkpoint)
    failed = run(cause.start)
    lines = log.read_text().strip().splitlines()
    says = next((line for line in lines if line.startswith("effopd: ")), "")
    record: dict[str, Any] = {"cause": name, "says": says.replace(str(out), "OUT")}
    if bool(failed) != bool(cause.says) or not re.search(cause.says, says):
        return record | {"outcome": "unexpected", "log": lines[-12:]}
    if not cause.resumes:
        return record | {"outcome": "nothing was begun"}
    if cause.damage:
        shutil.rmtree(checkpoint)
        shutil.copytree(intact, checkpoint)
    if failed and run():
        return record | {"outcome": "refused", "log": log.read_text().strip().splitlines()[-12:]}
    changed = differences(expected[key], contents(out))
    return record | ({"outcome": "differs", "in": changed} if changed else {"outcome": "same"})


def all_causes(work: Path, only: str = "") -> Iterator[dict[str, Any]]:
    """Yield a record of each cause whose name has the regular expression."""
    expected: dict[str, Any] = {}
    for name in CAUSES:
        if re.search(only, name):
            yield cause_and_go_on(name, work, expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    import_everything()
    write_records(all_causes(options.work.resolve(), options.only), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
