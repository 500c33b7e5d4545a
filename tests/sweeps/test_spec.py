import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps.short_runs import make

from effopd.errors import ConfigurationError
from effopd.sweeps import PRESETS, make_spec, read_spec, run_places, shipped_specs
from effopd.sweeps.sweep_models import thin
from effopd.training.config_file import recipes

# Public pairs: a base, and what RL made of it. Each name was found on the hub; none may be made up.
PUBLIC = {
    "qwen3_4b_code": ("Qwen/Qwen3-4B", "Keven16/Qwen3-4B-Non-Thinking-RL-Code-Step300"),
    "qwen3_4b_math": ("Qwen/Qwen3-4B", "Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500"),
}


def test_the_shipped_specifications_have_every_preset_of_the_paper() -> None:
    assert shipped_specs() == [*sorted(PUBLIC), "world"]
    for name in shipped_specs():
        spec = read_spec(name)
        assert {sweep.preset for sweep in spec.sweeps} == set(PRESETS) - {"intervention"}
        assert name != "world" or all(len(run.seeds) >= 3 for run in spec.runs.values())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_specification_of_public_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(name)
    base, tuned = PUBLIC[name]
    assert (spec.base, spec.teacher) == (base, tuned)
    monkeypatch.chdir(tmp_path)
    places = run_places(spec)
    assert places["RL"] == tuned
    assert list(places) == ["RL", "OPD"]
    text = (files("effopd") / "sweeps" / "specs" / f"{name}.yaml").read_text(encoding="utf-8")
    for command in ("analyze --spec", "sweep"):
        assert f"effopd {command} {name} --out" in text
    recipe = re.search(r"effopd train (\S+)", text)
    assert recipe is not None
    assert recipe[1] in recipes()


def test_places_of_runs_start_from_the_root_and_seeds_are_numbered() -> None:
    spec = make(Path("runs"), runs={"a": "x", "b": {"seeds": ["y", ["z", "w"]]}})
    assert run_places(spec) == {"a": "runs/x", "b-0": "runs/y", "b-1": ["runs/z", "runs/w"]}


def test_runs_are_one_directory_or_several_seeds_or_lists_of_models() -> None:
    spec = make(Path(), runs={"a": "x", "b": {"seeds": ["x", ["y", "z"]]}})
    assert spec.runs["a"].seeds == ("x",)
    assert spec.runs["b"].seeds == ("x", ("y", "z"))


