"""A snapshot of a model with a LoRA adapter: of each pair of factors, the product is extrapolated.

The anchor, W_t and what is saved are the factors themselves, as of any parameter. So restoring, committing and resuming
are exact to the bit.
"""

from collections.abc import Collection, Mapping

import torch
import torch.distributed as dist
from typing_extensions import override

from effopd.extrapolation.adapters import Pair
from effopd.extrapolation.lora import difference, extrapolate_product
from effopd.extrapolation.shards import num_processes
from effopd.extrapolation.snapshot import Displacement, Snapshot


class LoraSnapshot(Snapshot):
    """Anchor and current weights of a live model, of which some parameters are the factors of products.

    In displacements, a pair counts as one parameter by the name of its module: norms and cosines are those of
    `scaling * B @ A`, elements are those of A and B.

    Args:
        parameters: Parameters by name, unsharded; see `Snapshot`.
        pairs: Pairs of factors among them, by the name of their module.
        device: Device of the copies; see `Snapshot`.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        pairs: Mapping[str, Pair],
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(parameters, device)
        self.pairs = pairs

    @override
    def begin(self, moving: Collection[str] | None = None) -> None:
        """Remember the parameters as W_t; `moving` has names of modules for their pairs of factors."""
        factors = {factor for pair in self.pairs.values() for factor in pair[:2]}
        everything = (self.parameters.keys() - factors) | self.pairs.keys()
        super().begin(everything if moving is None else moving)
        self.truncation = {}

    @override
    @torch.no_grad()
    def write_candidate(self, scale: float) -> None:
        """Set the parameters that move to the candidate, pairs of factors to its truncation to their rank.

        What the truncation loses is kept in `truncation`. All processes take the factors of the first, so that they
        hold the same bits; this is collective.
        """
        super().write_candidate(scale)
        live, residuals = self._live(), []
        for module, pair in self.pairs.items():
            if module not in self._moving:
                continue
            anchor, current = self._factors(self._anchor, pair), self._factors(self._current, pair)
            new_a, new_b, residual = extrapolate_product(*anchor, *current, scale)
            for name, new in ((pair.a, new_a), (pair.b, new_b)):
                live[name].copy_(new)
                if num_processes() > 1:
                    dist.broadcast(live[name], src=0)
            residuals.append(residual)
        if residuals:
            self.truncation[scale] = (max(residuals), sum(residuals) / len(residuals))

    @override
    def candidate_may_overflow(self, displacement: Displacement, scale: float) -> bool:
        """Always true: how large factors become is not told by how far they have moved."""
        return True

    @override
    def _sum_up(self) -> tuple[dict[str, torch.Tensor], dict[torch.dtype, tuple[float, float]]]:
        sums, largest = super()._sum_up()
        for module, pair in self.pairs.items():
            row = sums.pop(pair.a) + sums.pop(pair.b)
            anchor, live = self._factors(self._anchor, pair), self._factors(self._live(), pair)
            delta = difference(*anchor, *live)
            products = [delta.norm_squared()]
            if self._has_previous:
                previous = difference(*self._factors(self._current, pair), *anchor)
                products += [delta.inner(previous), previous.norm_squared()]
            row[: len(products)] = pair.scaling**2 * torch.stack(products).cpu() / num_processes()
            sums[module] = row
        return sums, largest

    def _factors(self, tensors: Mapping[str, torch.Tensor], pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
        """Return factors A and B of a pair, where the model is."""
        device = self.parameters[pair.a].device
        return tensors[pair.a].to(device), tensors[pair.b].to(device)
