"""`effopd study`: train, analyse, sweep and judge, each piece in its own folder, so that what is finished stays.

OUT/study.json              what is studied, with the digest of the claims
OUT/written_down/           the claims, thresholds, plan and statistics as they were before the first run
OUT/WORLD/runs/ROLE-SEED/   training runs
OUT/WORLD/analysis/, OUT/WORLD/sweep/, OUT/WORLD/linearized/SEED/
OUT/WORLD/finished.json     once all of that is there: the world is not looked at again, and its weights are not needed
OUT/claims.json, OUT/study.html, OUT/evidence.md
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from effopd.analysis import analyze
from effopd.console import print_places
from effopd.errors import ConfigurationError, EffOPDError
from effopd.files import write_json, write_text
from effopd.report.study import write_study_report
from effopd.run_directory import claimed
from effopd.study.boundary import find_boundaries
from effopd.study.claims import digest, written_down
from effopd.study.pieces import run_piece, view_piece
from effopd.study.plan import StudyPlan
from effopd.study.pool import do_pieces, session
from effopd.study.records import Records, read_records
from effopd.study.results import judge
from effopd.study.spec import OwnModels
from effopd.sweeps import SweepSpec, check_workers, make_spec, num_workers, sweep
from effopd.versions import installed_versions

STUDY, CLAIMS_FILE, FINISHED = "study.json", "claims.json", "finished.json"
_PACKAGES = ("effopd", "torch", "transformers", "trl", "numpy", "scipy")


class _Means(NamedTuple):
    """What the pieces are done with.

    Attributes:
        ray: Ray, or None for one piece at a time in this process.
        workers: Number of workers that was asked for, or None.
        address: Address of a Ray cluster, or None.
        gpus_per_worker: Number of GPUs of each worker of a sweep.
        console: Console that shows progress.
    """

    ray: Any
    workers: int | None
    address: str | None
    gpus_per_worker: float
    console: Console


def study(
    what: StudyPlan | OwnModels,
    out: str | Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    console: Console | None = None,
) -> Path:
    """Do a study, or what is left of it, and write its report.

    Args:
        what: Worlds to train in, from `make_plan`, or one's own models, from `read_own_models`.
        out: Directory of the study.
        workers: Number of runs and evaluations at a time; by default one for each processor. More than one need Ray.
        address: Address of a running Ray cluster, whose nodes share `out`.
        gpus_per_worker: Number of GPUs, or a fraction of one, for each worker that evaluates one's own models.
        console: Console that shows progress; standard output by default.

    Returns:
        The path of the report.

    Raises:
        CheckpointError: `out` holds another study, or one of other claims.
        ConfigurationError: GPUs are asked for where there are none, or for the embedded worlds.
        EffOPDError: Runs or evaluations failed, or a piece cannot be done. The report is of the others.
    """
    out, console = Path(out), console or Console(highlight=False)
    if isinstance(what, OwnModels):
        check_workers(workers, address, gpus_per_worker)
        what.check()
    elif gpus_per_worker:
        raise ConfigurationError("The models of the embedded worlds are for CPUs. Leave --gpus-per-worker out.")
    texts = written_down()
    settings = settings_of(what, texts)
    failed: list[str] = []
    with claimed(out, STUDY, settings, holds="a study"), session(workers, address, gpus_per_worker) as ray:
        means = _Means(ray, workers, address, gpus_per_worker, console)
        for name, text in texts.items():
            write_text(out / "written_down" / name, text)
        try:
            if isinstance(what, OwnModels):
                failed += _own_models(what, out / what.name, means)
            else:
                for world in what.worlds:
                    failed += _world(what, world, out / world, means)
        finally:  # also after an interruption
            content = judged(what, out, settings, failed)
            write_json(out / CLAIMS_FILE, content)
            report = write_study_report(content, out)
    print_places(console, {"Report": report, "Claims": out / CLAIMS_FILE, "Table": out / "evidence.md"})
    if failed:
        raise EffOPDError(
            f"{len(failed)} pieces failed, and claims that need them are undecided. The first is "
            f"{failed[0].rstrip('.')}. The same command tries them again."
        )
    return report


def judged(
    what: StudyPlan | OwnModels, out: Path, settings: Mapping[str, Any], failed: Sequence[str] = ()
) -> dict[str, Any]:
    """Judge the claims by what there is of a study, and return what `claims.json` says.

    Args:
        what: What was studied.
        out: Directory of the study.
        settings: What `settings_of` says of the study.
        failed: What is said of pieces that failed.
    """
    records = list(_records(what, out))
    return {
        "study": dict(settings),
        "targets": {each.world: each.target for each in records},
        "failed": list(failed),
        "versions": installed_versions(_PACKAGES),
        "claims": judge(records),
        "boundaries": find_boundaries(records),
    }


def settings_of(what: StudyPlan | OwnModels, texts: dict[str, str]) -> dict[str, Any]:
    """Describe what is studied, with the digest of what is written down about the claims (see `written_down`)."""
    settings: dict[str, Any] = {"claims_sha256": digest(texts)}
    if isinstance(what, OwnModels):
        places = {f"{role}-{seed}": place for (role, seed), place in what.places().items()}
        own = {"spec": what.sweep.to_json(), "runs": places, "target": what.target, "linearized": what.linearized}
        return {"plan": "own models"} | own | settings
    methods = {role: asdict(plan) for role, plan in what.methods.items()}
    of_plan = {"worlds": what.worlds, "seeds": what.seeds, "methods": methods, "sizes": what.settings}
    return {"plan": what.name} | of_plan | settings


def _world(plan: StudyPlan, world: str, out: Path, means: _Means) -> list[str]:
    """Do what a world needs, and return what failed."""
    if (out / FINISHED).exists():
        return []
    jobs = [(training, out / "runs" / training.name) for training in plan.trainings(world)]

    def say(line: str) -> None:
        means.console.print(f"{world} {line}", markup=False, soft_wrap=True)

    sizes = plan.settings["linearize"]
    views = [view_piece(world, seed, sizes, place) for seed, place in _linearized(plan, out).items()]
    failed: dict[str, str] = {}
    for pieces in (views, [run_piece(*job) for job in jobs]):  # views first, which know nothing of training
        failed |= do_pieces(pieces, means.workers, means.ray, say)
    errors = [f"{world}/{name}: {error}" for name, error in failed.items()]
    swept = {training.name: str(place) for training, place in jobs if training.plan.swept}
    if broken := sorted(set(swept) & set(failed)):
        return [*errors, f"{world}: nothing was analysed, because {', '.join(broken)} failed"]
    spec = make_spec(plan.sweep(world, out / "runs"))
    errors += _measure(f"world:{world}/base", swept, spec, out, means)
    if not errors:
        write_json(out / FINISHED, {"runs": [training.name for training, _ in jobs]})
    return errors


def _linearized(plan: StudyPlan, out: Path) -> dict[int, Path]:
    """Name the directory of each seed's local quadratic view."""
    return {seed: out / "linearized" / str(seed) for seed in plan.seeds}


