"""The sweeps of arXiv 2605.11739, each with the models that it evaluates of every run.

A preset is a frozen dataclass. Its fields are those of its entry in the specification, and its `plan` yields the models
of one run. The field `values` is always the preset's grid.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from effopd.checks import check_choice, check_file_name, check_list, check_number, check_text, check_whole
from effopd.errors import ConfigurationError
from effopd.interventions import KINDS, make_intervention
from effopd.sweeps.sweep_models import BASE, Entry, SweepModel, TrainingRun, thin

LONGEST_NAME = 100  # bytes of the name of a sweep or run


@dataclass(frozen=True, kw_only=True)
class Preset(ABC):
    """What all presets have in common.

    Attributes:
        name: Name of the sweep and of its figure; by default that of the preset.
        runs: Names of the runs that take part; by default all of them.

    Raises:
        ConfigurationError: A field has a value that it cannot have.
    """

    preset: ClassVar[str]
    measures_kl: ClassVar[bool] = False
    name: str = ""
    runs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.preset)
        check_file_name(f"{self.preset}: name", self.name, LONGEST_NAME)
        if self.runs != ():
            object.__setattr__(self, "runs", check_list(f"{self.name}: runs", self.runs))

    @abstractmethod
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        """Yield the models of one run.

        Raises:
            ConfigurationError: The preset cannot be applied to the run.
        """

    def _set_numbers(self, field: str, *, low: float = -math.inf, high: float = math.inf) -> None:
        values = check_list(f"{self.name}: {field}", getattr(self, field))
        for value in values:
            check_number(f"{self.name}: {field}", value, low=low, high=high)
        object.__setattr__(self, field, tuple(sorted(float(value) for value in values)))


@dataclass(frozen=True, kw_only=True)
class UpdateNorm(Preset):
    """Accuracy against the norm of the update, for the scaled final update and for every checkpoint as it is.

    The curves are `scale`, whose values are alpha, and `checkpoint`, whose values are steps.

    Attributes:
        values: Factors alpha of the final checkpoint's update. 1 is always added to them.
    """

    preset: ClassVar[str] = "update_norm"
    values: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_numbers("values")

    @override
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        for alpha in sorted({*thin(self.values, run.max_values), 1.0}):
            yield SweepModel(run.final, _scaled(alpha), "scale", alpha, "update_norm")
        for index in run.over_training:
            yield SweepModel(index, (), "checkpoint", run.time(index), "update_norm")


@dataclass(frozen=True, kw_only=True)
class EmbeddingReplacement(Preset):
    """The final model with the base's embeddings, in comparison with the base and the final model themselves.

    The curves are `base`, `trained` and `replace-embeddings`, of one point each.
    """

    preset: ClassVar[str] = "embedding_replacement"

    @override
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        yield SweepModel(run.final, (BASE,), "base", 0.0)
        yield SweepModel(run.final, ({"replace-embeddings": {}},), "replace-embeddings", 0.0)
        yield SweepModel(run.final, (), "trained", 0.0)


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(Preset):
    """The base with the final update of one module in a window of layers, for every centre of the window.

    The curves are `mlp`, `attention` and `both`, whose values are centres, and for comparison `base` and `trained`.

    Attributes:
        modules: Modules, each of which gives a curve: `mlp`, `attention` or `both`.
        half_width: Number of layers to either side of the centre. By default it is the paper's 8 for models of 28
            layers and more, and the same share of the layers, rounded down, for smaller ones.
        values: Indices of the layers at the centre; by default every layer.
    """

    preset: ClassVar[str] = "sliding_window"
    modules: tuple[str, ...] = ("mlp", "attention")
    half_width: int | None = None
    values: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "modules", check_list(f"{self.name}: modules", self.modules))
        for module in self.modules:
            check_choice(f"{self.name}: modules", module, ("mlp", "attention", "both"))
        if self.half_width is not None:
            check_whole(f"{self.name}: half_width", self.half_width, 0)
        if self.values is not None:
            for value in check_list(f"{self.name}: values", self.values):
                check_whole(f"{self.name}: values", value, 0)
            object.__setattr__(self, "values", tuple(sorted(self.values)))

    @override
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        centres = run.layers if self.values is None else self.values
        if not run.layers or not set(centres) <= set(run.layers):
            layers = f"layers from {run.layers[0]} to {run.layers[-1]}" if run.layers else "numbered layers"
            raise ConfigurationError(f"{self.name}: got the centres {list(centres)} for {run.name}, expected {layers}.")
        half_width = min(8, len(run.layers) * 2 // 7) if self.half_width is None else self.half_width
        for module in self.modules:
            for centre in thin(centres, run.max_values):
                window = {"module": module, "centre": centre, "half_width": half_width}
                yield SweepModel(run.final, ({"window": window},), module, float(centre))
        yield SweepModel(run.final, (BASE,), "base", 0.0)
        yield SweepModel(run.final, (), "trained", 0.0)


@dataclass(frozen=True, kw_only=True)
class TopBottom(Preset):
    """The first k % of the final update's singular components at a common norm, and the last k % as they are.

    The curves are `top` and `bottom`, whose values are percentages, and for comparison `base` and `trained`.

    Attributes:
        values: Percentages, above 0 and at most 100.
        norm_like: Name of the run whose final update sets the norm of every matrix of the `top` curve, so that runs are
            compared at an equal budget: that of its n-th seed for n-th seeds. By default the first run of the
            specification.
        other: What all other tensors are. With `base` only the matrices differ from the base; with `trained` all other
            tensors are those of the trained model.
    """

    preset: ClassVar[str] = "top_bottom"
    values: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 80.0, 90.0, 95.0, 99.0, 100.0)
    norm_like: str | None = None
    other: str = "base"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_numbers("values", low=0, high=100)
        check_choice(f"{self.name}: other", self.other, ("base", "trained"))
        if self.norm_like is not None:
            check_text(f"{self.name}: norm_like", self.norm_like)
        for percent in self.values:
            make_intervention("bottom", {"percent": percent})

    @override
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        reference = self.norm_like or next(iter(run.finals))
        if reference not in run.finals:
            raise ConfigurationError(
                f"{self.name}: norm_like: got the run {reference!r}, expected one of {', '.join(run.finals)}."
            )
        norms = str(run.finals[reference])
        for percent in thin(self.values, run.max_values):
            fields = {"percent": percent, "other": self.other}
            yield SweepModel(run.final, ({"top": fields | {"norm_like": norms}},), "top", percent)
            yield SweepModel(run.final, ({"bottom": fields},), "bottom", percent)
        yield SweepModel(run.final, (BASE,), "base", 0.0)
        yield SweepModel(run.final, (), "trained", 0.0)


@dataclass(frozen=True, kw_only=True)
class NormMatching(Preset):
    """Early checkpoints with the norms of the final one, for which the KL to the teacher is measured, too.

    The curves are `checkpoint` and `norm-match` (with beta 1), whose values are steps, and `beta`, whose values are
    beta.

    Attributes:
        values: Factors beta for one early checkpoint. 0 leaves it as it is, and 1 gives every weight's update its final
            norm; both are always added.
        early: Fraction of the training, in [0, 1]. The checkpoint nearest to it is the early one.
    """

    preset: ClassVar[str] = "norm_matching"
    measures_kl: ClassVar[bool] = True
    values: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    early: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_numbers("values")
        check_number(f"{self.name}: early", self.early, low=0, high=1)

    @override
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        early = run.early(self.early)
        for index in sorted({*run.over_training, early}):
            yield SweepModel(index, (), "checkpoint", run.time(index))
            yield SweepModel(index, _matched(run, index, 1.0), "norm-match", run.time(index))
        for beta in sorted({*thin(self.values, run.max_values), 0.0, 1.0}):
            yield SweepModel(early, _matched(run, early, beta), "beta", beta)


@dataclass(frozen=True, kw_only=True)
class OneIntervention(Preset):
    """Any intervention, with several values of one of its numbers.

    The curve is named after the intervention, with the step if there is a curve for every checkpoint.

    Attributes:
        kind: Name of the intervention, as for `effopd intervene`.
        vary: Field of the intervention that takes the values.
        values: Values of that field.
        fields: Values of the intervention's other fields.
        over_training: Whether the intervention is applied to every checkpoint, and not only to the last one.
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
                f"{self.name}: fields: got {self.fields!r}, expected {{field: value}} without {self.vary!r}, which"
                " varies."
            )
        if not isinstance(self.over_training, bool):
            raise ConfigurationError(f"{self.name}: over_training: got {self.over_training!r}, expected true or false.")
        for value in check_list(f"{self.name}: values", self.values):
            check_number(f"{self.name}: values", value)
            make_intervention(self.kind, {**(self.fields or {}), self.vary: value})
        object.__setattr__(self, "values", tuple(sorted(self.values)))

    @override
    def plan(self, run: TrainingRun) -> Iterator[SweepModel]:
        for index in run.over_training if self.over_training else (run.final,):
            label = f"{self.kind}, step {run.time(index):g}" if self.over_training else self.kind
            for value in thin(self.values, run.max_values):
                yield SweepModel(index, ({self.kind: {**(self.fields or {}), self.vary: value}},), label, float(value))


PRESETS: dict[str, type[Preset]] = {
    made.preset: made
    for made in (UpdateNorm, EmbeddingReplacement, SlidingWindow, TopBottom, NormMatching, OneIntervention)
}


def _scaled(alpha: float) -> tuple[Entry, ...]:
    """Scale the update, or do nothing for 1: then the model is the same cell as that of other sweeps."""
    return () if alpha == 1 else ({"scale": {"alpha": alpha}},)


def _matched(run: TrainingRun, checkpoint: int, beta: float) -> tuple[Entry, ...]:
    """Match the norms of the final checkpoint, or do nothing where that would leave the checkpoint as it is."""
    if beta == 0 or (beta == 1 and checkpoint == run.final):
        return ()
    return ({"norm-match": {"final": str(run.checkpoints[run.final].directory), "beta": beta}},)
