"""docs/evidence.md is what its script makes of the committed records, judged by the claims as they are."""

from pathlib import Path

import evidence
import pytest
import study_records

from effopd.files import read_json


def test_the_page_is_that_of_the_verdicts() -> None:
    assert evidence.PAGE.read_text() == evidence.committed_page(), "run: python benchmarks/evidence.py"


@pytest.mark.parametrize(
    ("worlds", "verdicts"), [(None, evidence.VERDICTS), ([evidence.ALONE], evidence.VERDICTS_ALONE)]
)
def test_the_verdicts_are_those_of_the_records(worlds: list[str] | None, verdicts: Path) -> None:
    if not set(worlds or []) <= set(study_records.finished_worlds()):
        pytest.skip(f"the study has not finished {worlds}")
    found, committed = evidence.judge_records(worlds), read_json(verdicts)
    assert found["study"]["claims_sha256"] == committed["study"]["claims_sha256"], "run: python benchmarks/evidence.py"
    for one, other in zip(found["claims"], committed["claims"], strict=True):
        assert (one["name"], one["verdict"], one["notes"]) == (other["name"], other["verdict"], other["notes"])
        if one["estimate"] is not None:
            assert one["estimate"] == pytest.approx(other["estimate"], rel=1e-6)
