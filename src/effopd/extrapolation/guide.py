"""Guided extrapolation: which of the selected parameters a trigger extrapolates; the others stay at W_t.

all                    every one, which is EffOPD as arXiv 2605.11739 defines it
utility:THRESHOLD      those whose utility (see `effopd.utility`) in W_t - W_anchor is at least the threshold
alignment:THRESHOLD    those whose W_t - W_anchor has a cosine of at least the threshold with the anchor's own last
                       move. At the first trigger nothing has moved before, and all are extrapolated

All sums are taken over the whole parameter, also where processes hold shards of it, so every process chooses the same.
"""

from dataclasses import replace

from effopd.checks import check_number
from effopd.errors import ConfigurationError
from effopd.extrapolation.snapshot import Displacement
from effopd.utility import utilities

ALL = "all"
GUIDES = ("utility", "alignment")


def parse_guide(spec: str) -> tuple[str, float]:
    """Read a guide as configurations write it: its name, and its threshold, which is 0 for `all`.

    Raises:
        ConfigurationError: It is none of those above, or the threshold is not above 0 (`utility`), or not above -1 and
            at most 1 (`alignment`).
    """
    if spec == ALL:
        return ALL, 0.0
    name, colon, text = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    try:
        threshold = float(text)
    except ValueError:
        threshold = None
    if name not in GUIDES or not colon or threshold is None:
        raise ConfigurationError(f"guide: got {spec!r}, expected 'all', 'utility:THRESHOLD' or 'alignment:THRESHOLD'.")
    if name == "utility":
        check_number("guide: utility", threshold, above=0)
    else:
        check_number("guide: alignment", threshold, above=-1, high=1)
    return name, threshold


def guided(spec: str, displacement: Displacement) -> Displacement:
    """Choose the parameters that a trigger extrapolates, which may be none.

    Args:
        spec: A guide that `parse_guide` reads.
        displacement: What W_t - W_anchor amounts to.

    Returns:
        The same displacement, whose `moving` are the chosen parameters.
    """
    name, threshold = parse_guide(spec)
    if name == ALL or (name == "alignment" and displacement.cosine_to_previous is None):  # nothing has moved before
        return displacement
    if name == "utility":
        found = utilities({each: (move.square, move.numel) for each, move in displacement.parameters.items()})
        moving = [each for each, utility in found.items() if utility >= threshold]
    else:
        cosines = {each: move.cosine_to_previous for each, move in displacement.parameters.items()}
        moving = [each for each, cosine in cosines.items() if cosine is not None and cosine >= threshold]
    return replace(displacement, moving=tuple(moving))
