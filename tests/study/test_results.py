"""What is missing or unresolved is named, and never decides."""

import json
from dataclasses import replace

from study.made_up import SEEDS, made_up, metrics

from effopd.study.claims import CLAIMS
from effopd.study.results import judge

BY_NAME = {claim.name: claim for claim in CLAIMS}


def test_a_role_without_runs_is_skipped_by_name() -> None:
    records = made_up(True)
    without = replace(records, planned=frozenset(key for key in records.planned if key[0] != "rl"))
    found = {claim["name"]: claim for claim in judge([without])}
    assert found["spectral_ratio"]["verdict"] == "not measured"
    assert found["spectral_ratio"]["notes"] == ["made-up: there are no runs of rl"]
    assert found["evr"]["verdict"] == "supported"
    assert found["spectral_ratio"]["estimate"] is None and found["spectral_ratio"]["worlds"] == {}


def test_missing_records_are_skipped_by_name() -> None:
    records = made_up(True, target=None)
    sweep = records.sweep[records.sweep["sweep"] != "top_bottom"]
    found = {claim["name"]: claim for claim in judge([replace(records, sweep=sweep)])}
    assert found["effopd_steps"]["verdict"] == "not measured"
    assert "metrics.jsonl, and a target accuracy" in found["effopd_steps"]["notes"][0]
    assert found["tail_cost"]["notes"] == ["made-up: lacks the sweep top_bottom of rl (seed 200, 201, 202, 203)"]
    assert found["gain_per_norm"]["verdict"] == "supported"


def test_one_missing_run_of_several_leaves_a_claim_undecided() -> None:
    records = made_up(True)
    metrics = {key: rows for key, rows in records.metrics.items() if key != ("effopd", 201)}
    (found,) = judge([replace(records, metrics=metrics)], [BY_NAME["effopd_steps"]])
    assert found["verdict"] == "undecided" and found["p_holm"] < 0.05
    assert set(found["worlds"]["made-up"]["values"]) == {"200", "202", "203"}
    assert found["notes"] == [
        "made-up: lacks the costs and accuracies (metrics.jsonl, and a target accuracy) of effopd (seed 201)"
    ]


def test_unresolved_runs_leave_a_claim_undecided() -> None:
    records = made_up(True)
    late = {("effopd", 203): metrics(100, 0.3, reached=False)}
    claim = BY_NAME["effopd_rollouts"]
    (found,) = judge([replace(records, metrics={**records.metrics, **late})], [claim])
    assert found["verdict"] == "undecided"
    assert found["notes"] == ["made-up: effopd did not reach the target within the steps (seed 203)"]
    never = {("effopd", seed): metrics(100, 0.3, reached=False) for seed in SEEDS}
    (found,) = judge([replace(records, metrics={**records.metrics, **never})], [claim])
    assert found["verdict"] == "undecided" and found["estimate"] is None


def test_a_bound_holds_back_what_it_could_overturn() -> None:
    records = made_up(True, seeds=tuple(range(200, 215)))
    late = {("effopd", 203): metrics(900, 0.3, reached=False)}  # vanilla's 400 steps over 901 or more
    claim = BY_NAME["effopd_rollouts"]
    (found,) = judge([replace(records, metrics={**records.metrics, **late})], [claim])
    assert found["p_holm"] < 0.001 and found["estimate"] > 3
    assert found["verdict"] == found["worlds"]["made-up"]["verdict"] == "undecided"
    note = "at most the given value, as effopd did not reach the target within the steps (seed 203)"
    assert found["notes"] == [f"made-up: {note}"]
    never = {("opd", 203): metrics(900, 0.3, reached=False)}  # 901 steps or more over EffOPD's 100
    (found,) = judge([replace(records, metrics={**records.metrics, **never})], [claim])
    assert found["verdict"] == found["worlds"]["made-up"]["verdict"] == "supported"
    assert "at least the given value" in found["notes"][0]
    json.dumps(found, allow_nan=False)


def test_a_sweep_of_which_evaluations_are_missing_decides_nothing() -> None:
    records = replace(made_up(True), cells_left=2)
    found = {claim["name"]: claim for claim in judge([records])}
    for name in ("gain_per_norm", "mlp_over_attention", "embeddings_opd", "beta_plateau"):
        assert found[name]["verdict"] == "undecided" and found[name]["estimate"] is None
        assert "2 evaluations of the sweep failed or are not done" in found[name]["notes"][0]
    assert found["spectral_ratio"]["verdict"] == found["effopd_steps"]["verdict"] == "supported"


def test_worlds_that_disagree_and_json() -> None:
    records = [made_up(True, world="a"), made_up(False, world="b")]
    found = {claim["name"]: claim for claim in judge(records)}
    assert found["evr"]["verdict"] == "undecided"
    assert {world: of["verdict"] for world, of in found["evr"]["worlds"].items()} == {
        "a": "supported",
        "b": "contradicted",
    }
    assert found["evr"]["num_runs"] == 8
    json.dumps(list(found.values()), allow_nan=False)


def test_holm_is_over_the_claims_that_were_tested() -> None:
    records = made_up(True)
    one = judge([records], [BY_NAME["evr"]])[0]
    many = {claim["name"]: claim for claim in judge([records])}
    assert one["p_holm"] == one["p"] == many["evr"]["p"]
    assert many["evr"]["p_holm"] > one["p_holm"]


def test_the_verdict_is_by_the_p_value_that_holm_has_adjusted() -> None:
    values = {200: 1.0, 201: 2.0, 202: 3.0, 203: 4.0}  # p is 0.03
    claim = replace(BY_NAME["evr"], measure=lambda records, seed: values[seed], threshold=0.0, direction="above")
    records = [made_up(True)]
    assert [found["verdict"] for found in judge(records, [claim])] == ["supported"]
    for found in judge(records, [claim, replace(claim, name="another")]):
        assert found["verdict"] == "undecided"
        assert found["worlds"]["made-up"]["verdict"] == "supported"


def test_a_ratio_of_zero_is_not_defined() -> None:
    values = {200: 0.0, 201: 2.0, 202: 3.0, 203: 4.0}
    claim = replace(BY_NAME["effopd_rollouts"], measure=lambda records, seed: values[seed])
    (found,) = judge([made_up(True)], [claim])
    assert found["notes"] == ["made-up: the statistic is not defined for these runs (seed 200)"]
    assert found["verdict"] == "undecided"


def test_a_run_that_moved_nothing_leaves_claims_undecided_and_stops_no_report() -> None:
    records = made_up(True)
    updates = records.updates.copy()
    measures = ["frobenius_norm", "spectral_to_frobenius", "effective_rank", "top1pct_norm_ratio"]
    updates.loc[updates["role"] == "rl", measures] = 0.0
    found = {claim["name"]: claim for claim in judge([replace(records, updates=updates)])}
    json.dumps(list(found.values()), allow_nan=False)
    assert "made-up: the statistic is not defined for these runs (seed 200, 201, 202, 203)" in str(
        found["effective_rank"]
    )
    assert found["effective_rank"]["verdict"] == "undecided"
