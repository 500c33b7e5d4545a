"""What becomes of some claims of the study if their statistic is another one: thought of after the verdicts were seen.

python benchmarks/study_sensitivity.py    # reads results/study-records, writes results/study_sensitivity.json
python benchmarks/evidence.py             # puts the table into docs/evidence.md
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from study_records import RECORDS, unpack

from effopd.extrapolation.presets import resolve_preset
from effopd.files import write_json
from effopd.study.claims import CLAIMS
from effopd.study.plan import make_plan
from effopd.study.records import Records
from effopd.study.run import FINISHED, _records
from effopd.study.verdict import compare_world, compare_worlds, holm, overall

OUT = Path(__file__).parent / "results" / "study_sensitivity.json"
CLAIM = {claim.name: claim for claim in CLAIMS}
PASSES = resolve_preset("line_search").passes
Measure = Callable[[Records, int], float]


class Alternative(NamedTuple):
    """Another statistic for a claim: what it is, in words, and how it is measured."""

    claim: str
    words: str
    measure: Measure


def per_element(records: Records, seed: int) -> float:
    """Spearman's correlation between the norms of b and of the update, each over the root of the number of elements."""
    rows = _with_driving_norm(records, seed)
    root = np.sqrt(rows["numel"])
    return float(spearmanr(rows["driving"] / root, rows["frobenius_norm"] / root).statistic)


def number_of_elements(records: Records, seed: int) -> float:
    """Spearman's correlation between the number of elements and the norm of the update, without b."""
    rows = _with_driving_norm(records, seed)
    return float(spearmanr(rows["numel"], rows["frobenius_norm"]).statistic)


def at_the_last_common_step(records: Records, seed: int) -> float:
    """Accuracy of EffOPD at its last evaluation, less vanilla's at the last one that is not after it."""
    (step, accuracy), vanilla = _accuracies(records, "effopd", seed)[-1], _accuracies(records, "opd", seed)
    return accuracy - [value for at, value in vanilla if at <= step][-1]


def in_optimizer_steps(name: str) -> Measure:
    """Ratio of steps, of which a line search takes several on each step's rollouts. Bounds count as values."""
    return lambda records, seed: float(CLAIM[name].measure(records, seed)) / PASSES


def only_between_checkpoints(records: Records, seed: int) -> float:
    """Share of the compared norms at which OPD has a checkpoint at or below, other than the base."""
    first = records.curve("update_norm", "opd", seed, "checkpoint")["update_norm"].iloc[0]
    reach = min(records.curve("update_norm", role, seed, "checkpoint")["update_norm"].max() for role in ("opd", "rl"))
    return float(max(0.0, 1 - first / reach))


ALTERNATIVES = (
    Alternative("driving_ranks_updates", "norms per root of the number of elements", per_element),
    Alternative("driving_ranks_updates", "number of elements in place of b", number_of_elements),
    Alternative("performance_kept", "at EffOPD's last step", at_the_last_common_step),
    Alternative("line_search_steps", "optimizer steps", in_optimizer_steps("line_search_steps")),
    Alternative("line_search_steps_best", "optimizer steps", in_optimizer_steps("line_search_steps_best")),
)


def _with_driving_norm(records: Records, seed: int):
    rows = records.updates
    rows = rows[(rows["role"] == "opd") & (rows["seed"] == seed)]
    rows = rows[rows["checkpoint"] == rows["checkpoint"].max()].copy()
    rows["driving"] = rows["parameter"].map(records.linearized[seed]["driving_norm_by_parameter"])
    rows["numel"] = rows["rows"].fillna(1) * rows["cols"].fillna(1)
    return rows.dropna(subset=["driving"])


def _accuracies(records: Records, role: str, seed: int) -> list[tuple[int, float]]:
    rows = records.metrics[role, seed]
    return [(row["step"], row["accuracy"]) for row in rows if row.get("accuracy") is not None]


def judge(alternative: Alternative, worlds: list[Records], published: dict[str, float]) -> dict:
    """Judge a claim by another statistic, with Holm's adjustment over the p-values of all claims, this one replaced."""
    claim = CLAIM[alternative.claim]
    seeds = sorted({seed for role, seed in worlds[0].planned if role == "opd"})
    values = {each.world: [alternative.measure(each, seed) for seed in seeds] for each in worlds}
    found = compare_worlds(claim, values)
    by_world = {world: compare_world(claim, each) for world, each in values.items()}
    adjusted = None if found.p is None else holm(published | {claim.name: found.p})[claim.name]
    verdict = overall(found, adjusted, [each.verdict(each.p) for each in by_world.values()])
    numbers = {world: _interval(each) for world, each in by_world.items()} | {"all worlds": _interval(found)}
    return {"claim": claim.name, "statistic": alternative.words, "p_holm": adjusted, "verdict": verdict, **numbers}


def _interval(found) -> list[float]:
    return [found.estimate, found.low, found.high]


def main() -> None:
    names = sorted(path.parent.name for path in RECORDS.glob(f"*/{FINISHED}"))
    plan = make_plan("short", worlds=[world for world in make_plan("short").worlds if world in names])
    with tempfile.TemporaryDirectory() as folder:
        unpack(RECORDS, Path(folder))
        worlds = list(_records(plan, Path(folder)))
    claims = json.loads((RECORDS.parent / "study.json").read_text())["claims"]
    published = {claim["name"]: claim["p"] for claim in claims if claim["p"] is not None}
    seeds = plan.seeds
    covered = {each.world: [only_between_checkpoints(each, seed) for seed in seeds] for each in worlds}
    rows = [judge(each, worlds, published) for each in ALTERNATIVES]
    write_json(OUT, {"worlds": plan.worlds, "alternatives": rows, "share_of_norms_with_a_checkpoint": covered})
    for row in rows:
        print(row)
    print(covered)


if __name__ == "__main__":
    main()
