"""Every claim is found to hold where it does, and to fail where it does not."""

from dataclasses import replace

import pandas as pd
import pytest
from study.made_up import SEEDS, made_up, metrics

from effopd.study.claims import CLAIMS, digest, written_down
from effopd.study.claims.alignment import alignment
from effopd.study.claims.claim import Claim
from effopd.study.claims.cost import cost_ratio
from effopd.study.claims.interventions import tail_cost, top_suffices
from effopd.study.claims.norms import difference_at_equal_norm, gain_per_norm, low_sensitivity_share
from effopd.study.records import UnresolvedError
from effopd.study.results import judge

BY_NAME = {claim.name: claim for claim in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_can_hold_and_can_fail(claim: Claim) -> None:
    for holds, verdict in ((True, "supported"), (False, "contradicted")):
        (found,) = judge([made_up(holds)], [claim])
        assert found["verdict"] == verdict, (found["estimate"], found["worlds"], found["notes"])
        assert found["num_runs"] == len(SEEDS) * len({need.role for need in claim.needs})


def test_names_are_their_own_and_the_issue_is_covered() -> None:
    assert len(BY_NAME) == len(CLAIMS)
    assert {
        f"{method}_{cost}{at}"
        for method in ("effopd", "line_search")
        for cost in ("steps", "rollouts", "tokens", "seconds")
        for at in ("", "_best")
    } <= set(BY_NAME)
    assert {claim.threshold for claim in CLAIMS if claim.is_ratio} <= {1.0, 1.25, 3.0}


def test_gain_per_norm_by_hand() -> None:
    # OPD gains 0.4 at norm 1, RL at norm 2, give or take the noise.
    assert gain_per_norm(made_up(True), 200) == pytest.approx(0.4 - 0.2, abs=0.01)
    records = made_up(True)
    still = records.sweep.assign(update_norm=0.0)
    with pytest.raises(UnresolvedError, match="the same"):
        gain_per_norm(replace(records, sweep=still), 200)


def test_difference_at_equal_norm_by_hand() -> None:
    # At a norm of x, from 0 to 1, OPD is at 0.5 + 0.4 x and RL at 0.5 + 0.2 x: on average, 0.1 apart.
    for kind in ("scale", "checkpoint"):
        assert difference_at_equal_norm(made_up(True), 200, kind) == pytest.approx(0.1, abs=0.01)


def test_low_sensitivity_by_hand() -> None:
    # Attention is the lower half. RL has squares of 4 there and 1 in MLPs, and OPD the other way round.
    assert low_sensitivity_share(made_up(True), 200) == pytest.approx(0.8 - 0.2, abs=0.01)
    assert low_sensitivity_share(made_up(False), 200) == pytest.approx(0.2 - 0.8, abs=0.01)


def test_shares_of_components_by_hand() -> None:
    records = made_up(False)
    assert top_suffices(records, 200, 10.0) == pytest.approx(0.1 / 0.4, abs=0.01)
    assert tail_cost(records, 200) == pytest.approx(0.4 - 0.38 / 0.4, abs=0.01)


def test_alignment_between_checkpoints_and_before_the_first() -> None:
    records = made_up(True)
    assert alignment(records, "opd", 200, 0.25) == pytest.approx((0.2**0.3 + 0.3**0.3) / 2, abs=0.01)
    with pytest.raises(UnresolvedError, match="the first checkpoint of opd is at 10%"):
        alignment(records, "opd", 200, 0.05)
    unknown = replace(records, alignments=records.alignments.assign(step=float("nan")))
    with pytest.raises(UnresolvedError, match="not known"):
        alignment(unknown, "opd", 200, 0.25)


def test_runs_that_did_not_reach_the_target_count_only_where_they_decide() -> None:
    reached, late = metrics(100, 0.9), metrics(500, 0.3, reached=False)

    def ratio(slow: list, fast: list, threshold: float = 1.0) -> float:
        records = made_up(True, metrics={("opd", 200): slow, ("effopd", 200): fast})
        return cost_ratio(records, 200, "steps", "opd", "effopd", threshold)

    assert ratio(metrics(400, 0.9), reached) == 4.0
    assert ratio(late, reached) == 5.01  # vanilla spent 501 steps in vain: the ratio is at least this
    assert ratio(reached, late) == 100 / 501  # EffOPD did: it is at most this
    for slow, fast, threshold in ((late, reached, 6.0), (reached, late, 0.1), (late, late, 1.0)):
        with pytest.raises(UnresolvedError, match="did not reach the target"):
            ratio(slow, fast, threshold)


def test_a_base_or_a_run_that_gains_nothing_leaves_shares_unresolved() -> None:
    records = made_up(True)
    flat = replace(records, sweep=records.sweep.assign(mean=0.5))
    for name in ("norm_scaling_gain", "top_suffices", "tail_cost"):
        with pytest.raises(UnresolvedError, match="nothing over the base"):
            BY_NAME[name].measure(flat, 200)


def test_several_tasks_and_sampling_seeds_are_averaged() -> None:
    records = made_up(True)
    higher = records.sweep.assign(mean=records.sweep["mean"] + 0.1)
    both = replace(records, sweep=pd.concat([records.sweep, higher]))
    assert both.accuracy("update_norm", "opd", 200, "scale", 1.0) == pytest.approx(0.95, abs=0.01)


def test_the_digest_is_of_every_byte() -> None:
    texts = written_down()
    assert {"claims/cost.py", "claims/norms.py", "records.py", "verdict.py", "plan.yaml"} <= set(texts)
    before = digest(texts)
    for name in texts:
        assert digest(texts | {name: texts[name] + " "}) != before
    assert len(before) == 64
