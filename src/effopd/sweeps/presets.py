"""The sweeps of arXiv 2605.11739: which models each evaluates, of one run after the other.

A preset is a frozen dataclass whose fields are those of its entry in the specification, and whose `plan` gives the
models. `values` is always its grid.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from effopd.errors import ConfigurationError
from effopd.interventions import KINDS, make_intervention
from effopd.sweeps.checks import check_choice, check_name, check_number, check_text, check_whole, listed, thin
from effopd.sweeps.points import BASE, Entry, Point, TrainingRun


@dataclass(frozen=True, kw_only=True)
class Preset(ABC):
    """What all sweeps have.

    Attributes:
        name: Of the sweep, for its figure; the preset's by default.
        runs: Names of the runs that take part; all by default.
    """

    preset: ClassVar[str]
    measures_kl: ClassVar[bool] = False
    name: str = ""
    runs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.preset)
        check_name(f"{self.preset}: name", self.name)
        if self.runs != ():
            object.__setattr__(self, "runs", listed(f"{self.name}: runs", self.runs))

    @abstractmethod
    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """The models of one run."""

    def _set_numbers(self, field: str, low: float = -math.inf, high: float = math.inf) -> None:
        values = listed(f"{self.name}: {field}", getattr(self, field))
        for value in values:
            check_number(f"{self.name}: {field}", value, low, high)
        object.__setattr__(self, field, tuple(sorted(float(value) for value in values)))


@dataclass(frozen=True, kw_only=True)
class UpdateNorm(Preset):
    """Accuracy against the norm of the update: the final one scaled, and every checkpoint as it is.

    Attributes:
        values: Factors alpha of the final checkpoint's update; 1 is always one of them.
    """

    preset: ClassVar[str] = "update_norm"
    values: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_numbers("values")

    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """Kinds `scale` (value: alpha) and `checkpoint` (value: step)."""
        for alpha in sorted({*thin(self.values, run.max_values), 1.0}):
            yield Point(run.final, _scaled(alpha), "scale", alpha, "update_norm")
        for index in run.over_training:
            yield Point(index, (), "checkpoint", run.time(index), "update_norm")


@dataclass(frozen=True, kw_only=True)
class EmbeddingReplacement(Preset):
    """The final model with the base's embeddings, beside the base and the final model themselves."""

    preset: ClassVar[str] = "embedding_replacement"

    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """Kinds `base`, `trained` and `replace-embeddings`."""
        yield Point(run.final, (BASE,), "base", 0.0)
        yield Point(run.final, ({"replace-embeddings": {}},), "replace-embeddings", 0.0)
        yield Point(run.final, (), "trained", 0.0)


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(Preset):
    """The base with the final update of one module in a window of layers, for every centre of the window.

    Attributes:
        modules: `mlp`, `attention` or `both`, each a curve.
        half_width: Layers to either side of the centre. By default the paper's 8 for models of 28 layers and more, and
            the same proportion of the layers, rounded down, for smaller ones.
        values: Centres; by default every layer.
    """

    preset: ClassVar[str] = "sliding_window"
    modules: tuple[str, ...] = ("mlp", "attention")
    half_width: int | None = None
    values: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "modules", listed(f"{self.name}: modules", self.modules))
        for module in self.modules:
            check_choice(f"{self.name}: modules", module, ("mlp", "attention", "both"))
        if self.half_width is not None:
            check_whole(f"{self.name}: half_width", self.half_width, 0)
        if self.values is not None:
            for value in listed(f"{self.name}: values", self.values):
                check_whole(f"{self.name}: values", value, 0)
            object.__setattr__(self, "values", tuple(sorted(self.values)))

    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """Kinds `mlp`, `attention`, `both` (value: centre), and for comparison `base` and `trained`."""
        centres = run.layers if self.values is None else self.values
        if not run.layers or not set(centres) <= set(run.layers):
            layers = f"layers from {run.layers[0]} to {run.layers[-1]}" if run.layers else "numbered layers"
            raise ConfigurationError(f"{self.name}: got the centres {list(centres)} for {run.name}; expected {layers}.")
        half_width = min(8, len(run.layers) * 2 // 7) if self.half_width is None else self.half_width
        for module in self.modules:
            for centre in thin(centres, run.max_values):
                window = {"module": module, "centre": centre, "half_width": half_width}
                yield Point(run.final, ({"window": window},), module, float(centre))
        yield Point(run.final, (BASE,), "base", 0.0)
        yield Point(run.final, (), "trained", 0.0)


@dataclass(frozen=True, kw_only=True)
class TopBottom(Preset):
    """The first k % of the singular components at a common norm, and the last k % as they are, of the final update.

    Attributes:
        values: Percentages, above 0 and at most 100.
        norm_like: Name of the run, its first seed, whose final update sets the norm of every matrix of the `top` curve,
            so that runs compare at an equal budget; the first run of the specification by default.
        other: What all other tensors are: `base`, so that the matrices are all that differs, or `trained`.
    """

    preset: ClassVar[str] = "top_bottom"
    values: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 80.0, 90.0, 95.0, 99.0, 100.0)
    norm_like: str | None = None
    other: str = "base"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_numbers("values", 0.0, 100.0)
        check_choice(f"{self.name}: other", self.other, ("base", "trained"))
        if self.norm_like is not None:
            check_text(f"{self.name}: norm_like", self.norm_like)
        for percent in self.values:
            make_intervention("bottom", {"percent": percent})

    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """Kinds `top` and `bottom` (value: percent), and for comparison `base` and `trained`."""
        reference = self.norm_like or next(iter(run.finals))
        if reference not in run.finals:
            raise ConfigurationError(
                f"{self.name}: norm_like: got the run {reference!r}; expected one of {', '.join(run.finals)}."
            )
        norms = str(run.finals[reference])
        for percent in thin(self.values, run.max_values):
            fields = {"percent": percent, "other": self.other}
            yield Point(run.final, ({"top": fields | {"norm_like": norms}},), "top", percent)
            yield Point(run.final, ({"bottom": fields},), "bottom", percent)
        yield Point(run.final, (BASE,), "base", 0.0)
        yield Point(run.final, (), "trained", 0.0)


