r"""Rewards: by name, and for mathematics by comparing the final answer.

[reward] = resolve_rewards("math")
reward([r"so it is \boxed{0.5}"], [r"\frac{1}{2}"])      # [1.0]
"""

import difflib
import importlib
import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from math_verify import parse, verify
from math_verify.errors import TimeoutException

from effopd.errors import ConfigurationError

RewardFunction = Callable[..., list[float]]
Completion = str | Sequence[dict[str, Any]]
"""A text, or a conversational completion: messages, of which the last one's `content` is judged."""

_TIMEOUT_SECONDS = 5
_MAX_ANSWER_LENGTH = 500
_TAIL_LENGTH = 2000
_BOXED = "\\boxed{"
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_WORDS = re.compile(r"[a-z][a-z ]+")


def resolve_rewards(spec: str | Sequence[str]) -> list[RewardFunction]:
    """Find reward functions by name.

    Args:
        spec: One or several of `world` (the embedded task), `math` (`math_reward`) and `package.module:function`, which
            takes TRL's arguments: `completions`, the dataset's columns, `prompts` and more as keywords.

    Raises:
        ConfigurationError: There is no such function. Exceptions raised by the module's own code are not caught.
    """
    names = [spec] if isinstance(spec, str) else list(spec)
    if not names:
        raise ConfigurationError("reward: got none, expected 'world', 'math' or 'package.module:function'.")
    return [_resolve(name) for name in names]


def math_reward(completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any) -> list[float]:
    r"""Reward 1.0 where the final answer equals the expected one mathematically, else 0.0; a reward for TRL.

    The final answer is what the last `\boxed{}` holds, or without one the last expression in the text; none if the box
    is never closed. It is compared as text first, then by math-verify. Expected answers that are words (`Yes`) or that
    math-verify cannot read are compared only as text, ignoring case. An answer of more than 500 characters equals
    nothing but itself. In the main thread one comparison takes a few seconds at most; in other threads, where
    math-verify's timeouts do not work, a power tower such as `9^{9^{9^9}}` takes unlimited time.

    Args:
        completions: N texts, or N conversational completions.
        answer: The N expected answers: `42`, `\frac{1}{2}`, or anything with its own `$...$` or `\boxed{}`.
        **kwargs: Whatever else TRL passes; ignored.

    Returns:
        N rewards.
    """
    timeout = _TIMEOUT_SECONDS if threading.current_thread() is threading.main_thread() else None
    return [
        float(_is_right(_text(completion), str(expected), timeout))
        for completion, expected in zip(completions, answer, strict=True)
    ]


def _is_right(text: str, expected: str, timeout: int | None) -> bool:
    given = _last_boxed(text)
    expected_plain = _plain(_last_boxed(expected) or expected)
    if given is not None and _plain(given) == expected_plain:
        return True
    gold = [] if _WORDS.fullmatch(expected_plain) else _parse_expected(expected, timeout)
    if not gold:
        return given is None and _plain(text) == expected_plain
    if len(given or "") > _MAX_ANSWER_LENGTH:
        return False
    source = text[-_TAIL_LENGTH:] if given is None else f"{_BOXED}{given}}}"
    try:
        return bool(verify(gold, _parse(source, timeout), timeout_seconds=timeout))
    except (Exception, TimeoutException):  # whatever a model wrote, it is at worst wrong
        return False


@lru_cache(maxsize=1024)
def _parse_expected(expected: str, timeout: int | None) -> list[Any]:
    has_delimiters = any(mark in expected for mark in ("$", _BOXED, r"\(", r"\["))
    return _parse(expected if has_delimiters else f"${expected}$", timeout)


def _parse(text: str, timeout: int | None) -> list[Any]:
    try:
        parsed: list[Any] = parse(text, parsing_timeout=timeout)
    except (Exception, TimeoutException):
        return []
    return parsed


def _last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds; empty if it is never closed, None if there is none."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    start += len(_BOXED)
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return ""


def _plain(answer: str) -> str:
    return _TEXT_COMMAND.sub(r"\1", answer).strip(" \t\n$.").casefold()


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def _resolve(name: str) -> RewardFunction:
    if name == "math":
        return math_reward
    if name == "world":
        from effopd.world import world_reward

        return world_reward
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigurationError(f"reward: got {name!r}, expected 'world', 'math' or 'package.module:function'.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ConfigurationError(
            f"reward: no module {error.name!r} for {name!r}. Install it, or for a file in this directory put"
            " PYTHONPATH=. before the command."
        ) from error
    function = getattr(module, attribute, None)
    if function is None:
        public = [name for name in vars(module) if not name.startswith("_")]
        nearest = difflib.get_close_matches(attribute, public, n=3) or public[:10]
        raise ConfigurationError(
            f"reward: {module_name} has no {attribute!r}; it has {', '.join(nearest) or 'nothing public'}."
        )
    if not callable(function):
        raise ConfigurationError(f"reward: {name} is a {type(function).__name__}, expected a function.")
    resolved: RewardFunction = function
    return resolved
