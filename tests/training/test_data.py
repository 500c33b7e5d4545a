import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effopd.errors import ConfigurationError, DataError
from effopd.training.data import load_prompts

ROWS = [{"prompt": "1+1=", "answer": "2", "level": 1}, {"prompt": "2+3=", "answer": "5", "level": 2}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.parquet"])
def test_file_formats_agree(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert load_prompts(path).to_list() == ROWS
    assert load_prompts(str(path), limit=1).to_list() == ROWS[:1]
    assert load_prompts(path, limit=9).num_rows == 2
    assert load_prompts(path, split="train[:-1]").to_list() == ROWS[:1]
    assert load_prompts(path, split="test[-50%:]").to_list() == ROWS[1:]
    with pytest.raises(ConfigurationError, match=r"got the split 'train\[x\]' .*expected one as 'train\[:-500\]'"):
        load_prompts(path, split="train[x]")
    with pytest.raises(DataError, match="no rows"):
        load_prompts(path, split="train[2:]")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_directory_has_splits(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "data" / f"train.{suffix}", ROWS)
    write(tmp_path / "data" / f"test.{suffix}", ROWS[1:])
    assert load_prompts(tmp_path / "data").to_list() == ROWS
    assert load_prompts(tmp_path / "data", split="test", limit=3).to_list() == ROWS[1:]
    assert load_prompts(tmp_path / "data", split="train[:-1]").to_list() == ROWS[:1]
    with pytest.raises(DataError, match=r"cannot load split 'validation'.*train.*test"):
        load_prompts(tmp_path / "data", split="validation")


@pytest.mark.parametrize("name", ["problems.jsonl", "data/problems.json", "problems.parquet"])
def test_a_missing_file_is_not_looked_up_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "problem.jsonl", ROWS)
    with pytest.raises(DataError, match=rf"{name}: no such file or directory; {tmp_path} has problem\.jsonl"):
        load_prompts(name)


def test_the_world_is_a_dataset() -> None:
    train = load_prompts("world", limit=5, require_answer=True)
    assert train.num_rows == 5
    assert train.column_names == ["prompt", "answer"]
    assert load_prompts("world:train", limit=5).to_list() == train.to_list()
    evaluation = load_prompts("world:evaluation", limit=20)
    assert not set(evaluation["prompt"]) & set(load_prompts("world")["prompt"])
    with pytest.raises(ConfigurationError, match="'dev'"):
        load_prompts("world:dev", limit=2)
    assert load_prompts("world:style/train", limit=5).to_list() == train.to_list()
    with pytest.raises(ConfigurationError, match="world: got 'nowhere'"):
        load_prompts("world:nowhere/train", limit=2)


def test_columns_are_renamed_and_the_others_kept(tmp_path: Path) -> None:
    rows = [{"question": "6*7?", "final_answer": 42, "answer": "old", "topic": "x"}]
    loaded = load_prompts(write(tmp_path / "a.jsonl", rows), prompt_column="question", answer_column="final_answer")
    assert loaded.to_list() == [{"prompt": "6*7?", "answer": "42", "final_answer": 42, "topic": "x"}]


def test_answer_after_takes_what_follows_the_last_mark(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "answer": "6*7=<<6*7=42>>42 #### no\n#### 1,042"}]
    path = write(tmp_path / "gsm8k.jsonl", rows)
    assert load_prompts(path, answer_after="####")["answer"][:] == ["1,042"]
    with pytest.raises(DataError, match=r"row 1: .* does not contain answer_after='@@'"):
        load_prompts(path, answer_after="@@")


def test_template_and_system_prompt(tmp_path: Path) -> None:
    template = "{prompt}\nEnd with \\boxed{{}}."
    text = write(tmp_path / "text.jsonl", [{"prompt": "a {b}"}])
    assert load_prompts(text, prompt_template=template)["prompt"][0] == "a {b}\nEnd with \\boxed{}."
    assert load_prompts(text, system_prompt="Be brief.")["prompt"][0] == [
        {"role": "system", "content": "Be brief."},
        *user("a {b}"),
    ]
    assert load_prompts(text, system_prompt="")["prompt"][0] == user("a {b}")
    turns = [*user("hi"), {"role": "assistant", "content": "yes?"}, *user("a")]
    chat = write(tmp_path / "chat.jsonl", [{"prompt": turns}, {"prompt": user("b")}])
    prompts = load_prompts(chat, prompt_template=template, system_prompt="S")["prompt"][:]
    assert prompts[0] == [{"role": "system", "content": "S"}, *turns[:-1], *user("a\nEnd with \\boxed{}.")]
    assert prompts[1][1:] == user("b\nEnd with \\boxed{}.")


