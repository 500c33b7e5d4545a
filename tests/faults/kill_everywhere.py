"""Kill a command at each of its points, start it again, and compare what it makes with that of an uninterrupted one.

    PYTHONPATH=src:tests python tests/faults/kill_everywhere.py WORK --out faults.json [--workload NAME ...] [--most N]

This process imports everything once and forks a child for each start, because importing torch and TRL takes longer than
the command. The same command is started at the same path each time: WORK/out.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from effopd.training.complete_checkpoints import newest_checkpoint
from faults.compare_directories import contents, differences
from faults.kill_points import KillPoints
from faults.workloads import STEP, WORKLOADS


def in_child(work: Callable[[], Any], log: Path) -> int:
    """Run a function in a fork of this process; return its exit status, or minus the signal that ended it."""
    return ended(start_child(work, log))


def start_child(work: Callable[[], Any], log: Path) -> int:
    """Start a function in a fork of this process, and return the number of its process."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Wait for the end of a process; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def choose(points: list[str], most: int | None, only: str) -> list[int]:
    """Choose points by number, from 1.

    Args:
        points: All points.
        most: About how many to choose: these evenly, and the first and the last of each kind; None chooses all.
        only: Regular expression of the points among which to choose.
    """
    numbers = [number for number, point in enumerate(points, start=1) if re.search(only, point)]
    if most is None or len(numbers) <= most:
        return numbers
    kinds: dict[str, list[int]] = {}
    for number in numbers:
        kinds.setdefault(kind_of(points[number - 1]), []).append(number)
    ends = {number for each in kinds.values() for number in (each[0], each[-1])}
    return sorted(ends | {numbers[round(index * (len(numbers) - 1) / (most - 1))] for index in range(most)})


def kind_of(point: str) -> str:
    """Tell what a point is without its path; calls keep their name."""
    return point if point.startswith("call ") else point.removesuffix(point.split(" ")[-1]).strip()


def kill_everywhere(name: str, work: Path, most: int | None = None, only: str = "") -> Iterator[dict[str, Any]]:
    """Yield a record of the uninterrupted command, then one of each kill.

    Args:
        name: Name of the workload.
        work: Directory to work in, which is removed first.
        most: Number of points to kill at, see `choose`.
        only: Regular expression of the points to kill at.
    """
    workload = WORKLOADS[name]
    shutil.rmtree(work, ignore_errors=True)
    inputs, out, states = work / "inputs", work / "out", work / "states"
    for each in (inputs, states):
        each.mkdir(parents=True)
    log, noted = work / "log", work / "points.json"

    def watched(chosen: Collection[int]) -> None:
        points = KillPoints(out, chosen, states)
        workload.watch(points)
        workload.run(inputs, out)
        noted.write_text(json.dumps(points.seen))

    def whole(work: Callable[[], Any]) -> dict[str, Any]:
        shutil.rmtree(out, ignore_errors=True)
        if in_child(work, log):
            raise RuntimeError(f"{name}: {log.read_text()}")
        return contents(out)

    # A child writes the inputs as well, so that this process never computes and has no threads.
    if in_child(lambda: workload.prepare(inputs), log):
        raise RuntimeError(log.read_text())
    expected = whole(lambda: watched(()))
    points = json.loads(noted.read_text())
    numbers = choose(points, most, only)
    yield {"workload": name, "points": len(points), "killed": len(numbers)}
    if changed := differences(expected, whole(lambda: watched(numbers))):
        raise RuntimeError(f"{name}: two uninterrupted commands differ in {changed}")
    if [*map(kind_of, json.loads(noted.read_text()))] != [*map(kind_of, points)]:
        raise RuntimeError(f"{name}: two uninterrupted commands have other points")
    done: dict[str, dict[str, Any]] = {}
    for number in numbers:
        state = states / str(number)
        record = {"workload": name, "number": number, "point": points[number - 1]}
        if (digest := digest_of(state)) not in done:  # all that a second start knows is what is on disk
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(state, out)
            done[digest] = _start_again(lambda: workload.run(inputs, out), out, log, expected)
        if steps := points[:number].count(STEP):
            checkpoint = newest_checkpoint(state)
            record["redone"] = steps - (int(checkpoint.name.split("-")[1]) if checkpoint else 0)
        yield record | done[digest]


def _start_again(run: Callable[[], None], out: Path, log: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Start a command again and tell what came of it."""
    if in_child(run, log):
        return {"outcome": "refused", "says": log.read_text().strip().splitlines()[-1]}
    changed = differences(expected, contents(out))
    return {"outcome": "differs", "in": changed} if changed else {"outcome": "same"}


def digest_of(directory: Path) -> str:
    """Compute a digest of the names and contents of everything in a directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(f"{path.relative_to(directory)}\0".encode() + (path.read_bytes() if path.is_file() else b"/"))
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--most", type=int)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    import_everything()
    work = options.work.resolve()
    write_records(
        (each for name in options.workload for each in kill_everywhere(name, work, options.most, options.only)),
        options.out,
    )
    return 0


def write_records(records: Iterable[dict[str, Any]], out: Path) -> None:
    """Write records into a file as they come, and print them."""
    written = ""
    for record in records:
        line = json.dumps(record)
        print(line, flush=True)
        written += f"{line}\n"
        out.write_text(written)


def import_everything() -> None:
    import torch

    import effopd.analysis
    import effopd.cli
    import effopd.evaluation
    import effopd.study.training
    import effopd.sweeps
    import effopd.training.run  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
