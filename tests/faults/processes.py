"""Training by two processes of which one is killed, and training that goes on with another number of processes.

    PYTHONPATH=src:tests python tests/faults/processes.py WORK --out processes.jsonl [--only REGEX]

The processes are forks of this one, which has imported everything.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from faults.compare_directories import contents, differences
from faults.kill_everywhere import ended, import_everything, in_child, start_child, write_records
from faults.workloads import training

SETTINGS: dict[str, Any] = {"monitor_every": None, "reward": "tiny:contains_answer", "ddp_timeout": 60}
SNAPSHOT = "effopd.extrapolation.snapshot:Snapshot"
# What the second process gets, and where: a function of a class or module, and its call of that number. One that is
# stopped answers nothing, as if its host had lost the network.
PLACES = {
    "killed while it samples for validation": ("effopd.trl_hooks:generate", 3, signal.SIGKILL),
    "killed before a candidate is judged": (f"{SNAPSHOT}.write_candidate", 2, signal.SIGKILL),
    "killed before the anchor is kept": (f"{SNAPSHOT}.commit", 2, signal.SIGKILL),
    "killed at an optimizer step": ("accelerate.optimizer:AcceleratedOptimizer.step", 3, signal.SIGKILL),
    "killed while a checkpoint is saved": ("accelerate:Accelerator.wait_for_everyone", 4, signal.SIGKILL),
    "stopped before a candidate is judged": (f"{SNAPSHOT}.write_candidate", 2, signal.SIGSTOP),
}


def by(number: int, work: Callable[[int], Any], log: Path) -> list[int]:
    """Run a function in so many processes of one process group; return how each ended."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(number):

        def member(rank: int = rank) -> None:
            if number > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            work(rank)

        children.append(start_child(member, log.with_name(f"{log.name}-{rank}")))
    first = ended(children[0])
    if first:  # one that was stopped would never end
        for child in children[1:]:
            os.kill(child, signal.SIGKILL)
    return [first, *map(ended, children[1:])]


def at_call(place: str, number: int, act: Callable[[], Any]) -> None:
    """Do something in this process just before the call of that number, from 1, of a function "MODULE:NAME"."""
    import importlib

    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for each in owners:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), [0]

    def called(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return function(*args, **kwargs)

    setattr(owner, name, called)


def _end_second(place: str, number: int, by_signal: int, rank: int) -> None:
    """Have the second process send itself a signal at a call."""
    if rank:
        at_call(place, number, lambda: os.kill(os.getpid(), by_signal))


class Runs:
    """Runs of one configuration by one or two processes."""

    def __init__(self, work: Path) -> None:
        self.work, self.out, self.log = work, work / "out", work / "log"
        shutil.rmtree(work, ignore_errors=True)
        self.inputs = {number: work / f"inputs-{number}" for number in (1, 2)}
        for number, inputs in self.inputs.items():
            inputs.mkdir(parents=True)
            workload = training(**SETTINGS | {"per_device_train_batch_size": 8 // number})
            assert in_child(lambda inputs=inputs, workload=workload: workload.prepare(inputs), self.log) == 0
            if number > 1:  # the same models, so that only the number of processes differs
                text = (inputs / "run.yaml").read_text()
                (inputs / "run.yaml").write_text(text.replace(str(inputs), str(self.inputs[1])))
        self.run_workload = workload.run

    def start(
        self, number: int, settings_of: int | None = None, before: Callable[[int], None] = lambda rank: None
    ) -> list[int]:
        """Start the run by a number of processes, with the settings for that or another number."""

        def work(rank: int) -> None:
            before(rank)
            self.run_workload(self.inputs[settings_of or number], self.out)

        return by(number, work, self.log)

    def says(self, rank: int = 0) -> str:
        """What the user sees of a process."""
        lines = self.log.with_name(f"{self.log.name}-{rank}").read_text().splitlines()
        return next((line for line in lines if line.startswith("effopd: ")), "").replace(str(self.out), "OUT")

    def after_two_steps(self) -> None:
        """Leave of a finished run what one has that was killed after its first checkpoint."""
        (self.out / "run.json").unlink()
        shutil.rmtree(self.out / "checkpoint-4")

    def anew(self) -> None:
        """Remove the run."""
        shutil.rmtree(self.out, ignore_errors=True)


def kill_one(runs: Runs, only: str) -> Iterator[dict[str, Any]]:
    """End the second of two processes at each place, and start both again."""
    names = [name for name in PLACES if re.search(only, name)]
    if not names:
        return
    assert runs.start(2) == [0, 0], runs.log.with_name("log-0").read_text()
    expected = contents(runs.out)
    for name in names:
        runs.anew()
        statuses = runs.start(2, before=partial(_end_second, *PLACES[name]))
        record = {"cause": f"one of two processes {name}", "ended": statuses, "says": runs.says()}
        if runs.start(2) != [0, 0]:
            yield record | {"outcome": "refused", "log": runs.log.with_name("log-0").read_text()[-2000:]}
            continue
        changed = differences(expected, contents(runs.out))
        yield record | ({"outcome": "differs", "in": changed} if changed else {"outcome": "same"})


def change_number(runs: Runs, before: int, now: int) -> Iterator[dict[str, Any]]:
    """Go on with another number of processes: refused as it is, and accepted with as many prompts per step."""
    runs.anew()
    assert runs.start(before) == [0] * before, runs.log.with_name("log-0").read_text()
    runs.after_two_steps()
    first = contents(runs.out)["extrapolations.jsonl"][:2]
    name = f"{before} to {now} processes"
    statuses = runs.start(now, settings_of=before)
    refused = {"cause": f"{name}, other prompts per step", "ended": statuses, "says": runs.says()}
    yield refused | {"outcome": "refused" if all(statuses) else "accepted"}
    statuses = runs.start(now)
    record = {"cause": f"{name}, as many prompts per step", "ended": statuses, "says": runs.says()}
    if any(statuses):
        yield record | {"outcome": "refused", "log": runs.log.with_name("log-0").read_text()[-2000:]}
        return
    found = contents(runs.out)
    kept = found["extrapolations.jsonl"][:2] == first and [row["step"] for row in found["metrics.jsonl"]] == [
        1,
        2,
        3,
        4,
    ]
    rows = [row["rollouts"] - row["validation_rollouts"] for row in found["metrics.jsonl"]]
    yield record | {"outcome": "goes on" if kept and rows == [8, 16, 24, 32] else "differs", "rollouts": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    import_everything()
    runs = Runs(options.work.resolve())
    parts = [kill_one(runs, options.only)]
    if re.search(options.only, "number"):
        parts += [change_number(runs, 2, 1), change_number(runs, 1, 2)]
    write_records(chain.from_iterable(parts), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