@pytest.mark.parametrize("template", ["no place", "{prompt} {}", "{question}", "{prompt", "\\boxed{}"])
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected \{prompt\} in it, and every other brace doubled"):
        load_prompts("world", prompt_template=template)


def test_messages_survive_parquet(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": "a", "name": None}]}, {"prompt": user("b")}]
    assert load_prompts(write(tmp_path / "chat.parquet", rows))["prompt"][:] == [user("a"), user("b")]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        (None, "the prompt is empty"),
        ([], "the prompt is empty"),
        (7, "got 7, expected text or a list of messages"),
        ({"role": "user"}, "expected text or a list of messages"),
        (["hi"], "got the message 'hi'"),
        ([{"role": "user"}], r"got the message \{'role': 'user'\}"),
        ([{"role": "user", "content": 3}], "got the message"),
        ([{"role": "user", "content": "a", "tool": "b"}], "got the message"),
        ([*user("a"), {"role": "assistant", "content": "b"}], "the last message is from 'assistant'"),
        (user(" "), "the last message is empty"),
        (user("a"), "rows 1 and 2 mix text and messages"),
    ],
)
def test_bad_prompts_are_named_by_row(tmp_path: Path, prompt: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "fine"}, {"prompt": prompt}])
    with pytest.raises(DataError, match=rf"a\.jsonl, column 'prompt', row 2: .*{message}"):
        load_prompts(path)
    assert load_prompts(path, limit=1).num_rows == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "got None"), (["4"], r"got \['4'\], expected text or a number"), ("  ", "the answer is empty")],
)
def test_bad_answers_are_named_by_row(tmp_path: Path, answer: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": answer}])
    with pytest.raises(DataError, match=rf"column 'answer', row 2: {message}"):
        load_prompts(path, require_answer=True)


def test_answers_may_be_absent_unless_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": "b", "source": "x"}])
    assert load_prompts(path).to_list() == [{"prompt": "a", "source": None}, {"prompt": "b", "source": "x"}]
    for arguments in ({"require_answer": True}, {"answer_after": "####"}):
        with pytest.raises(DataError, match="no column 'answer'; there are prompt, source"):
            load_prompts(path, **arguments)
    with pytest.raises(DataError, match="no column 'gold'; there are prompt, source"):
        load_prompts(path, answer_column="gold")
    partial = write(tmp_path / "b.jsonl", [{"prompt": "a", "answer": 1.5}, {"prompt": "b"}])
    assert load_prompts(partial)["answer"][:] == ["1.5", None]


def test_system_prompts_do_not_stack(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"prompt": [{"role": "system", "content": "S"}, *user("a")]}])
    with pytest.raises(DataError, match="row 1: the prompt has a system message already"):
        load_prompts(path, system_prompt="T")


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken" / "train.jsonl"
    write(broken, ROWS)
    broken.write_text(broken.read_text() + '{"prompt": "x", "ans\n')
    for source in (broken, broken.parent):
        with pytest.raises(DataError, match=r"train\.jsonl, line 4, column 17: not JSON"):
            load_prompts(source)
    (tmp_path / "broken.json").write_text('[{"prompt": "x"},\n oops]')
    with pytest.raises(DataError, match=r"broken\.json, line 2, column 2: not JSON"):
        load_prompts(tmp_path / "broken.json")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_prompts(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match=r"row 2: got 3, expected a JSON object"):
        load_prompts(write(tmp_path / "list.json", [{"prompt": "x"}, 3]))
    (tmp_path / "broken.parquet").write_text("PAR1")
    with pytest.raises(DataError, match="not a parquet file"):
        load_prompts(tmp_path / "broken.parquet")
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    with pytest.raises(DataError, match=r"got a \.csv file"):
        load_prompts(tmp_path / "a.csv")
    with pytest.raises(DataError, match="mixes types"):
        load_prompts(write(tmp_path / "mixed.jsonl", [{"prompt": "a", "x": 1}, {"prompt": "b", "x": "c"}]))
    with pytest.raises(DataError, match="no such file or directory"):
        load_prompts(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigurationError, match="limit: got 0"):
        load_prompts(broken, limit=0)


def test_empty_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        load_prompts(tmp_path / "empty.jsonl")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        load_prompts(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no column 'prompt'; there are question"):
        load_prompts(write(tmp_path / "other.jsonl", [{"question": "x"}]))


def test_an_unreachable_hub_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"cannot load split 'train': .*no such file or directory here.*without a network"
    ):
        load_prompts("nobody/nothing")
