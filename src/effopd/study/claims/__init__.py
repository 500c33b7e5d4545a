"""The claims that a study tests, by theme, and the digest of what was written down about them before the runs.

A claim whose records a study has not made is listed as not measured. To add one, write it into the file of its theme.
"""

import hashlib
from importlib.resources import files

from effopd.study.claims import alignment, concentration, cost, interventions, linearized, norms, robustness
from effopd.study.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = tuple(
    claim
    for theme in (norms, interventions, concentration, alignment, cost, robustness, linearized)
    for claim in theme.CLAIMS
)


def written_down() -> dict[str, str]:
    """Return the files that decide what is claimed, and how it is judged, by name: their text."""
    study = files("effopd") / "study"
    claims = sorted(each.name for each in (study / "claims").iterdir() if each.name.endswith(".py"))
    places = [*(f"claims/{name}" for name in claims), "boundary.py", "records.py", "verdict.py", "plan.yaml"]
    return {place: study.joinpath(*place.split("/")).read_text(encoding="utf-8") for place in places}


def digest(texts: dict[str, str]) -> str:
    """Compute the SHA-256 digest of the files from `written_down`, 64 hexadecimal digits."""
    whole = hashlib.sha256()
    for name, text in sorted(texts.items()):
        whole.update(f"{name}\n{len(text)}\n{text}".encode())
    return whole.hexdigest()
