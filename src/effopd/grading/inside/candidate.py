"""The program's side of unit tests: it loads the program, and does with its objects what the tests ask for.

The program under test is called the candidate. Nothing in this process is trusted: whatever the candidate makes of it,
all that it can do is answer with other data.
"""

import contextlib
import io
import operator
import os
import site
import sys
import types
from typing import Any

from effopd.grading.inside.channel import Channel, ExchangeError
from effopd.grading.inside.values import decode, encode


def serve(path: str, descriptors: dict[str, int]) -> None:
    """Load a program as the module `solution`, then answer requests until there are no more.

    A request is `[operation, target, arguments, keyword arguments, whether to capture what is printed]`. Its answer has

    - `value`, and after a call that returned None also `arguments`, as the call left them: all values, then those of
      keyword arguments, in the order of the request;
    - or, after an exception, `raised`, the names of its class and of the bases of that, and its `text`;
    - and `printed`, if that was to be captured.

    A `value` that is a class of exceptions comes with `exception`, the names of that class and of its bases. Instead of
    all this, an answer may have `unsupported`, a text. The tests' side checks the form of every answer.

    Args:
        path: Path of the program's source.
        descriptors: File descriptors `requests`, to read from, and `answers`, to write to.
    """
    site.setquit()  # `exit()` and `quit()`, which `python -S` leaves out
    with open(path, "rb") as file:  # noqa: PTH123
        source = file.read()
    channel = Channel(descriptors["requests"], descriptors["answers"])
    module: Any = types.ModuleType("solution")
    module.__file__ = path
    sys.modules["solution"] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException as error:
        channel.send(_raised(error))
        return
    channel.send({"value": None})
    objects = _Objects(module)
    while True:
        try:
            request = channel.receive()
        except EOFError:
            os._exit(0)  # without waiting for threads that the program has left
        *wanted, captures = request
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed) if captures else contextlib.nullcontext():
            answer = objects.answer(*wanted)
        if captures:
            answer["printed"] = printed.getvalue()
        try:
            channel.send(answer)
        except ExchangeError as error:
            channel.send({"unsupported": str(error)})


class _Objects:
    """The candidate's objects, which the tests know by number; number 0 is the module."""

    def __init__(self, module: types.ModuleType) -> None:
        self._objects: list[Any] = [module]
        self._numbers = {id(module): 0}

    def answer(self, operation: str, target: int, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
        try:
            values = [decode(argument, self._objects.__getitem__) for argument in arguments]
            named = {name: decode(argument, self._objects.__getitem__) for name, argument in keywords.items()}
            value = _OPERATIONS[operation](self._objects[target], *values, **named)
            answer = {"value": encode(value, self._number)}
            if value is None and operation == "call":
                answer["arguments"] = [encode(argument, self._number) for argument in [*values, *named.values()]]
            if isinstance(value, type) and issubclass(value, Exception):
                answer["exception"] = _class_names(value)
            return answer
        except ExchangeError as error:
            return {"unsupported": str(error)}
        except BaseException as error:
            return _raised(error)

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]


def _call(function: Any, /, *arguments: Any, **keywords: Any) -> Any:
    return function(*arguments, **keywords)


def _class_names(kind: type) -> list[str]:
    return [base.__name__ for base in kind.__mro__]


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        text: Any = str(error)[:2000]
        if type(error).__str__ is KeyError.__str__ and type(error.args[0]) in (str, int):
            text = error.args[0]  # str(error) has it in quotation marks
    except BaseException:
        text = ""
    return {"raised": _class_names(type(error)), "text": text}


_OPERATIONS: dict[str, Any] = {
    "call": _call,
    "attribute": getattr,
    "set_attribute": setattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "length": len,
    "iterate": iter,
    "next": next,
    "text": str,
    "representation": repr,
}
