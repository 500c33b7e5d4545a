"""What is said where a package is missing, and that the table of packages is that of pyproject.toml."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from effopd.errors import MissingPackageError
from effopd.extras import EXTRAS, needed_by, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_AS = {"sklearn": "scikit-learn", "transfer_queue": "TransferQueue", "yaml": "PyYAML"}


def plain(name: str) -> str:
    """A distribution's name as pip compares it, without extras and versions."""
    return re.split(r"[\[<>=~!]", name)[0].lower().replace("_", "-")


def test_the_table_is_that_of_the_project() -> None:
    optional = PROJECT["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        required = {plain(each) for each in (optional[extra] if extra else PROJECT["dependencies"])}
        if extra == "vllm":  # through TRL's extra, which knows the versions that fit it
            assert optional[extra][0].startswith("trl[vllm]")
            required = {"vllm"}
        assert {plain(INSTALLED_AS.get(package, package)) for package in packages} == required, extra
    assert optional["all"] == [f"effopd[{','.join(extra for extra in EXTRAS if extra not in ('', 'verl'))}]"]
    [trl] = [each for each in PROJECT["dependencies"] if each.startswith("trl")]
    assert optional["vllm"] == [trl.replace("trl", "trl[vllm]")]


def test_the_table_names_all_that_is_imported() -> None:
    known = {package for packages in EXTRAS.values() for package in packages} | {"effopd"} | sys.stdlib_module_names
    for path in (ROOT / "src" / "effopd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= known, path


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'plotly'", name="plotly")
    message = r"^A page needs plotly.*: pip install 'effopd\[report\]'$"
    with pytest.raises(MissingPackageError, match=message) as caught, needed_by("A page"):
        raise error
    assert caught.value.name == "plotly"
    monkeypatch.setattr("effopd.extras.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"^A trainer needs trl.*: pip install effopd$"):
        require("trl", "A trainer")


@pytest.mark.parametrize("module", ["no_such_package_anywhere", "numpy.no_such_module"])
def test_other_modules_are_no_extra(module: str) -> None:
    with pytest.raises(ModuleNotFoundError) as caught, needed_by("This"):
        __import__(module)
    assert not isinstance(caught.value, MissingPackageError)


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("plotly", "analyze --base BASE --run A=RUN"),
        ("matplotlib", "demo --seeds 1"),
        ("pandas", "curves --run A=RUN"),
    ],
)
def test_commands_name_the_extra_before_they_do_anything(package: str, arguments: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import sys, without_packages as w; w.hide([{package!r}]); from effopd.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments.split(), "--out", str(out)]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **paths})
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"effopd: effopd {arguments.split()[0]} needs {package}, which is not installed. Install it with: pip install "
        "'effopd[report]'"
    ]
    assert not out.exists()
