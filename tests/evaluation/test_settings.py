"""What is asked of a model: the checks that `effopd evaluate` and sweeps share, and system prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
from training.tiny_models import write_tiny_qwen3

from effopd import cli
from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.prompts import Prompt, encode_prompts
from effopd.evaluation.settings import TaskSettings
from effopd.world.tokenizer import make_tokenizer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": ""}, "task: got '', expected text"),
        ({"limit": 0}, "limit: got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens: got 1.5"),
        ({"num_samples": None}, "num_samples: got None"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"temperature": -1}, "temperature: got -1"),
        ({"temperature": 0, "num_samples": 2}, "2 samples would be equal"),
        ({"chat": "yes"}, "chat: got 'yes', expected true or false"),
        ({"system_prompt": "Be brief."}, "system_prompt: got one without chat"),
        ({"chat": True, "system_prompt": ""}, "system_prompt: got '', expected text"),
        ({"chat": True, "chat_template_kwargs": "no"}, "chat_template_kwargs: got 'no', expected values by name"),
        ({"chat_template_kwargs": {"a": 1}}, "expected values by name, and chat"),
        ({"data": 3}, "data: got 3, expected text"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskSettings(**{"task": "world", **fields})


def test_a_task_is_loaded_as_it_is_put_to_the_model(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "1 + 1?", "answer": "2"}\n{"prompt": "1 + 2?", "answer": "3"}\n')
    plain = TaskSettings(str(path), limit=1).load()
    assert (plain.prompts, plain.max_new_tokens) == (["1 + 1?"], 4096)
    asked = TaskSettings(str(path), chat=True, system_prompt="Be brief.", max_new_tokens=9).load()
    assert asked.max_new_tokens == 9
    assert asked.prompts[1] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}]
    own = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "1 + 1?"}]
    path.write_text(json.dumps({"prompt": own, "answer": "2"}))
    assert TaskSettings(str(path), chat=True).load().prompts == [own]
    with pytest.raises(DataError, match=r"prompt 0 \(from 0\) has a system message of its own"):
        TaskSettings(str(path), chat=True, system_prompt="Be brief.").load()


def test_the_command_takes_a_system_prompt_and_keeps_the_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, problems, out = write_tiny_qwen3(tmp_path / "model"), tmp_path / "problems.jsonl", tmp_path / "out"
    problems.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    command = ["evaluate", str(model), "--task", str(problems), "--max-new-tokens", "3", "--system-prompt", "Be brief."]
    assert cli.main([*command, "--out", str(out)]) == 1
    assert "system_prompt: got one without chat" in capsys.readouterr().err
    assert cli.main([*command, "--chat", "--out", str(out)]) == 0
    (row,) = map(json.loads, (out / "problems.jsonl").read_text().splitlines())
    system, user = ({"role": role, "content": text} for role, text in (("system", "Be brief."), ("user", "1 + 1?")))
    assert row == {"prompt": [system, user], "answer": "2"}
    assert json.loads((out / "settings.json").read_text())["system_prompt"] == "Be brief."
    assert cli.main([*command[:-1], "Be long.", "--chat", "--out", str(out)]) == 1
    assert "system_prompt 'Be brief.' (now 'Be long.')" in capsys.readouterr().err


def test_the_chat_template_is_given_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if not thinking %}={% endif %}"
    prompt: list[Prompt] = [[{"role": "user", "content": "1+2"}]]
    texts = [tokenizer.decode(encode_prompts(tokenizer, prompt, given)[0]) for given in (None, {"thinking": True})]
    assert texts == ["1+2=", "1+2"]
    model, problems, out = write_tiny_qwen3(tmp_path / "model"), tmp_path / "problems.jsonl", tmp_path / "out"
    problems.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    command = ["evaluate", str(model), "--task", str(problems), "--max-new-tokens", "3", "--chat", "--out", str(out)]
    assert cli.main([*command, "--chat-template-kwargs", '{"enable_thinking": false}']) == 0
    assert json.loads((out / "settings.json").read_text())["chat_template_kwargs"] == {"enable_thinking": False}
    assert cli.main(command) == 1
    assert "chat_template_kwargs" in capsys.readouterr().err