def scale(**changes: Any) -> dict[str, Any]:
    return {"sweeps": [{"preset": "intervention", "kind": "scale", "vary": "alpha", "values": [1]} | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": 3}, "got the field 'limits', expected one of base, runs, .*Did you mean limit"),
        ({"base": None}, "base is missing"),
        ({"runs": {"a": ["x", "y"]}}, r"runs: a: got \['x', 'y'\], expected a directory, or {seeds"),
        ({"runs": {"a": {"seed": ["x"]}}}, "runs: a: got the field 'seed', expected one of seeds"),
        ({"runs": {"a/b": "x"}}, "expected text that can name a file"),
        ({"runs": {}}, "runs: got none"),
        ({"tasks": "world"}, "tasks: got 'world', expected a list"),
        ({"seeds": [0, 0]}, "seeds: got 0 twice"),
        ({"seeds": [-1]}, "seeds: got -1, expected a whole number of at least 0"),
        ({"seeds": [2**63]}, r"seeds: got 9223372036854775808, .* at most 9223372036854775807"),
        ({"temperature": 10**400}, "temperature: got 1000.*, expected a finite number"),
        ({"runs": {"a" * 101: "x"}}, "at most 100 bytes"),
        ({"runs": {"": "x"}}, "runs: got '', expected text"),
        ({"limit": 0}, "limit: got 0"),
        ({"temperature": -1}, "temperature: got -1"),
        ({"base": 3}, "base: got 3, expected text"),
        ({"sweeps": []}, "sweeps: got .*at least one"),
        ({"sweeps": ["update_norms"]}, "expected one of update_norm, embedding_replacement"),
        ({"sweeps": [{"values": [1]}]}, "expected {preset: NAME}"),
        ({"sweeps": [{"preset": "update_norm", "alphas": [1]}]}, "update_norm: got the field 'alphas', .*values"),
        ({"sweeps": ["update_norm", "update_norm"]}, "sweeps: got 'update_norm' twice"),
        (
            {"sweeps": ["update_norm", {"preset": "top_bottom", "name": "update_norm"}]},
            "sweeps: names: got 'update_norm' twice",
        ),
        ({"sweeps": [{"preset": "update_norm", "name": "a/b"}]}, "can name a file"),
        ({"sweeps": [{"preset": "update_norm", "name": "a\n"}]}, "can name a file"),
        ({"sweeps": [{"preset": "update_norm", "name": ".a"}]}, "can name a file"),
        ({"sweeps": [{"preset": "update_norm", "name": "\u00e9" * 51}]}, "at most 100 bytes"),
        ({"sweeps": [{"preset": "update_norm", "runs": ["x"]}]}, "runs: got 'x', expected one of OPD, GRPO"),
        ({"sweeps": [{"preset": "update_norm", "runs": []}]}, r"runs: got \[\], expected a list of at least one"),
        ({"sweeps": [{"preset": "update_norm", "runs": None}]}, "runs: got None, expected a list"),
        ({"sweeps": [{"preset": "update_norm", "values": [10**400]}]}, "expected a finite number"),
        ({"sweeps": [{"preset": "top_bottom", "norm_like": ["OPD"]}]}, r"norm_like: got \['OPD'\], expected text"),
        ({"sweeps": [{"preset": "top_bottom", "values": [0]}]}, "percent: got 0"),
        ({"sweeps": [{"preset": "top_bottom", "values": [200]}]}, "expected a finite number from 0 to 100"),
        ({"sweeps": [{"preset": "top_bottom", "other": "x"}]}, "expected one of base, trained"),
        ({"sweeps": [{"preset": "sliding_window", "modules": ["norm"]}]}, "modules: got 'norm'"),
        ({"sweeps": [{"preset": "sliding_window", "half_width": -1}]}, "half_width: got -1"),
        ({"sweeps": [{"preset": "norm_matching", "early": 2}]}, "early: got 2, expected .* from 0 to 1"),
        ({"sweeps": [{"preset": "intervention"}]}, "kind, vary, values is missing"),
        (
            {"sweeps": [{"preset": "intervention", "kind": "scale", "vary": "beta", "values": [1]}]},
            "got the field 'beta', expected one of alpha",
        ),
        (scale(vary=["alpha"]), r"vary: got \['alpha'\], expected text"),
        (scale(fields="x"), "fields: got 'x', expected {field: value} without 'alpha'"),
        (scale(fields=["x"]), r"fields: got \['x'\], expected"),
        (scale(fields={"alpha": 1}), "fields: got {'alpha': 1}, expected .* without 'alpha'"),
        (scale(over_training="no"), "over_training: got 'no', expected true or false"),
        (scale(values=[10**400]), "expected a finite number"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(Path(), **changes)


def test_files_are_read_and_their_errors_name_them(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    content = {"base": "b", "runs": {"a": "x"}, "tasks": ["world"], "sweeps": ["update_norm"]}
    path.write_text(yaml.safe_dump(content))
    assert read_spec(path) == make_spec(content)
    path.write_text(yaml.safe_dump(content) + "temperature: 1e-2\n")
    assert read_spec(path).temperature == 0.01
    path.write_text("base: [")
    with pytest.raises(ConfigurationError, match=r"spec\.yaml cannot be read as YAML"):
        read_spec(path)
    path.write_text("runs: {a: x, a: y}")
    with pytest.raises(ConfigurationError, match=r"(?s)spec\.yaml cannot be .* key 'a' is there twice.* line 1"):
        read_spec(path)
    path.write_text("- 1")
    with pytest.raises(ConfigurationError, match=r"spec\.yaml: got list, expected fields"):
        read_spec(path)
    with pytest.raises(ConfigurationError, match=r"nor a shipped specification of that name \(.*world\)"):
        read_spec("worlds")


def test_quick_keeps_every_run_and_sweep() -> None:
    spec = read_spec("world")
    quick = spec.quick()
    assert (quick.runs, quick.sweeps) == (spec.runs, spec.sweeps)
    assert quick.limit == 200 and quick.max_values == 5 and len(quick.seeds) == 1


def test_thinning_keeps_both_ends() -> None:
    assert thin((1, 2, 3), None) == thin((1, 2, 3), 3) == (1, 2, 3)
    assert thin(tuple(range(9)), 3) == (0, 4, 8)
    assert thin((1, 2, 3), 1) == (3,)


def test_a_folder_of_the_same_name_does_not_hide_a_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "world").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_spec("world").base == "world:base"
