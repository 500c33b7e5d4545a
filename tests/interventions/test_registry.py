"""An intervention that is registered is known everywhere, without a change to any other file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors
from cli.status import status_of
from typing_extensions import override

from effopd.checkpoints import Pair
from effopd.errors import ConfigurationError
from effopd.files import read_json
from effopd.interventions import KINDS, Intervention, Scale, make_intervention, read_plan
from effopd.interventions.fields import option
from effopd.interventions.registry import SUMMARIES, register
from effopd.interventions.update import Update
from interventions.changed import assert_same, weights


@dataclass(frozen=True)
class Halve(Intervention):
    """The update, halved some times; that of biases and other vectors only if they are asked for."""

    times: int = field(metadata=option("how often the update is halved", "N"))
    vectors: bool = field(default=True, metadata=option("halve the update of vectors too", "V"))

    @override
    def apply(self, update: Update) -> Update:
        vector = len(update.weight.shape) == 1
        return update if vector and not self.vectors else update.times(0.5**self.times)


@pytest.fixture
def halve() -> Iterator[Any]:
    before = dict(KINDS)
    yield register("halve", "the trained model with a smaller update")(Halve)
    del KINDS["halve"], SUMMARIES["halve"]
    assert before == KINDS


@pytest.mark.usefixtures("halve")
def test_the_command_line_has_it(
    llama: Path, trained_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("intervene", "--help") == 0
    assert "the trained model with a smaller update" in capsys.readouterr().out
    assert status_of("intervene", "halve", "--help") == 0
    assert "--times N" in (text := capsys.readouterr().out)
    assert "how often the update is halved" in text
    common = ["--base", llama, "--trained", trained_llama]
    assert status_of("intervene", "halve", *common, "--out", tmp_path / "none") == 2
    assert "required: --times" in capsys.readouterr().err
    assert status_of("intervene", "halve", "--times", 2, "--no-vectors", *common, "--out", tmp_path / "out") == 0
    entries = read_json(tmp_path / "out" / "intervention.json")["interventions"]
    assert entries == [{"halve": {"times": 2, "vectors": False}}]
    written = load_tensors(tmp_path / "out")
    assert torch.equal(written["model.norm.weight"], load_tensors(trained_llama)["model.norm.weight"])
    assert not torch.equal(written["lm_head.weight"], load_tensors(trained_llama)["lm_head.weight"])


@pytest.mark.usefixtures("halve")
def test_plans_have_it_and_it_is_applied(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("- halve: {times: 3}\n")
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan == [Halve(3)]
    assert_same(weights(pair, plan), weights(pair, [Scale(0.125)]))


def test_afterwards_it_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"intervention: got 'halve', expected one of .*scale"):
        make_intervention("halve", {"times": 1})
    assert status_of("intervene", "halve") == 2
    assert "invalid choice: 'halve'" in capsys.readouterr().err


@pytest.mark.usefixtures("halve")
def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigurationError, match="Got a second intervention named 'halve', Scale; the first is Halve"):
        register("halve", "")(Scale)
    assert KINDS["halve"] is Halve


def test_the_interventions_of_the_package() -> None:
    assert set(KINDS) == {"scale", "replace-embeddings", "window", "top", "bottom", "norm-match"} == set(SUMMARIES)
    assert all(SUMMARIES.values())
