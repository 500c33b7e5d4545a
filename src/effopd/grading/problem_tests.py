"""The tests of a programming problem, which are read and checked before anything runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from effopd.checks import is_finite_number
from effopd.errors import ConfigurationError, DataError, shown
from effopd.grading.unit_tests import check_unit_tests
from effopd.sandbox import Limits

_EXPECTED = '{"stdin": [{"input": "...", "output": "..."}]} or {"unit": "assert ..."}'
_KEYS = {"stdin", "unit", "time_limit_s", "memory_limit_mb"}
# The same as `stdin`, as the datasets APPS, TACO, CodeContests and Eurus write it.
_PAIRED = {"inputs", "outputs", "fn_name"}


@dataclass(frozen=True)
class Tests:
    """The tests of one problem: either pairs of input and output, or unit tests.

    Attributes:
        stdin: Input and expected output of each run of the program.
        unit: Python source of the unit tests; empty if `stdin` is not.
        names: Names that `unit` takes from the program.
        modules: Modules that `unit` uses without importing them: for each name, `module` or `module:attribute`.
        time_s: Processor seconds to which the problem limits each run; None if it does not.
        memory_mb: MiB of memory to which the problem limits each run; None if it does not.
    """

    stdin: tuple[tuple[str, str], ...] = ()
    unit: str = ""
    names: tuple[str, ...] = ()
    modules: Mapping[str, str] | None = None
    time_s: float | None = None
    memory_mb: int | None = None

    def limits(self, default: Limits) -> Limits:
        """Return the given limits, replaced by those that the problem sets itself."""
        limits = default if self.time_s is None else replace(default, time_s=self.time_s)
        return limits if self.memory_mb is None else replace(limits, memory_mb=self.memory_mb)


def parse_tests(value: Any) -> Tests:
    """Check the tests of a problem.

    Args:
        value: Mapping with `stdin` or `unit`, and possibly with `time_limit_s` and `memory_limit_mb`; or JSON text of
            it. A key whose value is None counts as missing, as in a column of a dataset. In place of `stdin` there may
            be the lists `inputs` and `outputs`, whose entries are texts or lists of lines.

    Raises:
        DataError: `value` does not have that form, or it would not test anything.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"tests: text that is not JSON ({error}); expected {_EXPECTED}.") from error
    if not isinstance(value, Mapping):
        raise DataError(f"tests: got a {type(value).__name__}, expected {_EXPECTED}.")
    given = {key: content for key, content in value.items() if content is not None}
    if _PAIRED & given.keys():
        given = _from_pairs(given)
    if unknown := given.keys() - _KEYS:
        raise DataError(f"tests: unknown keys {sorted(map(str, unknown))}; known are {sorted(_KEYS)}.")
    if ("stdin" in given) == ("unit" in given):
        raise DataError(f"tests: got {'both' if 'stdin' in given else 'neither'}, expected either {_EXPECTED}.")
    tests = Tests(
        time_s=_number(given, "time_limit_s"),
        memory_mb=None if (memory := _number(given, "memory_limit_mb")) is None else int(memory),
    )
    try:
        tests.limits(Limits())
    except ConfigurationError as error:
        raise DataError(f"tests: {error}") from error
    return _with_stdin(tests, given["stdin"]) if "stdin" in given else _with_unit(tests, given["unit"])


def _from_pairs(given: dict[str, Any]) -> dict[str, Any]:
    """Rewrite `inputs` and `outputs` as `stdin`."""
    if given.get("fn_name"):
        raise DataError(
            f"tests: fn_name is {given['fn_name']!r}: they call a function instead of running a program. Write "
            'them as {"unit": "assert ..."}.'
        )
    inputs, outputs = given.get("inputs"), given.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise DataError(
            f"tests: inputs is {shown(inputs)} and outputs is {shown(outputs)}, expected two lists of one length."
        )
    cases = [{"input": _joined(one), "output": _joined(other)} for one, other in zip(inputs, outputs, strict=True)]
    return {key: content for key, content in given.items() if key not in _PAIRED} | {"stdin": cases}


def _joined(lines: Any) -> Any:
    return "\n".join(map(str, lines)) if isinstance(lines, list) else lines


def _number(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if not is_finite_number(value):
        raise DataError(f"tests: {key} is {value!r}, expected a number.")
    return value


def _with_stdin(tests: Tests, cases: Any) -> Tests:
    if not isinstance(cases, list) or not cases:
        raise DataError(f"tests: stdin is {shown(cases)}, expected a list with at least one case.")
    pairs = []
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, Mapping) or not all(isinstance(case.get(key), str) for key in ("input", "output")):
            raise DataError(
                f'tests: stdin case {number} is {shown(case)}, expected {{"input": "...", "output": "..."}}, both text.'
            )
        pairs.append((case["input"].replace("\r\n", "\n"), case["output"]))
    if not any(output.strip() for _, output in pairs):
        raise DataError("tests: no stdin case expects any output, so a program that does nothing would pass.")
    return replace(tests, stdin=tuple(pairs))


def _with_unit(tests: Tests, source: Any) -> Tests:
    if not isinstance(source, str) or not source.strip():
        raise DataError(f"tests: unit is {shown(source)}, expected Python source with asserts.")
    names, modules = check_unit_tests(source)
    return replace(tests, unit=source, names=names, modules=modules)
