"""Training on two hosts that lose sight of each other, and go on later.

    PYTHONPATH=src:tests python tests/faults/two_hosts.py WORK --out hosts.jsonl [--only REGEX]

The hosts are two network namespaces of this machine, joined by one cable (a pair of virtual devices), with addresses
that are reserved for documentation (RFC 5737). torchrun starts one process on each, and they find each other by its
rendezvous on the first. At a call in the second process, that process pulls out the cable: nothing is refused or reset,
packets just do not arrive, as between hosts whose network fails. It takes root and the command `ip` (Debian's
iproute2).
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.compare_directories import contents, differences
from faults.kill_everywhere import import_everything, in_child, write_records
from faults.processes import SETTINGS, SNAPSHOT, at_call
from faults.workloads import training

TIMEOUT = 30  # seconds that a process waits for the other in a collective operation
WITHIN = 300  # seconds after the cut after which a process that has not ended is killed
PATIENCE = 15  # seconds that torchrun gets to end after its process; without its rendezvous it may take many minutes
ADDRESSES = "192.0.2.1", "192.0.2.2"
CABLE = "cable"
PLACES = {
    "while it samples for validation": ("effopd.trl_hooks:generate", 3),
    "before a candidate is judged": (f"{SNAPSHOT}.write_candidate", 2),
    "before the anchor is kept": (f"{SNAPSHOT}.commit", 2),
    "at an optimizer step": ("accelerate.optimizer:AcceleratedOptimizer.step", 3),
    "while a checkpoint is saved": ("accelerate:Accelerator.wait_for_everyone", 4),
}
WORKLOAD = training(**SETTINGS | {"per_device_train_batch_size": 4, "ddp_timeout": TIMEOUT})


def ip(*arguments: str) -> None:
    """Run the command `ip`."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Make two namespaces and the cable; yield their names, and remove them in the end."""
    hosts = [f"effopd-{os.getpid()}-{rank}" for rank in range(2)]
    try:
        for host in hosts:
            ip("netns", "add", host)
        ip("-n", hosts[0], "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", hosts[1])
        for host, address in zip(hosts, ADDRESSES, strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", CABLE)
            ip("-n", host, "link", "set", "dev", "lo", "up")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host], check=False)


class Hosts:
    """Runs of one configuration on two hosts."""

    def __init__(self, names: list[str], work: Path) -> None:
        self.names, self.work, self.inputs, self.out = names, work, work / "inputs", work / "out"
        shutil.rmtree(work, ignore_errors=True)
        self.inputs.mkdir(parents=True)
        assert in_child(lambda: WORKLOAD.prepare(self.inputs), work / "log") == 0, (work / "log").read_text()

    def start(self, place: str | None = None) -> list[int | None]:
        """Put in the cable, start the run on both hosts, and wait until both processes have ended.

        Returns:
            Exit status of torchrun on each host; None of one that did not end after its process, and was killed.
        """
        for name in self.names:
            ip("-n", name, "link", "set", "dev", CABLE, "up")
        for mark in self.work.glob("*.mark"):
            mark.unlink()
        running = []
        for rank, (name, address) in enumerate(zip(self.names, ADDRESSES, strict=True)):
            torchrun = f"-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --local-addr {address}"
            torchrun += f" --rdzv-backend c10d --rdzv-endpoint {ADDRESSES[0]}:29500 --rdzv-conf is_host={1 - rank}"
            command = ["ip", "netns", "exec", name, sys.executable, *torchrun.split(), __file__, str(self.work)]
            command += ["--member", str(rank), *(["--cut", place] if place else [])]
            with self.log(rank).open("w") as log:
                environment = os.environ | {"GLOO_SOCKET_IFNAME": CABLE, "OMP_NUM_THREADS": "1"}
                running.append(
                    subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
                )
        while any(each.poll() is None for each in running):
            time.sleep(0.5)
            ends, cut = [self.age(f"ended-{rank}") for rank in range(2)], self.age("cut")
            if min(age or 0 for age in ends) > PATIENCE or (cut or 0) > WITHIN:
                break
        statuses = [each.poll() for each in running]
        for each in running:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
                each.wait()
        return statuses

    def age(self, name: str) -> float | None:
        """Return the seconds since something happened in this run, of which a process left a mark; None if not."""
        mark = self.work / f"{name}.mark"
        return time.time() - mark.stat().st_mtime if mark.exists() else None

    def log(self, rank: int) -> Path:
        """Return the file with what the process and torchrun of a host wrote."""
        return self.work / f"log-{rank}"

    def says(self, rank: int) -> str:
        """Return the line that the user sees on a host."""
        lines = self.log(rank).read_text().splitlines()
        return next((line for line in lines if line.startswith("effopd: ")), "").replace(str(self.out), "OUT")


def member(work: Path, rank: int, place: str | None) -> None:
    """Be the process of a host: train, and on the second host pull out the cable at the place."""

    def cut() -> None:
        (work / "cut.mark").touch()
        ip("link", "set", "dev", CABLE, "down")

    if place and rank == 1:
        at_call(*PLACES[place], cut)
    try:
        WORKLOAD.run(work / "inputs", work / "out")
    finally:
        (work / f"ended-{rank}.mark").touch()


def cut_off(hosts: Hosts, only: str) -> Iterator[dict[str, Any]]:
    """Yield a record of each place at which the hosts lose each other and are started again."""
    assert hosts.start() == [0, 0], hosts.log(0).read_text()
    expected = contents(hosts.out)
    for place in [place for place in PLACES if re.search(only, place)]:
        shutil.rmtree(hosts.out)
        statuses = hosts.start(place)
        cut = hosts.age("cut") or 0.0
        record: dict[str, Any] = {
            "cause": f"two hosts lose each other {place}",
            "torchrun": statuses,
            "ended_after": [round(cut - (hosts.age(f"ended-{rank}") or cut), 1) for rank in range(2)],
            "says": hosts.says(0),
            "other_says": hosts.says(1),
        }
        if hosts.start() != [0, 0]:
            yield record | {"outcome": "refused", "log": hosts.log(0).read_text()[-2000:]}
            continue
        changed = differences(expected, contents(hosts.out))
        yield record | ({"outcome": "differs", "in": changed} if changed else {"outcome": "same"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--member", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member is not None:
        member(options.work, options.member, options.cut)
        return 0
    import_everything()
    with two_hosts() as names:
        write_records(cut_off(Hosts(names, options.work.resolve()), options.only), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
