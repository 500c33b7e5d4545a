"""Options made from the fields of a dataclass, and parsers that are filled when they are used."""

import argparse
from dataclasses import dataclass, field
from typing import Literal

import pytest

from effopd.cli.options import CommandParser, add_field_options, field_values, keywords, positive


@dataclass(frozen=True)
class Settings:
    ratio: float = field(metadata={"help": "a ratio", "metavar": "X"})
    half_width: int = field(default=8, metadata={"help": "layers; default: %(default)s"})
    limit: float | None = None
    names: str | list[str] | None = None
    module: Literal["mlp", "attention"] = "mlp"
    tied: bool = True


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="made")
    add_field_options(made, Settings)
    return made


def test_defaults_are_those_of_the_fields() -> None:
    options = parser().parse_args(["--ratio", "1"])
    assert Settings(**field_values(options, Settings)) == Settings(1.0)


def test_values_have_the_types_of_the_annotations() -> None:
    given = ["--ratio", "-0.5", "--half-width", "2", "--limit", "1e-3", "--names", "a", "--module", "norm", "--no-tied"]
    values = field_values(parser().parse_args(given), Settings)
    assert values == {
        "ratio": -0.5,
        "half_width": 2,
        "limit": 0.001,
        "names": "a",
        "module": "norm",  # the dataclass checks it, and says which values there are
        "tied": False,
    }
    assert [type(value) for value in values.values()] == [float, int, float, str, str, bool]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "required: --ratio"),
        (["--ratio", "x"], "--ratio: invalid float value: 'x'"),
        (["--ratio", "1", "--half-width", "1.5"], "--half-width: invalid int value: '1.5'"),
    ],
)
def test_wrong_usage(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(given)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_is_that_of_the_metadata() -> None:
    text = parser().format_help()
    assert "--ratio X" in text
    assert "a ratio" in text
    assert "layers; default: 8" in text


def test_a_parser_is_filled_once_and_only_when_it_is_used() -> None:
    main = argparse.ArgumentParser()
    commands = main.add_subparsers(dest="command", parser_class=CommandParser)
    filled = []

    def fill(child: argparse.ArgumentParser) -> None:
        filled.append(child)
        child.add_argument("--seed", type=int)

    commands.add_parser("other")
    child = commands.add_parser("late")
    child.fill = fill
    main.parse_args(["other"])
    assert not filled
    for seed in (1, 2):
        assert main.parse_args(["late", "--seed", str(seed)]).seed == seed
    assert filled == [child]


def test_keywords_are_the_options_alone() -> None:
    assert keywords(argparse.Namespace(command="grade", call=print, seed=3, out="x")) == {"seed": 3, "out": "x"}


def test_positive() -> None:
    assert positive("3") == 3
    for text in ("0", "-1", "1.5", "two", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 1"):
            positive(text)
