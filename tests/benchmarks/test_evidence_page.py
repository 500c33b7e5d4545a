"""docs/evidence.md is what its script makes of the committed records."""

import json

import evidence


def test_the_page_is_that_of_the_records() -> None:
    content = json.loads(evidence.RECORDS.read_text())
    assert evidence.PAGE.read_text() == evidence.page(content), "run: python benchmarks/evidence.py"
