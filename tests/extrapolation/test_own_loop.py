"""Extrapolation in a loop of one's own, in plain PyTorch."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import assert_same
from torch.nn.functional import dropout

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation import Extrapolator, Score, own_loop

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extrapolation.md"
# Runs before the page's loop, for which numpy counts as a part of safetensors, which writes through it.
BEFORE = """
import sys
from without_packages import hide_all_but
hidden = hide_all_but(["torch", "safetensors", "numpy"])
assert {"trl", "transformers", "accelerate", "datasets", "plotly", "pandas", "sklearn", "tensorboard", "yaml"} <= hidden
"""
AFTER = """
from effopd.errors import MissingPackageError
from effopd.extrapolation import PRESETS, Score, Snapshot, line_search, parse_schedule, search
assert search(lambda scale: Score(scale), (1.0, 2.0)).accepted_scale == 2
assert extrapolator.step(65) is None
torch.manual_seed(0)
print(loss(held_out).item())
for name in ("EffOPDCallback", "validate"):
    try:
        getattr(sys.modules["effopd.extrapolation"], name)
    except MissingPackageError as error:
        print(error)
print(sorted(hidden & set(sys.modules)))
"""


def example() -> str:
    [code] = re.findall(r"```python\n(import torch\n.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return str(code)


def run(code: str) -> list[str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_the_loop_of_the_page_needs_torch_and_safetensors_only() -> None:
    seeded = example().replace("import torch\n", "import torch\ntorch.manual_seed(0)\n", 1)
    loss, callback, validate, loaded = run(f"{BEFORE}{seeded}{AFTER}")
    plain = seeded.replace("    extrapolator.step(step)\n", "")
    [plain_loss] = run(f"{plain}print(loss(held_out).item())")
    assert float(loss) < 0.5 * float(plain_loss)
    for line, name in ((callback, "EffOPDCallback"), (validate, "validate")):
        assert re.fullmatch(
            rf"effopd.extrapolation.{name} needs \w+, which is not installed. Install it with: pip install effopd", line
        )
    assert loaded == "[]"


def train(
    steps: range, extrapolated: bool, validate: Callable[[int], float | Score], resume: Path | None = None
) -> tuple[dict[str, torch.Tensor], Extrapolator | None]:
    """Adam on a regression with dropout, whose masks come from torch's own generator."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    extrapolator = Extrapolator(dict(model.named_parameters()), validate) if extrapolated else None
    if resume:
        saved = torch.load(resume / "loop.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if extrapolator:
            extrapolator.load(resume / "anchor.safetensors")
    for step in steps:
        inputs = torch.randn(16, 8)
        optimizer.zero_grad()
        (model(dropout(inputs, 0.1)) - inputs.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        if extrapolator:
            extrapolator.step(step)
    if resume is None and extrapolator and (directory := getattr(validate, "directory", None)):
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
        torch.save(states, directory / "loop.pt")
        extrapolator.save(directory / "anchor.safetensors")
    return dict(model.state_dict()), extrapolator


class Falling:
    """Scores that fall from call to call, or rise; each call draws random numbers."""

    def __init__(self, slope: float, directory: Path | None = None) -> None:
        self.slope, self.directory, self.seeds = slope, directory, list[int]()

    def __call__(self, seed: int) -> float:
        self.seeds.append(seed)
        return self.slope * len(self.seeds) + 0.1 * torch.rand(3).mean().item()


def test_accepting_nothing_leaves_the_training_as_it_was() -> None:
    validate = Falling(-1)
    with_it, _ = train(range(1, 20), True, validate)
    plain, _ = train(range(1, 20), False, validate)
    assert len(validate.seeds) == len(set(validate.seeds)) == 2 * 5  # W_t and one candidate after 1, 2, 4, 8 and 16
    assert_same(with_it, plain)


def test_saving_and_loading_resumes_to_the_bit(tmp_path: Path) -> None:
    whole, _ = train(range(1, 20), True, Falling(1))
    train(range(1, 7), True, Falling(1, tmp_path))
    resumed, _ = train(range(7, 20), True, Falling(1), resume=tmp_path)
    assert_same(resumed, whole)
    plain, _ = train(range(1, 20), False, Falling(1))
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)


def moved(anchor: float, to: float, **settings: object) -> tuple[Extrapolator, torch.Tensor]:
    """An extrapolator whose weight has moved since its anchor."""
    weight = torch.full((3,), anchor)
    validate = settings.pop("validate", lambda seed: -(weight - 9).abs().sum().item())
    extrapolator = Extrapolator({"weight": weight}, validate, **settings)  # type: ignore[arg-type]
    weight.fill_(to)
    return extrapolator, weight


def test_candidates_are_published_before_they_are_scored() -> None:
    published: list[float] = []
    extrapolator, weight = moved(
        1.0, 2.0, publish=lambda: published.append(weight[0].item()), schedule=[3], scales=[4, 7, 8]
    )
    assert extrapolator.step(2) is None
    assert extrapolator.step(3).accepted_scale == 7  # type: ignore[union-attr]
    assert published == [2, 6, 9, 10, 9]
    assert weight.tolist() == [9, 9, 9]


def seeds_of(steps: list[int], **settings: object) -> list[int]:
    """The seeds that scoring W_t and a candidate gets at each of some steps, at which nothing is accepted."""
    validate = Falling(-1)
    extrapolator, weight = moved(0.0, 0.0, validate=validate, schedule="every:1", **settings)
    for step in steps:
        weight += 1
        extrapolator.step(step)
    return validate.seeds


def test_the_seed_of_the_settings_and_the_step_decide_those_of_scoring() -> None:
    assert seeds_of([1, 2], seed=5) == seeds_of([1, 2], seed=5)
    assert len({*seeds_of([1, 2], seed=5), *seeds_of([1, 2], seed=6), *seeds_of([1, 2])}) == 12


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_puts_the_weights_back(error: type[BaseException]) -> None:
    published: list[float] = []

    def publish() -> None:
        published.append(weight[0].item())
        if len(published) == 2:
            raise error

    extrapolator, weight = moved(1.0, 2.0, publish=publish)
    with pytest.raises(error):
        extrapolator.step(1)
    assert weight.tolist() == [2, 2, 2]
    assert published == [2, 4, 2]


def test_an_error_of_one_of_several_processes_publishes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[float] = []

    def validate(seed: int) -> float:
        raise ValueError("here alone")

    extrapolator, weight = moved(1.0, 2.0, publish=lambda: published.append(weight[0].item()))
    extrapolator._validate = validate
    monkeypatch.setattr(own_loop, "num_processes", lambda: 2)
    with pytest.raises(ValueError, match="here alone"):
        extrapolator.step(1)
    assert published == [2]


def test_weights_that_are_not_finite_are_rejected_without_being_published() -> None:
    published: list[float] = []
    largest = torch.finfo(torch.float32).max
    extrapolator, weight = moved(
        0.0, largest / 2, publish=lambda: published.append(weight[0].item()), validate=lambda seed: 0.0
    )
    result = extrapolator.step(1)
    assert result is not None and result.accepted_scale == 0
    assert all(value < largest for value in published)
    assert weight[0] == torch.tensor(largest / 2)


def test_standard_errors_are_needed_where_they_count() -> None:
    extrapolator, weight = moved(1.0, 2.0, min_delta=1.0)
    with pytest.raises(ConfigurationError, match=r"validate returned Score.* without one"):
        extrapolator.step(1)
    extrapolator, weight = moved(1.0, 2.0, min_delta=1.0, validate=lambda seed: Score(weight[0].item(), stderr=0.1))
    assert extrapolator.step(1).accepted_scale == 10  # type: ignore[union-attr]


def test_settings_that_do_not_count_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"got \['num_prompts'\], expected settings among schedule"):
        moved(1.0, 2.0, num_prompts=5)
    with pytest.raises(ConfigurationError, match="scales"):
        moved(1.0, 2.0, scales=[2, 1])


@pytest.mark.parametrize("mark", ["ds_id", "_hp_mapping"])
def test_parameters_that_deepspeed_makes_anew_are_refused(mark: str) -> None:
    weight = torch.zeros(2)
    setattr(weight, mark, None)
    with pytest.raises(UnsupportedError, match="would lose what is written"):
        Extrapolator({"weight": weight}, validate=lambda seed: 0.0)


def test_nothing_is_validated_where_nothing_moved() -> None:
    extrapolator, _ = moved(2.0, 2.0, validate=lambda seed: pytest.fail("validated"))
    result = extrapolator.step(1)
    assert result is not None and not result.candidates
