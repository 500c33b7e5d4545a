"""Singular vectors that an analysis saved are used where they are enough, and refused where they do not belong."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints.tiny_pairs import load_tensors
from safetensors.torch import load_file, save_file

from effopd.checkpoints import open_pair
from effopd.errors import DataError
from effopd.interventions import BottomComponents, TopComponents, decompose, intervene, open_factors
from effopd.interventions.update import is_matrix
from effopd.updates import singular_vectors


def save_factors(base: Path, trained: Path, analysis: Path, run: str = "opd", checkpoint: int = 0) -> Path:
    """What `effopd analyze` saves of a pair (docs/analysis.md)."""
    pair = open_pair(base, trained)
    folder = analysis / "subspaces" / run / f"checkpoint-{checkpoint}"
    folder.mkdir(parents=True)
    for name, shape in pair.shapes.items():
        if is_matrix(name, shape):
            update = pair.delta(name)
            vectors = singular_vectors(update)
            saved = {"left": vectors.left.float(), "right": vectors.right.float()}
            saved["singular_values"] = torch.linalg.svdvals(update)
            save_file({key: tensor.contiguous() for key, tensor in saved.items()}, folder / f"{name}.safetensors")
    return analysis


@pytest.fixture(scope="module")
def analysis(llama: Path, trained_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_factors(llama, trained_llama, tmp_path_factory.mktemp("analysis"))


@pytest.mark.parametrize("kind", [TopComponents(10), BottomComponents(60)])
def test_saved_vectors_give_the_same_model(
    llama: Path,
    trained_llama: Path,
    analysis: Path,
    tmp_path: Path,
    kind: TopComponents | BottomComponents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    intervene(llama, trained_llama, [kind], tmp_path / "computed")

    def not_needed(update: torch.Tensor) -> None:
        raise AssertionError("decomposed again")

    monkeypatch.setattr("effopd.interventions.pair_source.decompose", not_needed)
    factors = open_factors(analysis)
    record = intervene(llama, trained_llama, [kind], tmp_path / "saved", factors=factors)
    assert record["factors"] == str(factors.directory)
    computed, saved = load_tensors(tmp_path / "computed"), load_tensors(tmp_path / "saved")
    for name, tensor in computed.items():
        assert torch.allclose(saved[name].double(), tensor.double(), rtol=2**-7, atol=1e-6)


def test_vectors_agree_to_float32(llama: Path, trained_llama: Path, analysis: Path) -> None:
    pair, factors = open_pair(llama, trained_llama), open_factors(analysis)
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"):
        update = pair.delta(name)
        saved, computed = factors.read(name, update), decompose(update)
        assert saved is not None and saved.rank == computed.rank
        projections = [part.vectors[:, :5] @ part.vectors[:, :5].mT for part in (saved, computed)]
        assert torch.allclose(*projections, atol=1e-6)


def test_more_components_than_saved_are_computed(
    llama: Path, trained_llama: Path, analysis: Path, tmp_path: Path
) -> None:
    intervene(llama, trained_llama, [TopComponents(80)], tmp_path / "computed")
    intervene(llama, trained_llama, [TopComponents(80)], tmp_path / "saved", factors=open_factors(analysis))
    computed, saved = load_tensors(tmp_path / "computed"), load_tensors(tmp_path / "saved")
    wide = [name for name, tensor in computed.items() if min(tensor.shape) == 32]  # 26 of 32 vectors
    assert wide and all(torch.equal(saved[name], computed[name]) for name in wide)


def test_factors_of_another_model_are_refused(llama: Path, other_llama: Path, analysis: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the singular vectors of this update of model"):
        intervene(llama, other_llama, [TopComponents(10)], tmp_path / "out", factors=open_factors(analysis))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved | {"left": saved["left"][1:]},
        lambda saved: saved | {"right": saved["right"].roll(1, dims=1)},
        lambda saved: saved | {"singular_values": saved["singular_values"] * 1.001},
    ],
)
def test_damaged_factors_are_refused(
    llama: Path,
    trained_llama: Path,
    tmp_path: Path,
    damage: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    directory = save_factors(llama, trained_llama, tmp_path / "analysis")
    factors = open_factors(directory)
    file = factors.directory / f"{name}.safetensors"
    update = open_pair(llama, trained_llama).delta(name)
    save_file({key: tensor.contiguous() for key, tensor in damage(load_file(file)).items()}, file)
    with pytest.raises(DataError, match="not the singular vectors"):
        factors.read(name, update)
    file.write_bytes(b"short")
    with pytest.raises(DataError, match="Run the analysis again"):
        factors.read(name, update)
    assert factors.read("lm_head.weight", update) is None


def test_which_run_and_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no saved factors"):
        open_factors(tmp_path)
    for folder in ("opd/checkpoint-0", "opd/checkpoint-10", "opd/checkpoint-9", "rl"):
        (tmp_path / "subspaces" / folder).mkdir(parents=True)
    assert open_factors(tmp_path, "opd").directory.name == "checkpoint-10"
    assert open_factors(tmp_path, "opd", 0).directory.name == "checkpoint-0"
    with pytest.raises(DataError, match="got the run None; expected one of opd, rl"):
        open_factors(tmp_path)
    with pytest.raises(DataError, match="got the run 'ppo'; expected one of opd, rl"):
        open_factors(tmp_path, "ppo")
    with pytest.raises(DataError, match="got checkpoint 3; expected one of 0, 9, 10"):
        open_factors(tmp_path, "opd", 3)
    with pytest.raises(DataError, match="expected one of none"):
        open_factors(tmp_path, "rl")
