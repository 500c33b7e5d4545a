"""The wheel: it has all that the package needs, and in an environment without the sources it runs the demo."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command: object, cwd: Path) -> str:
    """Run a command in which nothing points to the sources, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "PIP_"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that the checkout gets no build files."""
    root = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "src" / "effopd", root / "src" / "effopd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    # Without isolation, in which pip would download setuptools.
    run(*PIP, "wheel", root, "--no-deps", "--no-build-isolation", "--wheel-dir", root / "dist", cwd=root)
    [found] = (root / "dist").iterdir()
    return found


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    sources = (
        path for path in (ROOT / "src" / "effopd").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {str(path.relative_to(ROOT / "src")) for path in sources}
    assert "effopd/world/assets/base/model.safetensors" in packed


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, to which the packages that effopd needs are lent, nothing being downloaded."""
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=empty)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=empty).strip())
    place = "import effopd; print(effopd.__file__)"
    assert run(python, "-c", place, cwd=empty).strip() == str(site / "effopd" / "__init__.py")
    # Of a path that a .pth file adds, no .pth file is read: not even that of an editable install.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run(python, "-c", place, cwd=empty).strip() == str(site / "effopd" / "__init__.py")
    run(environment / "bin" / "effopd", "demo", "--quick", "--out", "demo", cwd=empty)
    summary = json.loads((empty / "demo" / "summary.json").read_text())
    assert [each["acceleration"] for each in summary["runs"]] == ["none", "paper"]
    assert all(each["rollouts_to_target"] for each in summary["runs"])
    assert (empty / "demo" / "accuracy.svg").stat().st_size > 1000
