"""The tests of a programming problem, checked before anything runs."""

import ast
import builtins
import json
import symtable
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.limits import Limits
from effopd.files import is_finite_number

_EXPECTED = '{"stdin": [{"input": "...", "output": "..."}]} or {"unit": "assert ..."}'
_KEYS = {"stdin", "unit", "time_limit_s", "memory_limit_mb"}
_KNOWN_MODULES = {"np": "numpy", "numpy": "numpy", "isclose": "math:isclose"}
"""Names that tests use without importing them, and never the candidate's: module, or module and attribute."""
_IMPORTING = {"__import__", "eval", "exec"}


@dataclass(frozen=True)
class Tests:
    """The tests of one problem: pairs of input and output, or asserts.

    Attributes:
        stdin: (input, expected output) of each run of the program.
        unit: Python source, empty if `stdin` is not.
        names: What `unit` takes from the program.
        modules: What `unit` uses of the standard library or NumPy without importing it.
        time_s: Limit that the problem sets on each run, in processor seconds; None if it sets none.
        memory_mb: The same for memory, in MiB.
    """

    stdin: tuple[tuple[str, str], ...] = ()
    unit: str = ""
    names: tuple[str, ...] = ()
    modules: Mapping[str, str] | None = None
    time_s: float | None = None
    memory_mb: int | None = None

    def limits(self, default: Limits) -> Limits:
        """The given limits with those of the problem in their place."""
        limits = default if self.time_s is None else replace(default, time_s=self.time_s)
        return limits if self.memory_mb is None else replace(limits, memory_mb=self.memory_mb)


def parse_tests(value: Any) -> Tests:
    """Check the tests of a problem.

    Args:
        value: A mapping with `stdin` or `unit` and optionally `time_limit_s` and `memory_limit_mb`, or JSON of one.
            Keys with None count as absent, as in columns of a dataset.

    Raises:
        DataError: It is not of that form, or nothing would be tested.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"tests: text that is not JSON ({error}); expected {_EXPECTED}.") from error
    if not isinstance(value, Mapping):
        raise DataError(f"tests: got a {type(value).__name__}, expected {_EXPECTED}.")
    given = {key: content for key, content in value.items() if content is not None}
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


def _number(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if not is_finite_number(value):
        raise DataError(f"tests: {key} is {value!r}, expected a number.")
    return value


def _with_stdin(tests: Tests, cases: Any) -> Tests:
    if not isinstance(cases, list) or not cases:
        raise DataError(f"tests: stdin is {_show(cases)}, expected a list with at least one case.")
    pairs = []
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, Mapping) or not all(isinstance(case.get(key), str) for key in ("input", "output")):
            raise DataError(
                f'tests: stdin case {number} is {_show(case)}, expected {{"input": "...", "output": "..."}}, both text.'
            )
        pairs.append((case["input"].replace("\r\n", "\n"), case["output"]))
    if not any(output.strip() for _, output in pairs):
        raise DataError("tests: no stdin case expects any output, so a program that does nothing would pass.")
    return replace(tests, stdin=tuple(pairs))


def _with_unit(tests: Tests, source: Any) -> Tests:
    if not isinstance(source, str) or not source.strip():
        raise DataError(f"tests: unit is {_show(source)}, expected Python source with asserts.")
    try:
        tree = ast.parse(source)
        table = symtable.symtable(source, "<tests>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"tests: unit is not Python: {error}.") from error
    nodes = list(ast.walk(tree))
    if not any(isinstance(node, ast.Assert | ast.Raise) or _is_assertion(node) for node in nodes):
        raise DataError("tests: unit asserts nothing, so any program would pass.")
    loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "check" and "check" not in loaded:
            raise DataError("tests: unit defines check and never calls it; add a line such as `check(the_function)`.")
    names, modules = _free_names(table, imports=any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes))
    if not names and not _imports_solution(nodes):
        raise DataError(
            "tests: unit uses no name that the program would define, so nothing of it would be tested. A function named"
            " as a built-in one has to be imported: `from solution import sum`."
        )
    return replace(tests, unit=source, names=tuple(sorted(names)), modules=modules)


def _free_names(table: symtable.SymbolTable, *, imports: bool) -> tuple[set[str], dict[str, str]]:
    """Names that tests use without defining them: those of the program, and those of modules.

    The program may have a function that is named as a built-in one. It is taken for that only where the tests use no
    other name and import nothing, as otherwise a program could redefine `all` or `abs` under its tests.
    """
    top = table.get_symbols()
    defined = {symbol.get_name() for symbol in top if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for symbol in top if symbol.is_referenced()}
    pending = list(table.get_children())
    while pending:
        inner = pending.pop()
        pending += inner.get_children()
        for symbol in inner.get_symbols():
            if symbol.is_global():
                (defined if symbol.is_assigned() else used).add(symbol.get_name())
    free = used - defined - {"__name__", "__file__"}
    known = _KNOWN_MODULES.keys() | sys.stdlib_module_names
    modules = {name: _KNOWN_MODULES.get(name, name) for name in sorted(free & known)}
    built_in = {name for name in free if hasattr(builtins, name)}
    names = free - modules.keys() - built_in
    functions = {name for name in built_in if not _is_exception(name)}
    is_redefined = len(functions) == 1 and not imports and not modules and functions.isdisjoint(_IMPORTING)
    return names or (functions if is_redefined else set()), modules


def _is_exception(name: str) -> bool:
    kind = getattr(builtins, name)
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _is_assertion(node: ast.AST) -> bool:
    """Whether it is a call of a method such as `self.assertEqual` or `np.testing.assert_allclose`."""
    return isinstance(node, ast.Attribute) and node.attr.startswith("assert")


def _imports_solution(nodes: list[ast.AST]) -> bool:
    return any(
        (isinstance(node, ast.ImportFrom) and node.module == "solution")
        or (isinstance(node, ast.Import) and any(alias.name == "solution" for alias in node.names))
        for node in nodes
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