def _own_models(own: OwnModels, out: Path, means: _Means) -> list[str]:
    runs = {f"{role}-{seed}": place for (role, seed), place in own.places().items()}
    return _measure(own.sweep.base, runs, own.sweep, out, means)


def _measure(base: str, runs: Mapping[str, str | list[str]], spec: SweepSpec, out: Path, means: _Means) -> list[str]:
    """Analyse and sweep, or do what is left of it, and return the cells that failed."""
    here = num_workers(means.workers, means.address, 0.0)
    analyze(base, runs, out / "analysis", workers=here, console=means.console)
    where: dict[str, Any] = {"workers": means.workers, "address": means.address}
    result = sweep(spec, out / "sweep", **where, gpus_per_worker=means.gpus_per_worker, console=means.console)
    return [f"{out.name}: {line}" for line in result.failed]


def _records(what: StudyPlan | OwnModels, out: Path) -> Iterator[Records]:
    if isinstance(what, OwnModels):
        here = {key: None if isinstance(place, list) else Path(place) for key, place in what.places().items()}
        folder = out / what.name
        view = {} if what.linearized is None else {seed: Path(what.linearized) for _, seed in here}
        places: dict[str, Any] = {"analysis": folder / "analysis", "sweep": folder / "sweep", "linearized": view}
        yield read_records(what.name, here, labels=what.roles, target=what.target, **places)
        return
    labels = {role: plan.label for role, plan in what.methods.items()}
    for world in what.worlds:
        runs = {(each.role, each.seed): out / world / "runs" / each.name for each in what.trainings(world)}
        of = out / world
        places = {"analysis": of / "analysis", "sweep": of / "sweep", "linearized": _linearized(what, of)}
        yield read_records(world, runs, labels=labels, target=what.target(world), **places)
