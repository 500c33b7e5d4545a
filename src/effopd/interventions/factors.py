"""Truncations with the singular vectors that an analysis has saved (docs/analysis.md)."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from effopd.errors import DataError
from effopd.interventions.decomposition import Decomposition
from effopd.updates.spectrum import RANK_EPS

_TOLERANCE = 1e-5  # the vectors are stored in float32
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class SavedFactors:
    """The leading singular vectors of one checkpoint's updates, by parameter.

    They are stored in float32. A truncation made with them differs by about 1e-7 of its norm from one made without.

    Attributes:
        directory: Directory that holds a file `PARAMETER.safetensors` for each matrix.
    """

    directory: Path

    def read(self, name: str, update: Tensor) -> Decomposition | None:
        """Read the saved vectors of a matrix, and check that they belong to it: `dW v_i = sigma_i u_i`, and the norm.

        Args:
            name: Name of the matrix.
            update: Its dW, float64 [m, n].

        Returns:
            The vectors that were saved; None if there is no file for this matrix.

        Raises:
            DataError: The file is damaged, or belongs to another update.
        """
        file = self.directory / f"{quote(name, safe='[]')}.safetensors"
        if not file.exists():
            return None
        try:
            found = load_file(file)
            stored = {key: tensor.to(update.device, torch.float64) for key, tensor in found.items()}
            left, right, sigma = stored["left"], stored["right"], stored["singular_values"]
        except (SafetensorError, OSError, KeyError) as error:
            raise DataError(f"{file} cannot be read as saved factors ({error!r}). Run the analysis again.") from error
        if not _belongs(left, right, sigma, update):
            raise DataError(
                f"{file}: these are not the singular vectors of this update of {name}. Pass the analysis, run and "
                "checkpoint of the very models given as base and trained, or leave the factors out."
            )
        # An analysis by version 0.1.0 has no rank, and the values of its Gram matrix may be noise at the bottom.
        counted = (sigma > max(update.shape) * RANK_EPS * sigma[0]).sum()
        return Decomposition(right if update.shape[0] >= update.shape[1] else left, int(found.get("rank", counted)))


def open_factors(analysis: str | Path, run: str | None = None, checkpoint: int | None = None) -> SavedFactors:
    """Find the factors of one checkpoint in the directory of an analysis.

    Args:
        analysis: Directory that `effopd analyze` wrote into.
        run: Name of a run. It may be left out if the analysis has only one.
        checkpoint: Number of the checkpoint, from 0 in the order of training. The last one is the default.

    Raises:
        DataError: There is no such analysis, run or checkpoint.
    """
    root = Path(analysis) / "subspaces"
    runs = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not runs:
        raise DataError(f"{analysis}: no saved factors; expected {root}/RUN/checkpoint-I, as `effopd analyze` writes.")
    if run is None and len(runs) == 1:
        run = runs[0]
    if run not in runs:
        raise DataError(f"{analysis}: got the run {run!r}; expected one of {', '.join(runs)}.")
    matches = (_CHECKPOINT.fullmatch(entry.name) for entry in (root / run).iterdir())
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers or (checkpoint is not None and checkpoint not in numbers):
        raise DataError(
            f"{root / run}: got checkpoint {checkpoint}; expected one of {', '.join(map(str, numbers)) or 'none'}."
        )
    return SavedFactors(root / run / f"checkpoint-{numbers[-1] if checkpoint is None else checkpoint}")


def _belongs(left: Tensor, right: Tensor, sigma: Tensor, update: Tensor) -> bool:
    k = left.shape[1] if left.ndim == 2 else -1
    shapes = (tuple(left.shape), tuple(right.shape), tuple(sigma.shape))
    if shapes != ((update.shape[0], k), (update.shape[1], k), (min(update.shape),)):
        return False
    norm, saved = float(torch.linalg.vector_norm(update)), float(torch.linalg.vector_norm(sigma))
    residual = update @ right - left * sigma[:k]
    worst = float(torch.linalg.vector_norm(residual, dim=0).max()) if k else 0.0
    return abs(norm - saved) <= _TOLERANCE * norm and worst <= _TOLERANCE * float(sigma[0])
