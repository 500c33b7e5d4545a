r"""Reward functions by name; those for mathematics compare final answers, and those for programs run tests.

[reward] = resolve_rewards("math")
reward([r"so it is \boxed{0.5}"], [r"\frac{1}{2}"])      # [1.0]
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from effopd.errors import ConfigurationError
from effopd.grading import Completion, grade_code, grade_math

RewardFunction = Callable[..., list[float]]

# Time after which the comparison of one answer is given up.
_TIMEOUT_SECONDS = 5


def resolve_rewards(spec: str | Sequence[str]) -> list[RewardFunction]:
    """Find reward functions by name.

    Args:
        spec: Name, or several names: `world` (the embedded task), `math` (`math_reward`), `code` (`code_reward`), or
            `package.module:function`. Such a function takes TRL's arguments by keyword: `completions`, `prompts`, the
            dataset's columns and more.

    Raises:
        ConfigurationError: There is no such function. Exceptions raised by the module's own code are not caught.
    """
    names = [spec] if isinstance(spec, str) else list(spec)
    if not names:
        raise ConfigurationError("reward: got none, expected 'world', 'math', 'code' or 'package.module:function'.")
    return [_resolve(name) for name in names]


def check_arguments(functions: Iterable[RewardFunction], rows: Any) -> None:
    """Check that reward functions can be called with what TRL and evaluation give them.

    Args:
        functions: Reward functions.
        rows: Dataset whose columns they are given.

    Raises:
        ConfigurationError: One lacks a parameter for an argument, or wants an argument that there is not.
    """
    names = ["prompts", "completions", "completion_ids", *(name for name in rows.column_names if name != "prompt")]
    for function in functions:
        try:
            signature = inspect.signature(function)
        except ValueError:  # that of a function in C may not be known
            continue
        try:
            signature.bind(**dict.fromkeys(names))
        except TypeError as error:
            name = getattr(function, "__name__", repr(function))
            raise ConfigurationError(
                f"The reward {name} is called with {', '.join(names)} and more, by keyword, and that fails: {error}. "
                "Let it take **kwargs, and what the dataset has."
            ) from error


def math_reward(completions: Sequence[Completion], answer: Sequence[Any], **kwargs: Any) -> list[float]:
    r"""Reward 1.0 where the final answer equals the expected one mathematically, else 0.0; a reward function for TRL.

    `effopd.grading.grade_math` says what the final answer is and how it is compared. Comparisons run in parallel, in
    worker processes. One that takes longer than a few seconds is killed, and its completion gets 0.0.

    Args:
        completions: Texts, or conversational completions; N of them.
        answer: The N expected answers, such as `42`, `\frac{1}{2}`, or anything with its own `$...$` or `\boxed{}`.
        **kwargs: Other arguments that TRL passes, which are ignored.

    Returns:
        N rewards.
    """
    return [float(verdict.passed) for verdict in grade_math(completions, answer, timeout_s=_TIMEOUT_SECONDS)]


def code_reward(completions: Sequence[Completion], tests: Sequence[Any], **kwargs: Any) -> list[float]:
    """Reward 1.0 where a program passes its tests, else 0.0; a reward function for TRL.

    Programs run in parallel, in sandboxes: see `effopd.grading.grade_code`.

    Args:
        completions: Texts, or conversational completions; N of them.
        tests: Tests of the N problems, from the dataset's column of that name: mappings, or JSON of mappings.
        **kwargs: Other arguments that TRL passes, which are ignored.

    Returns:
        N rewards.

    Raises:
        DataError: Tests are not of the right form.
        UnsupportedError: There is no working sandbox.
    """
    return [float(verdict.passed) for verdict in grade_code(completions, tests)]


def _resolve(name: str) -> RewardFunction:
    if name == "math":
        return math_reward
    if name == "code":
        return code_reward
    if name == "world":
        from effopd.world import world_reward

        return world_reward
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigurationError(
            f"reward: got {name!r}, expected 'world', 'math', 'code' or 'package.module:function'."
        )
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
