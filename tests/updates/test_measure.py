import math
from pathlib import Path

import numpy as np
import pytest
import torch
from updates.runs_on_disk import MATRICES, SHAPES, matrix, random_tensors, write, write_run
from updates.test_spectrum import METRICS, by_numpy

from effopd.checkpoints import open_pair
from effopd.errors import DataError
from effopd.updates import compare
from effopd.updates.measure import alignments, displacement, first_vector_trajectory, parameters, update_blocks


def test_records_hold_what_a_plain_computation_gives(tmp_path: Path) -> None:
    base, run, (before, after) = write_run(tmp_path, 1)
    records = {record.parameter: record for record in compare(base, run / "checkpoint-10")}
    assert records.keys() == {*MATRICES, *(name for name, shape in SHAPES.items() if len(shape) == 1)}
    for name, record in records.items():
        update = matrix(after, name) - matrix(before, name)
        assert record.frobenius_norm == pytest.approx(float(update.norm()), rel=1e-12)
        assert record.base_norm == pytest.approx(float(matrix(before, name).norm()), rel=1e-12)
        assert record.changed_fraction == pytest.approx(float((update != 0).double().mean()))
        assert (record.rows, record.cols) == (len(update), update[0].numel())
        if name in MATRICES:
            rank, _, expected = by_numpy(update)
            assert [getattr(record, metric) for metric in METRICS] == pytest.approx(expected, rel=1e-9)
            assert record.rank == rank
        else:
            assert record.spectral_norm is record.effective_rank is record.rank is record.route is None
    place = records["model.layers.1.mlp.experts.down_proj[2]"]
    assert (place.layer, place.module, place.kind) == (1, "mlp.experts.down_proj[2]", "mlp")


def test_state_dicts_give_what_directories_give(tmp_path: Path) -> None:
    base, run, (before, after) = write_run(tmp_path, 1)
    by_name = {record.parameter: record for record in compare(base, run / "checkpoint-10")}
    for record in compare(before, after):
        for key, value in vars(by_name[record.parameter]).items():
            expected = (
                pytest.approx(value, rel=1e-12) if isinstance(value, float) and key != "relative_error" else value
            )
            assert key == "relative_error" or getattr(record, key) == expected


def test_tied_tensors_of_state_dicts_count_once() -> None:
    (before, after) = (
        {"model.embed_tokens.weight": torch.randn(4, 3), "model.norm.weight": torch.ones(3)} for _ in "ab"
    )
    plain = compare(before, after)
    tied = [{**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]} for tensors in (before, after)]
    assert compare(*tied) == plain
    assert len(compare(tied[0], {**after, "lm_head.weight": torch.randn(4, 3)})) == 3  # training untied them


def test_an_update_of_zeros_has_no_ratios() -> None:
    tensors = random_tensors(0, torch.bfloat16)
    for record in compare(tensors, tensors):
        assert record.frobenius_norm == record.changed_fraction == 0
        assert record.spectral_to_frobenius is record.top1pct_norm_ratio is None
        if record.parameter in MATRICES:
            assert record.effective_rank == record.spectral_norm == record.rank == 0


def test_bfloat16_tells_how_much_was_rounded_away() -> None:
    base = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4, dtype=torch.bfloat16)}
    trained = {name: tensor.clone() for name, tensor in base.items()}
    trained["model.layers.0.mlp.up_proj.weight"][0, 0] = 2
    assert compare(base, trained)[0].changed_fraction == 1 / 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-7, 1e-4, 1.0])
def test_the_rounding_bound_holds_what_storing_has_changed(tmp_path: Path, dtype: torch.dtype, size: float) -> None:
    """Training in float64 from what the base stores, and then one rounding to the stored dtype."""
    base, step = random_tensors(0, dtype), random_tensors(1)
    exact = {name: tensor.double() + size * step[name].double() for name, tensor in base.items()}
    stored = {name: tensor.to(dtype) for name, tensor in exact.items()}
    records = compare(write(tmp_path / "base", base), write(tmp_path / "trained", stored))
    for record in records:
        lost = matrix(stored, record.parameter) - matrix(exact, record.parameter)
        assert record.dtype == str(dtype).removeprefix("torch.")
        assert record.rounding_bound is not None
        assert float(lost.norm()) <= record.rounding_bound * (1 + 1e-6)  # float64 to bf16 goes through float32
        if size == 1 and record.parameter in MATRICES and dtype != torch.float32:  # spread evenly over half a unit
            assert float(lost.norm()) == pytest.approx(record.rounding_bound / math.sqrt(3), rel=0.1)
    in_memory = {record.parameter: record.rounding_bound for record in compare(base, stored)}
    assert in_memory == pytest.approx({record.parameter: record.rounding_bound for record in records})


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_state_dicts_that_do_not_match_are_refused(change: str) -> None:
    base, trained = random_tensors(0), random_tensors(1)
    name = "lm_head.weight"
    trained |= {name: torch.zeros(31, 16)}
    if change == "missing":
        del trained[name]
    with pytest.raises(DataError, match=r"1 tensors.*lm_head\.weight"):
        compare(base, trained)


