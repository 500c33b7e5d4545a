"""Unit tests as source code: whether they can test anything, and which names they take from the program."""

import ast
import builtins
import symtable
import sys

from effopd.errors import DataError

_KNOWN_MODULES = {"np": "numpy", "numpy": "numpy", "isclose": "math:isclose"}
"""Names that tests use without importing them and that are never the program's: `module` or `module:attribute`."""
_IMPORTING = {"__import__", "eval", "exec"}
"""Built-in functions that are never taken for the program's: by them, tests could import anything."""


def check_unit_tests(source: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Check unit tests before anything runs.

    Args:
        source: Python source with assertions.

    Returns:
        The names that the tests take from the program, and the modules that they use without importing them: for each
        name, `module` or `module:attribute`.

    Raises:
        DataError: The source is not Python, or it would not test anything.
    """
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
    return tuple(sorted(names)), modules


def _free_names(table: symtable.SymbolTable, *, imports: bool) -> tuple[set[str], dict[str, str]]:
    """Names that tests use without defining them: those of the program, and those of modules.

    A built-in name (`sum`) is taken for a function of the program only where the tests use no other name and import
    nothing. Elsewhere it is the real one, or else a program could redefine `all` or `abs` under its tests.
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
    """Tell whether a node is a method such as `self.assertEqual` or `np.testing.assert_allclose`."""
    return isinstance(node, ast.Attribute) and node.attr.startswith("assert")


def _imports_solution(nodes: list[ast.AST]) -> bool:
    return any(
        (isinstance(node, ast.ImportFrom) and node.module == "solution")
        or (isinstance(node, ast.Import) and any(alias.name == "solution" for alias in node.names))
        for node in nodes
    )
