"""Products with the Gauss-Newton matrix A = R^T R and with its root R: one jvp, one vjp, or both.

Shape suffixes: T completion tokens, of all contexts together or of some; V vocabulary.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from transformers import PreTrainedModel

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.linearized.contexts import Contexts

Vector = dict[str, Tensor]
"""A vector as long as the model: a tensor for each parameter, by name. Tied parameters are one, under one name."""
Derivative = Callable[[Tensor, slice], Tensor]
"""From the logits [T, V] of some completion tokens, and the place of these among all, to the derivative of something by
these logits, [T, V]."""
Part = tuple[Contexts, slice]
"""Some contexts, and the place of their completion tokens among all."""


class GaussNewtonRoot:
    """R and what it is made of, for one model and some contexts.

    It computes in the dtype of the parameters, and in float32 if that has fewer bits. What a product holds beside the
    model is two vectors as long as the model, and the activations of one micro-batch.

    Args:
        model: Causal language model in evaluation mode, whose attention is `eager`: others have no forward derivatives.
        contexts: Contexts with at least one completion token each.
        micro_batch: Number of contexts that go through the model at a time, at least 1.
        temperature: Number that all logits are divided by, as in training.

    Attributes:
        parameters: The base's parameters, detached.
        token_ids: The completion tokens, int64 [T].

    Raises:
        ConfigurationError: The model is in training mode, or a context has no completion token.
        UnsupportedError: The model's attention has no forward derivatives.
    """

    def __init__(
        self, model: PreTrainedModel, contexts: Contexts, *, micro_batch: int = 8, temperature: float = 1.0
    ) -> None:
        if model.training:
            raise ConfigurationError("The model is in training mode; call model.eval() first.")
        if model.config._attn_implementation != "eager":
            raise UnsupportedError(
                f"The model's attention is {model.config._attn_implementation!r}, which has no forward derivatives."
                ' Load it with attn_implementation="eager".'
            )
        if not contexts.completion_mask.any(1).all():
            raise ConfigurationError("Got a context without a completion token; expected at least one in each.")
        self.model = model
        self.contexts = Contexts(*(each.to(model.device) for each in contexts))
        self.temperature = temperature
        self.parameters: Vector = {
            name: parameter.detach() if parameter.element_size() >= 4 else parameter.detach().float()
            for name, parameter in model.named_parameters()
        }
        self.token_ids = self.contexts.input_ids[self.contexts.completion_mask.bool()]
        self._micro_batch = micro_batch
        self._weight = 1 / len(self.token_ids)

    def parts(self, size: int | None = None) -> Iterator[Part]:
        """Yield the contexts in parts of `size`, or in micro-batches."""
        start = 0
        for batch in self.contexts.batches(size or self._micro_batch):
            yield batch, slice(start, start + batch.num_tokens)
            start += batch.num_tokens

    def logits(self, at: Mapping[str, Tensor], batch: Contexts) -> Tensor:
        """Compute the model's logits at the completion tokens, divided by the temperature.

        Args:
            at: All parameters by name.
            batch: Some contexts.

        Returns:
            Logits [T, V] of the distributions that the completion tokens were drawn from.
        """
        return completion_logits(self.model, batch, at) / self.temperature

    def residual(self, teacher_TV: Tensor) -> Tensor:
        """Compute r, for which b = R^T r, from the teacher's logits: [T, V].

        Args:
            teacher_TV: Logits of the teacher at the completion tokens, divided by the temperature, [T, V].
        """
        parts = []
        with torch.no_grad():
            for batch, where in self.parts():
                z = self.logits(self.parameters, batch)
                parts.append(self._root_fisher(z, teacher_TV[where].to(z) - z))
        return torch.cat(parts)

    def push(self, vector: Mapping[str, Tensor]) -> Tensor:
        """Compute R v, [T, V]: a jvp for each micro-batch."""
        tangent = {name: vector[name].to(value) for name, value in self.parameters.items()}
        parts = []
        with torch.no_grad(), warnings.catch_warnings():  # PyTorch 2.13 still uses it itself
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
            for batch, _ in self.parts():
                both: Any = jvp(partial(self.logits, batch=batch), (self.parameters,), (tangent,))
                parts.append(self._root_fisher(*both))
        return torch.cat(parts)

    def pull(self, rows_TV: Tensor) -> Vector:
        """Compute R^T y from y [T, V]: a vjp for each micro-batch."""

        def derivative(z: Tensor, where: slice) -> Tensor:
            y, half = rows_TV[where].to(z), z.softmax(-1).sqrt()
            by_logits: Tensor = (self._weight**0.5) * half * (y - half * (half * y).sum(-1, keepdim=True))
            return by_logits

        return self.gradient(derivative)

    def product(self, vector: Mapping[str, Tensor]) -> Vector:
        """Compute A v: one jvp and one vjp."""
        return self.pull(self.push(vector))

    def row_product(self, rows_TV: Tensor) -> Tensor:
        """Compute R R^T y, [T, V]: one vjp and one jvp."""
        return self.push(self.pull(rows_TV))

    def gradient(self, derivative: Derivative, at: Vector | None = None, parts: Iterable[Part] | None = None) -> Vector:
        """Pull derivatives by the logits (after division by the temperature) back to the parameters.

        Args:
            derivative: Function that returns the derivatives by the logits of a part.
            at: Parameters to differentiate at; None takes the base's.
            parts: Contexts to take; None takes all, in micro-batches.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in (at or self.parameters).items()}
        total: Vector = {}
        for batch, where in self.parts() if parts is None else parts:
            with torch.enable_grad():
                z = self.logits(leaves, batch)
            with torch.no_grad():
                by_logits = derivative(z.detach(), where)
            found = torch.autograd.grad(z, list(leaves.values()), by_logits, allow_unused=True, materialize_grads=True)
            for name, each in zip(leaves, found, strict=True):
                total[name] = total[name].add_(each) if name in total else each
        return total

    def random_rows(self, seed: int) -> Tensor:
        """Draw a vector in the range of R: R x for a standard normal x as long as the model, [T, V]."""
        generator = torch.Generator().manual_seed(seed)
        return self.push(
            {name: torch.randn(value.shape, generator=generator) for name, value in self.parameters.items()}
        )

    def _root_fisher(self, z: Tensor, change: Tensor) -> Tensor:
        """Multiply changes of the logits z by sqrt(weight) (diag(sqrt(p)) - sqrt(p) p^T), the root of weight * F."""
        p = z.softmax(-1)
        rows: Tensor = (self._weight**0.5) * p.sqrt() * (change - (p * change).sum(-1, keepdim=True))
        return rows


