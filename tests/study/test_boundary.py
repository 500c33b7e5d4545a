"""Where the contrast between OPD and RL begins is found where it does begin, and not elsewhere."""

import json
import random
from typing import Any

import pandas as pd
import pytest
from study.made_up import SEEDS, made_up

from effopd.report.study.boundary import boundary_tables, not_looked_for
from effopd.study.boundary import AXES, find_boundaries, where_it_begins
from effopd.study.records import Records

LONGER = AXES[0].levels


def with_contrasts(world: str, **contrasts: float | None) -> Records:
    """Records of a world whose RL runs of each role gain so much less per norm than OPD, give or take a little."""
    rows = []
    for role, contrast in {"opd": 0.0, **contrasts}.items():
        for seed in SEEDS:
            if contrast is not None:
                noise = random.Random(f"{role} {seed}").uniform(-0.005, 0.005)
                place = {
                    "role": role,
                    "seed": seed,
                    "sweep": "update_norm",
                    "kind": "scale",
                    "step": 100,
                    "layer_norm": 0.0,
                }
                rows.append({**place, "value": 0.0, "mean": 0.2, "update_norm": 0.0})
                rows.append({**place, "value": 1.0, "mean": 0.2 + 2 * (0.3 - contrast + noise), "update_norm": 2.0})
    return made_up(True, world=world, sweep=pd.DataFrame(rows))


def found(records: list[Records], axis: str) -> dict[str, Any]:
    (entry,) = [entry for entry in find_boundaries(records) if entry["axis"] == axis]
    return entry


def role_names(*contrasts: float | None) -> dict[str, float | None]:
    return {role: contrast for (_, role), contrast in zip(LONGER, contrasts, strict=True)}


@pytest.mark.parametrize(
    ("contrasts", "sentence"),
    [
        ((0.0, 0.0, 0.1), "begins between twice as long and four times as long"),
        ((-0.1, 0.1, 0.1), "begins between as planned and twice as long"),
        ((0.1, 0.1, 0.1), "from the first level on, as planned"),
        ((0.0, -0.1, 0.0), "not shown at any level, up to four times as long"),
        ((0.1, 0.0, 0.1), "comes and goes"),
        ((0.0, None, 0.1), "begins between as planned and four times as long"),
        ((0.1, None, None), "fewer than two levels"),
    ],
)
def test_rl_that_trains_longer(contrasts: tuple[float | None, ...], sentence: str) -> None:
    entry = found([with_contrasts("a", **role_names(*contrasts))], "longer")
    assert sentence in entry["found"] and entry["world"] == "a"
    assert [level["present"] for level in entry["levels"]] == [
        None if contrast is None else contrast > 0 for contrast in contrasts
    ]
    for level, contrast in zip(entry["levels"], contrasts, strict=True):
        if contrast is None:
            assert "lacks the sweep update_norm" in level["note"] and level["estimate"] is None
        else:
            assert level["estimate"] == pytest.approx(contrast, abs=0.01) and len(level["values"]) == len(SEEDS)
    json.dumps(entry, allow_nan=False)


def test_levels_are_adjusted_together() -> None:
    records = with_contrasts("a", **role_names(0.006, 0.006, 0.006))
    entry = found([records], "longer")
    alone = found([with_contrasts("a", **role_names(0.006, None, None))], "longer")["levels"][0]
    assert entry["levels"][0]["p_holm"] > alone["p_holm"]


def test_one_seed_that_is_missing_leaves_a_level_out() -> None:
    records = with_contrasts("a", **role_names(0.0, 0.1, 0.1))
    rows = records.sweep
    records.sweep = rows[~((rows["role"] == "rl-x2") & (rows["seed"] == SEEDS[-1]))]
    entry = found([records], "longer")
    assert [level["present"] for level in entry["levels"]] == [False, None, True]


def test_worlds_are_ordered_by_their_dimensions() -> None:
    shares = {"many": (0.2, 0.1), "few": (0.9, 0.0), "some": (0.5, 0.1)}
    records = []
    for world, (share, contrast) in shares.items():
        each = with_contrasts(world, rl=contrast)
        view = {"unbiased": {"squared_norm": 1.0, "driving_share": [share] * 10}}
        each.linearized = dict.fromkeys(SEEDS, view)
        records.append(each)
    unknown = with_contrasts("unknown", rl=0.0)
    unknown.linearized = {}
    entry = found([*records, unknown], "dimensions")
    assert [level["name"] for level in entry["levels"]] == [
        "few (share 0.90)",
        "some (share 0.50)",
        "many (share 0.20)",
        "unknown",
    ]
    assert entry["found"] == "The contrast begins between few (share 0.90) and some (share 0.50)."
    assert "dimensions are not known" in entry["levels"][3]["note"] and entry["world"] is None


def test_the_report_says_what_was_found_and_what_was_not_looked_for() -> None:
    content = {"boundaries": find_boundaries([with_contrasts("a", **role_names(0.0, 0.0, 0.1))])}
    tables = boundary_tables(content)
    assert tables[0].title == "RL trains longer, in a"
    text = tables[0].markdown()
    assert "The contrast begins between twice as long and four times as long." in text
    assert "| as planned | not shown |" in text and "| four times as long | present | 0.09" in text
    nothing = {"boundaries": find_boundaries([made_up(True, world="b", planned=frozenset())])}
    assert boundary_tables(nothing) == []
    assert not_looked_for(nothing)[0] == "RL trains longer, in b: there are no runs of rl."


def test_the_sentence_needs_two_levels() -> None:
    assert where_it_begins(["one"], [True]).startswith("Not looked for")
    assert where_it_begins([], []).startswith("Not looked for")


def test_one_seed_is_no_test() -> None:
    records = with_contrasts("a", **role_names(0.1, 0.1, 0.1))
    records.sweep = records.sweep[records.sweep["seed"] == SEEDS[0]]
    records.planned = frozenset((role, SEEDS[0]) for role, seed in records.planned)
    entry = found([records], "longer")
    assert [level["present"] for level in entry["levels"]] == [None] * 3
    assert "too few seeds" in entry["levels"][0]["note"]
    assert "fewer than two levels were measured" in entry["found"]
