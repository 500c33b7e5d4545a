"""The committed table is that of the committed records."""

import first_step

from effopd.files import read_json


def test_the_table_is_that_of_the_records() -> None:
    records = read_json(first_step.RESULTS / "first_step.json")["records"]
    assert {(each["world"], each["seed"]) for each in records} == {
        (world, seed) for world in first_step.WORLDS for seed in first_step.SEEDS
    }
    assert (first_step.RESULTS / "first_step.md").read_text() == first_step.table(records)
    for each in records:
        if each["factor"] != 1.0:  # the search took the best of what it tried
            assert max(each["scores"], key=each["scores"].get) == str(each["factor"])
