import io

from rich.console import Console
from rich.progress import TextColumn

from effopd.console import print_places, progress_bar


def drawn(terminal: bool, **options: object) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with progress_bar("cells", console=console, **options) as progress:  # type: ignore[arg-type]
        task = progress.add_task("doing [1]", total=4, note="mine")
        progress.update(task, advance=3)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_terminal_sees_the_count_and_the_time_left() -> None:
    assert all(part in drawn(terminal=True) for part in ("doing [1]", "3/4", "cells", "left"))
    assert "left" not in drawn(terminal=True, time_left=False)


def test_a_file_sees_nothing() -> None:
    assert drawn(terminal=False).strip() == ""


def test_other_columns_take_the_place_of_the_count() -> None:
    text = drawn(terminal=True, columns=[TextColumn("{task.fields[note]}")])
    assert "mine" in text and "3/4" not in text


def test_places_stand_below_one_another() -> None:
    console = Console(file=io.StringIO(), width=20)
    print_places(console, {"Report": "out/a/long/path/report.html", "Tables": "tables.md"})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text == "Report:  out/a/long/path/report.html\nTables:  tables.md\n"
