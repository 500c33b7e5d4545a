"""Imports go one way, and each package stays as light as it claims."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "effopd"

# What every part may import, as it may import itself and __version__.
FOR_EVERYONE = {"errors", "files", "checks", "run_directory", "console"}

# What each part may import of effopd beyond that.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "checks": {"errors"},
    "run_directory": {"errors", "files"},
    "console": set(),
    "parameters": set(),
    "trl_hooks": set(),
    "sampling": set(),
    "objectives": set(),
    "models": {"world"},
    "checkpoints": {"parameters", "models"},
    "updates": {"parameters", "models", "checkpoints"},
    "interventions": {"parameters", "models", "checkpoints", "updates"},
    "sandbox": set(),
    "grading": {"sandbox", "world"},
    "evaluation": {"grading", "models", "sampling", "sandbox", "world"},
    "report": set(),
    "world": {"sampling"},
    "study": set(),
    "extrapolation": {"parameters", "trl_hooks"},
    "training": {"extrapolation", "grading", "models", "objectives", "parameters", "trl_hooks", "updates", "world"},
    "analysis": {"updates", "report"},
    "sweeps": {"parameters", "models", "checkpoints", "updates", "interventions", "evaluation", "report"},
    "demo": {"training", "study", "report", "world"},
    "world_runs": {"demo", "training", "world"},
    "cli": {
        "world_runs",
        "analysis",
        "demo",
        "evaluation",
        "grading",
        "interventions",
        "sweeps",
        "training",
        "world",
    },
    "__init__": {"extrapolation", "training"},
    "__main__": {"cli"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))
WITHOUT_TORCH = [PACKAGE / "models" / name for name in ("__init__.py", "directory.py", "find.py")]


def imports(path: Path) -> set[str]:
    """First parts of the effopd modules that a file imports, lazily or not; foreign ones with a leading dot."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            found.add(rest.split(".")[0] if first == "effopd" else f".{first}")
    return found - {""}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    top_level = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES}
    used = {name for name in imports(path) if name in top_level}
    assert used <= ALLOWED[part] | {part, "__init__"} | (set() if part in FOR_EVERYONE else FOR_EVERYONE)
    without_torch = {"report", "study", "sandbox", "grading", "parameters"} | FOR_EVERYONE
    if part in without_torch or path in WITHOUT_TORCH:
        assert not imports(path) & {".torch", ".transformers", ".trl"}


@pytest.mark.parametrize(
    "module",
    [
        "effopd",
        "effopd.cli",
        "effopd.console",
        "effopd.evaluation",
        "effopd.grading.saved_completions",
        "effopd.models.find",
        "effopd.run_directory",
        "effopd.parameters",
        "effopd.report",
        "effopd.sandbox",
        "effopd.study",
    ],
)
def test_light_modules_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["effopd.checkpoints", "effopd.models.find", "effopd.models.directory"])
def test_what_reads_weights_does_not_load_transformers(module: str) -> None:
    code = f"import sys, {module}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names() -> None:
    import effopd

    assert sorted(effopd.__all__) == ["EffOPDCallback", "ExtrapolationConfig", "UpdateMonitorCallback", "__version__"]
    for name in effopd.__all__:
        assert getattr(effopd, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        effopd.nothing  # noqa: B018


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 320} == {}
