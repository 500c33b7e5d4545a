"""Every claim is found to hold where it does, and to fail where it does not."""

from dataclasses import replace

import pandas as pd
import pytest
from study.made_up import SEEDS, made_up, made_up_worlds, metrics

from effopd.study.claims import CLAIMS, digest, linearized, written_down
from effopd.study.claims.alignment import alignment
from effopd.study.claims.claim import Bound, Claim
from effopd.study.claims.cost import cost_ratio
from effopd.study.claims.interventions import tail_cost, top_suffices
from effopd.study.claims.linearized import by_module, over_worlds, ranks_of_updates
from effopd.study.claims.norms import (
    EARLY,
    contrast_beyond_spread,
    difference_along_training,
    difference_of_final,
    gain_per_norm,
    low_sensitivity_share,
)
from effopd.study.records import UnresolvedError
from effopd.study.results import judge

BY_NAME = {claim.name: claim for claim in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_can_hold_and_can_fail(claim: Claim) -> None:
    for holds, verdict in ((True, "supported"), (False, "contradicted")):
        worlds = [made_up(holds)] if claim.over_worlds is None else made_up_worlds(holds)
        (found,) = judge(worlds, [claim])
        assert found["verdict"] == verdict, (found["estimate"], found["worlds"], found["notes"])
        assert found["num_runs"] == len(worlds) * len(SEEDS) * len({need.role for need in claim.needs})


def test_names_are_their_own_and_the_issue_is_covered() -> None:
    assert len(BY_NAME) == len(CLAIMS)
    assert {
        f"{method}_{cost}{at}"
        for method in ("effopd", "line_search")
        for cost in ("steps", "rollouts", "tokens", "seconds")
        for at in ("", "_best")
    } <= set(BY_NAME)
    assert {claim.threshold for claim in CLAIMS if claim.is_ratio} <= {1.0, 1.25, 3.0}
    assert {f"validation_size_{size}" for size in (10, 20, 100, 200)} <= set(BY_NAME)
    assert {f"validation_{third}" for third in ("easy", "medium", "hard")} <= set(BY_NAME)


def test_gain_per_norm_by_hand() -> None:
    # OPD gains 0.4 at norm 1, RL at norm 2, give or take the noise.
    assert gain_per_norm(made_up(True), 200) == pytest.approx(0.4 - 0.2, abs=0.01)
    records = made_up(True)
    still = records.sweep.assign(update_norm=0.0)
    with pytest.raises(UnresolvedError, match="the same"):
        gain_per_norm(replace(records, sweep=still), 200)


def test_difference_at_equal_norm_by_hand() -> None:
    # At a norm of x OPD is at 0.5 + 0.4 x and RL at 0.5 + 0.2 x. Scaled, they have the norms from 0 to 1 in
    # common; over training those from RL's first checkpoint on, at 0.2.
    records = made_up(True)
    assert difference_of_final(records, 200) == pytest.approx(0.2 * 0.5, abs=0.01)
    assert difference_along_training(records, 200) == pytest.approx(0.2 * 0.6, abs=0.01)
    without_base = records.sweep[(records.sweep["kind"] != "scale") | (records.sweep["value"] > 0)]
    with pytest.raises(UnresolvedError, match="lacks the scale 0"):
        difference_of_final(replace(records, sweep=without_base), 200)


def test_early_checkpoints_may_be_those_of_a_shorter_run() -> None:
    records = made_up(True)
    is_opd = records.sweep["role"] == "opd"
    of_training = records.sweep["kind"] == "checkpoint"
    late = records.sweep[~is_opd | ~of_training | (records.sweep["value"] == 100)].assign(
        update_norm=lambda rows: rows["update_norm"].where(rows["role"] == "opd", rows["update_norm"] / 4)
    )
    apart = replace(records, sweep=late)  # OPD's only checkpoint is at a norm of 1, RL's last one at 0.5
    with pytest.raises(UnresolvedError, match=r"no norms in common: the first is 1 and the last 0\.5"):
        difference_along_training(apart, 200)
    planned = replace(apart, planned=apart.planned | {(EARLY, 200)})
    with pytest.raises(UnresolvedError, match="sweep update_norm of opd-early has no curve"):
        difference_along_training(planned, 200)
    early = records.sweep[is_opd & of_training & (records.sweep["value"] < 100)].assign(role=EARLY)
    both = replace(planned, sweep=pd.concat([late, early]))
    # OPD is at 0.5 + 0.4 x from 0.1 on, and RL, a quarter as far from the base as before, at 0.5 + 0.8 x.
    assert difference_along_training(both, 200) == pytest.approx(-0.4 * 0.3, abs=0.01)


def test_low_sensitivity_by_hand() -> None:
    # Attention is the lower half. RL has squares of 4 there and 1 in MLPs, and OPD the other way round.
    assert low_sensitivity_share(made_up(True), 200) == pytest.approx(0.8 - 0.2, abs=0.01)
    assert low_sensitivity_share(made_up(False), 200) == pytest.approx(0.2 - 0.8, abs=0.01)


def test_shares_of_components_by_hand() -> None:
    records = made_up(False)
    assert top_suffices(records, 200, 10.0) == pytest.approx(0.1 / 0.4, abs=0.01)
    assert tail_cost(records, 200) == pytest.approx(0.4**2 - 0.38 / 0.4, abs=0.01)


def test_the_contrast_beyond_the_spread_of_rl_algorithms_by_hand() -> None:
    assert contrast_beyond_spread([0.4, 0.5, 0.3], -0.8) == pytest.approx(1.2 - 0.2)
    # PPO gains 0.4 at a norm of 0.5, GRPO and DAPO at 1, and OPD at 2.
    found = BY_NAME["rl_algorithm_gain_per_norm"].measure(made_up(False), 200)
    assert found == pytest.approx(abs(0.2 - 1.6 / 3) - 0.4, abs=0.01)


def test_the_inverted_u_is_per_norm_of_the_window() -> None:
    records = made_up(True)
    # Windows at the ends gain a tenth of those in the middle at the same norm, and as much per norm at a tenth of it.
    measure = BY_NAME["inverted_u"].measure
    assert measure(records, 200) == pytest.approx((0.2 + 0.21) / 2 - 0.03, abs=0.01)
    at_ends = (records.sweep["sweep"] == "sliding_window") & records.sweep["value"].isin([0.0, 3.0])
    shorter = records.sweep["update_norm"].where(~at_ends, 0.1)
    assert measure(replace(records, sweep=records.sweep.assign(update_norm=shorter)), 200) < 0
    still = records.sweep["update_norm"].where(~at_ends, 0.0)
    with pytest.raises(UnresolvedError, match="0 in a window"):
        measure(replace(records, sweep=records.sweep.assign(update_norm=still)), 200)


def test_an_early_checkpoint_that_is_not_early_says_nothing() -> None:
    records = made_up(True)
    for step in (16.0, float("nan")):
        matched = records.sweep["sweep"] == "norm_matching"
        moved = records.sweep.assign(step=records.sweep["step"].where(~matched, step))
        for name in ("norm_scaling_accuracy", "norm_scaling_gain", "beta_plateau"):
            with pytest.raises(UnresolvedError, match="not about 10 %"):
                BY_NAME[name].measure(replace(records, sweep=moved), 200)


def test_the_quadratic_view_by_hand() -> None:
    records = made_up(True)
    assert by_module({"model.layers.2.mlp.up_proj.weight": 2.0, "model.layers.2.mlp.down_proj.weight": 1.0}) == {
        ("mlp", 2): 5.0
    }
    assert by_module({"lm_head.weight": 2.0, "model.layers.1.input_layernorm.weight": 1.0}) == {}
    assert BY_NAME["driving_ranks_updates"].measure(records, 200) == pytest.approx(1.0)
    assert BY_NAME["noise_of_gradients"].measure(records, 200) == pytest.approx(4.0, abs=0.2)
    assert over_worlds(lambda world, seed: float(world.world[-1]))(made_up_worlds(True), 200) == pytest.approx(1.0)
    nameless = {"driving_norm_by_parameter": {"lm_head.weight": 1.0}}
    with pytest.raises(UnresolvedError, match="0 parts"):
        ranks_of_updates(replace(records, linearized={200: nameless}), 200)


def test_worlds_that_disagree_decide_nothing_and_few_worlds_are_not_ranked() -> None:
    new = [claim for name, claim in BY_NAME.items() if claim.theme == linearized.THEME or "rl_algorithm" in name]
    assert len(new) == 10
    for found in judge([made_up(True, world="a"), made_up(False, world="b")], new):
        over_all = BY_NAME[found["name"]].over_worlds is not None
        assert found["verdict"] == ("not measured" if over_all else "undecided"), found["name"]
        if over_all:
            assert found["notes"] == [
                "all worlds: a rank correlation asks for 6 worlds, and the study has 2 (seed 200, 201, 202, 203)"
            ]


def test_what_the_quadratic_view_does_not_tell_is_unresolved() -> None:
    view = dict(made_up(True).linearized[200])
    for name, changes, message in (
        ("driving_concentrated", {"unbiased": None}, "the noise of its completions"),
        ("driving_concentrated", {"unbiased": {"squared_norm": -1.0}}, "the noise of its completions"),
        ("driving_concentrated", {"unbiased": {"squared_norm": 1.0, "driving_share": [0.5]}}, "fewer than 10"),
        ("noise_of_gradients", {"trace_rl": None}, "no answers to reward"),
        ("noise_of_gradients", {"trace_opd": {"completions_for_unit_noise": None}}, "cannot be told from 0"),
        ("mean_gradients_agree", {"cosine_opd_rl": None}, "no answers to reward"),
        ("mean_gradients_agree", {"trace_rl": {"squared_mean": 0.0}}, "RL's mean gradient cannot be told from 0"),
    ):
        records = made_up(True, linearized=dict.fromkeys(SEEDS, view | changes))
        (found,) = judge([records], [BY_NAME[name]])
        assert found["verdict"] == "undecided" and message in found["notes"][0]
    (found,) = judge([made_up(True, linearized={})], [BY_NAME["driving_concentrated"]])
    assert found["verdict"] == "not measured"
    assert found["notes"] == ["made-up: lacks the local quadratic view (effopd linearize) (seed 200, 201, 202, 203)"]


def test_rl_gradients_that_are_all_noise_bound_the_ratio_of_noises() -> None:
    measure = BY_NAME["noise_of_gradients"].measure
    # Of 100 completions the mean has a squared norm of 0.5 - 0.1, with a trace of 50: at least 125 of them are needed.
    view = made_up(True).linearized[200]
    lost = {"completions_for_unit_noise": None, "squared_mean": -0.1, "value": 50.0}

    def at(completions: float) -> Bound:
        seen = view | {"trace_rl": lost, "trace_opd": {"completions_for_unit_noise": completions}}
        return measure(made_up(True, linearized={200: seen}), 200)

    found = at(25.0)
    assert (found, found.is_lower) == (pytest.approx(5.0), True)
    with pytest.raises(UnresolvedError, match="RL's mean gradient"):
        at(250.0)


def test_accuracy_is_compared_after_as_many_steps() -> None:
    vanilla = [row | {"accuracy": accuracy} for row, accuracy in zip(metrics(400, 0.9), (0.7, 0.8, 0.95), strict=True)]
    effopd = metrics(399, 0.9)  # evaluated after 398 to 400 steps, and vanilla after 399 to 401
    records = made_up(True, metrics={("opd", 200): vanilla, ("effopd", 200): effopd})
    assert BY_NAME["performance_kept"].measure(records, 200) == pytest.approx(0.9 - 0.8)
    records = made_up(True, metrics={("opd", 200): vanilla, ("effopd", 200): metrics(100, 0.9)})
    with pytest.raises(UnresolvedError, match="not both evaluated within 101 steps"):
        BY_NAME["performance_kept"].measure(records, 200)


def test_steps_are_those_of_the_optimizer() -> None:
    four = [row | {"optimizer_steps": 4 * row["step"]} for row in metrics(80, 0.9)]
    records = made_up(True, metrics={("opd", 200): metrics(400, 0.9), ("line_search", 200): four})
    assert BY_NAME["line_search_steps"].measure(records, 200) == 400 / 320
    assert BY_NAME["line_search_rollouts"].measure(records, 200) == 5.0
    old = [{name: value for name, value in row.items() if name != "optimizer_steps"} for row in four]
    records.metrics["line_search", 200] = old
    with pytest.raises(UnresolvedError, match="of an earlier version, and does not count optimizer_steps"):
        BY_NAME["line_search_steps"].measure(records, 200)


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
    lower, upper = ratio(late, reached), ratio(reached, late)
    assert isinstance(lower, Bound) and (lower, lower.is_lower) == (5.01, True)  # vanilla spent 501 steps in vain
    assert isinstance(upper, Bound) and (upper, upper.is_lower) == (100 / 501, False)  # EffOPD did
    assert lower.why == "opd did not reach the target within the steps"
    for slow, fast, threshold in ((late, reached, 6.0), (reached, late, 0.1), (late, late, 1.0)):
        with pytest.raises(UnresolvedError, match="did not reach the target"):
            ratio(slow, fast, threshold)


def test_effopd_is_held_against_alphaopd_within_as_many_steps() -> None:
    records = made_up(True)
    claim = BY_NAME["against_alphaopd"]
    assert claim.measure(records, 200) == pytest.approx(0.05, abs=0.01)  # 0.9 against 0.85
    before, at, *_ = (row["step"] for row in records.metrics["effopd", 200])
    for last, accuracy in ((at, 0.8), (before, 0.1)):
        alphaopd = {("alphaopd", 200): {"alphaopd": {"steps": [50, last], "accuracy": 0.85}}}
        assert claim.measure(replace(records, finished=alphaopd), 200) == pytest.approx(accuracy - 0.85)
    alphaopd = {("alphaopd", 200): {"alphaopd": {"steps": [10, 20], "accuracy": 0.85}}}
    with pytest.raises(UnresolvedError, match="not evaluated within the 20 steps"):
        claim.measure(replace(records, finished=alphaopd), 200)


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
    assert {
        "claims/cost.py",
        "claims/linearized.py",
        "claims/norms.py",
        "boundary.py",
        "records.py",
        "verdict.py",
        "plan.yaml",
    } <= set(texts)
    before = digest(texts)
    for name in texts:
        assert digest(texts | {name: texts[name] + " "}) != before
    assert len(before) == 64