def completion_logits(model: PreTrainedModel, batch: Contexts, at: Mapping[str, Tensor] | None = None) -> Tensor:
    """Compute a model's logits at the completion tokens.

    Args:
        model: Causal language model.
        batch: Contexts on the model's device.
        at: Parameters to compute with, by name; None takes the model's own.

    Returns:
        Logits [T, V] of the distributions that the completion tokens were drawn from.
    """
    scored = batch.completion_mask.bool().roll(-1, 1)  # the logits at one position are those of the next token
    scored[:, -1] = False
    columns = scored.any(0).nonzero()[:, 0]
    arguments = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": (batch.attention_mask.cumsum(1) - 1).clamp(min=0),
        "logits_to_keep": columns,
        "use_cache": False,
    }
    output = model(**arguments) if at is None else functional_call(model, dict(at), (), arguments)
    logits: Tensor = output.logits[scored[:, columns]]
    return logits


def dot(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Compute the scalar product of two vectors as long as the model, in float64."""
    return float(sum((value.double() * right[name].double()).sum().item() for name, value in left.items()))


def plus(left: Mapping[str, Tensor], right: Mapping[str, Tensor], scale: float = 1.0) -> Vector:
    """Compute left + scale * right."""
    return {name: value + scale * right[name].to(value) for name, value in left.items()}
