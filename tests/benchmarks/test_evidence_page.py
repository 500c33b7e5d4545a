"""docs/evidence.md is what its script makes of the committed records, judged by the claims as they are."""

import evidence
import pytest

from effopd.files import read_json


def test_the_page_is_that_of_the_verdicts() -> None:
    assert evidence.PAGE.read_text() == evidence.page(read_json(evidence.VERDICTS)), (
        "run: python benchmarks/evidence.py"
    )


def test_the_verdicts_are_those_of_the_records() -> None:
    found, committed = evidence.judge_records(), read_json(evidence.VERDICTS)
    assert found["study"]["claims_sha256"] == committed["study"]["claims_sha256"], "run: python benchmarks/evidence.py"
    for one, other in zip(found["claims"], committed["claims"], strict=True):
        assert (one["name"], one["verdict"], one["notes"]) == (other["name"], other["verdict"], other["notes"])
        if one["estimate"] is not None:
            assert one["estimate"] == pytest.approx(other["estimate"], rel=1e-6)
