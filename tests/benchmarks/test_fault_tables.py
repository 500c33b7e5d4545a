"""docs/faults.md has the tables of the committed records, in which everything goes on as it should."""

import fault_tables

from effopd.files import read_json_lines


def test_the_page_is_that_of_the_records() -> None:
    text, kills = fault_tables.PAGE.read_text(), read_json_lines(fault_tables.KILLS)
    causes = [record for path in fault_tables.CAUSES for record in read_json_lines(path)]
    assert text == fault_tables.page(text, kills, causes), "run: python benchmarks/fault_tables.py"
    assert {record["outcome"] for record in kills if "point" in record} == {"same"}


def test_points_have_phases() -> None:
    assert fault_tables.phase_of("call Snapshot.save") == "saving the anchor"
    assert fault_tables.phase_of("call Snapshot.commit") == "a trigger"
    assert fault_tables.phase_of("remove .checkpoint-1.removed") == "removing an old checkpoint"
    assert fault_tables.phase_of("half of checkpoint-2/optimizer.pt") == "saving model, optimizer and state"
