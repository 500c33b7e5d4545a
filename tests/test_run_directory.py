"""What every output directory has in common: settings that are checked, one command at a time, pieces that are kept."""

import errno
import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from effopd.errors import CheckpointError, DataError
from effopd.run_directory import FinishedPieces, claimed, differing_settings, locked, written_whole

SETTINGS = {"seed": 0, "limits": (1, 2)}


def claim(directory: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> None:
    with claimed(directory, "settings.json", settings, holds="an essay", **options):
        pass


def test_settings_are_written_and_the_same_ones_are_let_in_again(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    claim(out)
    assert json.loads((out / "settings.json").read_text()) == {"seed": 0, "limits": [1, 2]}
    (out / "results").touch()
    claim(out)


def test_other_settings_are_refused_by_name_once_there_are_results(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 1, "limits": [1, 2], "old": True})
    claim(tmp_path)
    (tmp_path / "results").touch()
    message = r"holds an essay with other settings: seed 0 \(now 2\); more None \(now 'x'\)\. Choose another --out"
    with pytest.raises(CheckpointError, match=message):
        claim(tmp_path, {"seed": 2, "limits": [1, 2], "more": "x"})
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 0
    claim(tmp_path, {"seed": 2}, differing=lambda before, now: [])
    assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 2}
    assert differing_settings({"a": None}, {}) == []


def test_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"is not empty and holds no essay\. Choose another --out"):
        claim(tmp_path)
    with pytest.raises(CheckpointError, match=r"notes\.txt is a file"):
        claim(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_kill_left_of_the_settings_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "settings.json.tmp").write_text('{"se')
    claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_one_command_at_a_time(tmp_path: Path) -> None:
    refused: list[str] = []

    def another() -> None:
        try:
            claim(tmp_path)
        except DataError as error:
            refused.append(str(error))

    with claimed(tmp_path, "settings.json", SETTINGS, holds="an essay"):
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    assert refused == [f"{tmp_path}: another command is writing there. Wait for that one, or choose another output."]
    claim(tmp_path)


def test_where_there_are_no_locks_there_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.warns(UserWarning, match="cannot be locked here .*No locks available.*no other command"):
        claim(tmp_path)
    assert (tmp_path / "settings.json").exists()


def test_a_file_can_be_locked_in_the_name_of_another(tmp_path: Path) -> None:
    path = tmp_path / "out.settings"
    path.touch()
    with locked(path), pytest.raises(DataError, match=r"out: another command"), locked(path, name=tmp_path / "out"):
        pass


def test_pieces_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "pieces.jsonl"
    assert FinishedPieces(path).rows == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    pieces = FinishedPieces(path)
    pieces.add({"a": 3})
    assert FinishedPieces(path).rows == pieces.rows == [{"a": 1}, {"a": 2}, {"a": 3}]
    pieces.keep(pieces.rows[1:])
    assert path.read_text() == '{"a": 2}\n{"a": 3}\n'
    path.write_text('{"a"\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"pieces\.jsonl, line 1 is not JSON"):
        FinishedPieces(path)


def test_a_directory_is_there_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt), written_whole(target) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert not target.exists()
    with written_whole(target) as partial:
        (partial / "whole").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_what_a_killed_process_left_of_a_directory_is_removed_and_one_of_another_process_is_not(tmp_path: Path) -> None:
    target, partial = tmp_path / "base", tmp_path / ".base.partial"
    (partial / "folder").mkdir(parents=True)
    (partial / "folder" / "half").touch()
    (partial / "link").symlink_to(tmp_path)
    with written_whole(target) as mine:
        assert mine == partial and not list(mine.iterdir())
        (mine / "whole").touch()
        with pytest.raises(DataError, match=r"base: another command is writing there"), written_whole(target):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["base", "whole"]