@dataclass(frozen=True, kw_only=True)
class NormMatching(Preset):
    """Early checkpoints with the norms of the final one: accuracy and KL to the teacher.

    Attributes:
        values: Factors beta for one early checkpoint: 0 leaves it, 1 gives every weight's update its final norm; both
            are always among them.
        early: Which one: the checkpoint nearest to this fraction of the training, above 0 and at most 1.
    """

    preset: ClassVar[str] = "norm_matching"
    measures_kl: ClassVar[bool] = True
    values: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    early: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_numbers("values")
        check_number(f"{self.name}: early", self.early, 0.0, 1.0)

    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """Kinds `checkpoint` and `norm-match` (beta 1; value: step), and `beta` (value: beta)."""
        early = run.early(self.early)
        for index in sorted({*run.over_training, early}):
            yield Point(index, (), "checkpoint", run.time(index))
            yield Point(index, _matched(run, index, 1.0), "norm-match", run.time(index))
        for beta in sorted({*thin(self.values, run.max_values), 0.0, 1.0}):
            yield Point(early, _matched(run, early, beta), "beta", beta)


@dataclass(frozen=True, kw_only=True)
class OneIntervention(Preset):
    """Any intervention, over any of its numbers.

    Attributes:
        kind: One of those of `effopd intervene`.
        vary: Its field that takes the values.
        values: Of that field.
        fields: Its other fields.
        over_training: Whether every checkpoint is intervened on, and not only the last one.
    """

    preset: ClassVar[str] = "intervention"
    kind: str
    vary: str
    values: tuple[float, ...]
    fields: Mapping[str, Any] | None = None
    over_training: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"{self.name}: kind", self.kind, KINDS)
        check_text(f"{self.name}: vary", self.vary)
        if not isinstance(self.fields or {}, Mapping) or self.vary in (self.fields or {}):
            raise ConfigurationError(
                f"{self.name}: fields: got {self.fields!r}; expected {{field: value}} without {self.vary!r}, which"
                " varies."
            )
        if not isinstance(self.over_training, bool):
            raise ConfigurationError(f"{self.name}: over_training: got {self.over_training!r}; expected true or false.")
        for value in listed(f"{self.name}: values", self.values):
            check_number(f"{self.name}: values", value)
            make_intervention(self.kind, {**(self.fields or {}), self.vary: value})
        object.__setattr__(self, "values", tuple(sorted(self.values)))

    def plan(self, run: TrainingRun) -> Iterator[Point]:
        """Kind: that of the intervention, with the step over training."""
        for index in run.over_training if self.over_training else (run.final,):
            label = f"{self.kind}, step {run.time(index):g}" if self.over_training else self.kind
            for value in thin(self.values, run.max_values):
                yield Point(index, ({self.kind: {**(self.fields or {}), self.vary: value}},), label, float(value))


PRESETS: dict[str, type[Preset]] = {
    made.preset: made
    for made in (UpdateNorm, EmbeddingReplacement, SlidingWindow, TopBottom, NormMatching, OneIntervention)
}


def _scaled(alpha: float) -> tuple[Entry, ...]:
    """Nothing for 1, so that the model is evaluated once for all sweeps that want it."""
    return () if alpha == 1 else ({"scale": {"alpha": alpha}},)


def _matched(run: TrainingRun, checkpoint: int, beta: float) -> tuple[Entry, ...]:
    """Nothing where it leaves the checkpoint as it is."""
    if beta == 0 or (beta == 1 and checkpoint == run.final):
        return ()
    return ({"norm-match": {"final": str(run.checkpoints[run.final].directory), "beta": beta}},)
