"""The notebook runs from its first cell to its last, and is committed without what it shows."""

import json
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "notebooks" / "demo_to_own_model.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    out = tmp_path / "runs" / "notebook"
    accuracies = [json.loads((out / f"evaluation-{n}" / "summary.json").read_text())["mean"] for n in range(3)]
    base, trained, part = accuracies
    assert base + 0.1 < trained  # four standard errors
    assert base + 0.1 < part
    assert pd.read_parquet(out / "analysis" / "updates.parquet")["step"].unique().tolist() == [4, 8]
    triggers = (out / "own" / "extrapolations.jsonl").read_text().splitlines()
    assert any(json.loads(line)["accepted_scale"] for line in triggers)
    shown = "".join(str(each) for cell in notebook.cells for each in cell.get("outputs", ()))
    assert all(f"{accuracy:.4f}" in shown for accuracy in accuracies)


def test_the_notebook_is_committed_without_its_outputs() -> None:
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