def test_a_state_dict_and_a_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two of either"):
        compare(random_tensors(0), tmp_path)


def test_displacements_are_those_between_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.updates.blocks.BLOCK_BYTES", 32 * 16 * 5)  # five rows of 16 at a time
    base, run, states = write_run(tmp_path, 3)
    pairs = [open_pair(base, run / f"checkpoint-{step}") for step in (10, 20, 30)]
    for name, size in parameters(pairs[0]).items():
        steps = [matrix(states[i + 1], name) - matrix(states[i], name) for i in range(3)]
        for sources, latest, earlier in (([None, *pairs[:2]], 1, 0), (pairs, 2, 1)):
            norm, cosine = displacement(sources, name, size)
            expected = torch.nn.functional.cosine_similarity(steps[latest].flatten(), steps[earlier].flatten(), dim=0)
            assert norm == pytest.approx(float(steps[latest].norm()), rel=1e-6)
            assert cosine == pytest.approx(float(expected), abs=1e-6)
    still = displacement([pairs[0], pairs[0], pairs[0]], "lm_head.weight", (30, 16))
    assert still == (0.0, None)


def test_alignment_is_with_the_last_checkpoint() -> None:
    torch.manual_seed(0)
    axes = torch.eye(6, dtype=torch.float64)
    first, swapped, last = axes[:, :3], axes[:, [1, 0, 2]], axes[:, :3]
    found = alignments([swapped, first * -1, last, axes[:, 3:]][:3])
    assert [each.vector_alignment for each in found] == pytest.approx([1 / 3, 1, 1])
    assert [each.first_vector_cosine for each in found] == pytest.approx([0, 1, 1])
    assert [each.subspace_alignment for each in found] == pytest.approx([1, 1, 1])
    assert found[0].chance_alignment == pytest.approx(math.sqrt(3 / 6))
    assert alignments([axes[:, :0], axes[:, :2]])[0].subspace_alignment is None


def test_chance_alignment_is_what_random_subspaces_have() -> None:
    torch.manual_seed(0)
    bases = [torch.linalg.qr(torch.randn(400, 20, dtype=torch.float64)).Q for _ in range(30)]
    found = alignments(bases)[:-1]
    mean = np.mean([each.subspace_alignment**2 for each in found if each.subspace_alignment])
    assert math.sqrt(mean) == pytest.approx(found[0].chance_alignment, rel=0.05)


def test_the_trajectory_needs_four_checkpoints_for_a_ratio() -> None:
    torch.manual_seed(0)
    lefts = [torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64)).Q for _ in range(4)]
    assert first_vector_trajectory(lefts)[1] < 1
    assert first_vector_trajectory(lefts[:3])[1] is None
    assert first_vector_trajectory([lefts[0][:, :0], *lefts]) is None


def test_a_large_matrix_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write(tmp_path / "base", random_tensors(0))
    trained = write(tmp_path / "trained", random_tensors(1))
    pair = open_pair(base, trained)
    monkeypatch.setattr("effopd.updates.measure.BLOCK_BYTES", 8 * 16 * 7)
    for name in MATRICES:
        blocks, base_norm, _ = update_blocks(pair, name, parameters(pair)[name])
        whole = torch.cat(list(blocks)) * blocks.scale
        assert max(len(block) for block in blocks) <= 7
        assert base_norm == pytest.approx(float(matrix(random_tensors(0), name).norm()), rel=1e-12)
        assert torch.equal(whole if blocks.is_tall else whole.mT, pair.delta(name))
