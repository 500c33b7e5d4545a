"""Parts of tensors on disk, read by other numbers of processes."""

from pathlib import Path

import pytest
import torch

from effopd.errors import CheckpointError
from effopd.extrapolation.parts import Part, load_parts, save_parts

WHOLE = {"w": torch.arange(35.0).reshape(7, 5), "b": torch.arange(7.0), "s": torch.tensor(3.0)}
Tiles = list[tuple[slice, ...]]


def rows(number: int) -> Tiles:
    """Seven rows as FSDP2 shards them: equal parts, a smaller one, and perhaps empty ones."""
    size = -(-7 // number)
    return [(slice(min(7, size * i), min(7, size * (i + 1))),) for i in range(number)]


LEFT, RIGHT, BELOW = (slice(0, 4), slice(0, 3)), (slice(0, 4), slice(3, 5)), (slice(4, 7), slice(0, 5))
TILINGS: list[Tiles] = [rows(1), rows(2), rows(3), rows(5), [LEFT, RIGHT, BELOW]]


def pieces(tile: tuple[slice, ...]) -> tuple[dict[str, torch.Tensor], dict[str, Part]]:
    """What the process that holds a tile of `w` holds of it, and all of the others."""
    part = WHOLE["w"][tile].contiguous()
    parts = {"w": Part((7, 5), (*(each.start for each in tile), 0)[:2]), "b": Part((7,), (0,)), "s": Part((), ())}
    return {"w": part, "b": WHOLE["b"], "s": WHOLE["s"]}, parts


@pytest.mark.parametrize("saved", TILINGS)
@pytest.mark.parametrize("loaded", TILINGS)
def test_any_tiling_reads_what_any_other_has_saved(saved: Tiles, loaded: Tiles, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.safetensors" for index in range(len(saved))]
    for path, tile in zip(paths, saved, strict=True):
        tensors, parts = pieces(tile)
        save_parts({f"anchor.{name}": tensor for name, tensor in tensors.items()}, parts, path)
    for own, tile in enumerate(loaded):
        tensors, parts = pieces(tile)
        into = {name: torch.full_like(tensor, -1) for name, tensor in tensors.items()}
        assert load_parts(paths, own, "anchor", parts, into) == {"w": (7, 5), "b": (7,), "s": ()}
        assert all(torch.equal(into[name], tensors[name]) for name in tensors)
        assert load_parts(paths, own, "previous", parts, into) == {}
    if len(paths) > 1 and WHOLE["w"][saved[1]].numel():
        tensors, parts = pieces(rows(1)[0])
        assert "w" not in load_parts([paths[0], *paths[2:]], 0, "anchor", parts, tensors)


def test_what_each_process_has_whole_is_read_from_its_own_file(tmp_path: Path) -> None:
    """Such as partitions of one name whose places nobody has noted."""
    paths = [tmp_path / f"{index}.safetensors" for index in range(2)]
    for index, path in enumerate(paths):
        save_parts({"anchor.w": torch.full((3,), float(index))}, {"w": Part((3,), (0,))}, path)
    for own in (0, 1):
        into = {"w": torch.full((3,), -1.0)}
        load_parts(paths, own, "anchor", {"w": Part((3,), (0,))}, into)
        assert into["w"].tolist() == [own] * 3


def test_one_of_several_files_is_not_taken_for_all(tmp_path: Path) -> None:
    """If all processes save to one path, the part of the last one is all that is left, and reading it alone fails."""
    tensors, parts = pieces(rows(2)[1])
    path = tmp_path / "anchor.safetensors"
    save_parts({f"anchor.{name}": tensor for name, tensor in tensors.items()}, parts, path, num_files=2)
    with pytest.raises(CheckpointError, match=r"one of 2 files.*under a name of its own"):
        load_parts([path], 0, "anchor", parts, tensors)
