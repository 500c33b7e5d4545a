"""Imports go one way, and each package stays as light as it claims."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "effopd"

# What everything may import, each other included.
BY_ALL = {"errors", "extras", "files", "checks", "run_directory", "console", "versions"}
# What each part imports of effopd, beside itself and those.
IMPORTS = {
    "parameters": set(),
    "trl_hooks": {"sampling"},
    "sampling": set(),
    "utility": set(),
    "objectives": set(),
    "models": {"world"},
    "checkpoints": {"parameters", "models"},
    "updates": {"parameters", "models", "checkpoints"},
    "interventions": {"parameters", "models", "checkpoints", "updates"},
    "sandbox": set(),
    "grading": {"sandbox", "world"},
    "evaluation": {"checkpoints", "grading", "models", "sampling", "sandbox", "world"},
    "report": set(),
    "linearized": {"parameters"},
    "world": {"linearized", "sampling"},
    "extrapolation": {"parameters", "sampling", "trl_hooks", "utility"},
    "integrations": {"extrapolation", "parameters"},
    "training": {
        "checkpoints",
        "extrapolation",
        "grading",
        "models",
        "objectives",
        "parameters",
        "trl_hooks",
        "updates",
        "utility",
        "world",
    },
    "analysis": {"models", "checkpoints", "updates", "report"},
    "curves": {"checkpoints", "report"},
    "linearize": {"evaluation", "grading", "linearized", "models", "report", "sampling"},
    "sweeps": {"parameters", "models", "checkpoints", "interventions", "evaluation", "report"},
    "experiments": {"training", "report", "world"},
    "study": {
        "analysis",
        "evaluation",
        "experiments",
        "linearize",
        "parameters",
        "report",
        "sweeps",
        "training",
        "world",
    },
    "cli": {
        "analysis",
        "curves",
        "evaluation",
        "experiments",
        "grading",
        "interventions",
        "linearize",
        "report",
        "study",
        "sweeps",
        "training",
        "world",
    },
    "__init__": {"extrapolation", "training"},
    "__main__": {"cli"},
}
LIGHT = {"report", "sandbox", "grading", "parameters", "utility"} | BY_ALL
MODULES = sorted(PACKAGE.rglob("*.py"))
WITHOUT_TORCH = [
    *(PACKAGE / "models" / name for name in ("__init__.py", "directory.py", "find.py")),
    *(PACKAGE / "experiments" / name for name in ("__init__.py", "cost_to_target.py", "censored_statistics.py")),
]


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


def part_of(path: Path) -> str:
    """The folder or file at the top of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_go_one_way() -> None:
    """The table is exact: nobody imports anything else, and no arrow is there that nobody uses."""
    parts = {part_of(path) for path in MODULES}
    used: dict[str, set[str]] = {part: set() for part in parts - BY_ALL}
    for path in MODULES:
        if part_of(path) not in BY_ALL:
            used[part_of(path)] |= (imports(path) & parts) - BY_ALL - {part_of(path), "__init__"}
    assert used == IMPORTS
    TopologicalSorter(IMPORTS).prepare()  # raises where imports go round


def test_light_parts_do_not_import_torch() -> None:
    for path in MODULES:
        if part_of(path) in LIGHT or path in WITHOUT_TORCH:
            assert not imports(path) & {".torch", ".transformers", ".trl"}, path


@pytest.mark.parametrize(
    "module",
    [
        "effopd",
        "effopd.cli",
        "effopd.console",
        "effopd.evaluation",
        "effopd.experiments.censored_statistics",
        "effopd.grading.saved_completions",
        "effopd.models.find",
        "effopd.run_directory",
        "effopd.parameters",
        "effopd.report.analysis",
        "effopd.report.completions",
        "effopd.report.curves",
        "effopd.report.linearized",
        "effopd.report.study",
        "effopd.report.sweep",
        "effopd.sandbox",
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
