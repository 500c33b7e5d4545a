"""Stand-ins, in the process of the tests, for the objects of the candidate's process.

A stand-in asks the candidate's process and gets copies of plain data back, so that every comparison is made here,
between values that cannot have been tampered with. It can be called, indexed, iterated over, and asked for attributes,
length and text. To compare it, to compute with it, or to use it as a truth value is refused, because the candidate
would decide the result.
"""

import builtins
import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from effopd.grading.inside.channel import Channel, ExchangeError
from effopd.grading.inside.values import decode, encode

_RAISABLE = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type)
    and issubclass(value, Exception)
    and not issubclass(value, StopIteration | StopAsyncIteration)  # they would end a loop of the tests early
    and name not in ("ExceptionGroup", "UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError")
}  # the last four cannot be made from a text alone, so their base classes are used


class Abort(BaseException):
    """The tests cannot go on. It is no Exception, so that an `except Exception` in the tests does not catch it."""


class CandidateProxy:
    """The candidate, as the process of the tests sees it.

    Args:
        channel: Channel to the candidate's process.

    Attributes:
        failure: Kind and detail of a failure after which the tests cannot pass, whatever they do; None without one.
        uses: How often its objects have been used and its data read.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stand_ins: dict[int, _StandIn] = {}
        self._exceptions: dict[str, type[Exception]] = {}
        self._stdout = sys.stdout
        self.failure: tuple[str, str] | None = None
        self.uses = 0

    def load(self) -> None:
        """Wait until the candidate's process has loaded the program."""
        answer = self._receive("load", captures=False)
        if "raised" in answer:
            self._abort("runtime error", f"{answer['raised'][0]}: {answer['text']}")

    def provide(self, name: str, namespace: dict[str, Any]) -> None:
        """Put what the program has under a name, if it has anything, into a namespace, as a copy or a stand-in."""
        with contextlib.suppress(AttributeError):
            namespace[name] = self.attribute(name)

    def attribute(self, name: str) -> Any:
        """Return what the program has under a name, as a copy or a stand-in."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self.ask("attribute", 0, name)

    def ask(self, operation: str, target: int, /, *arguments: Any, **keywords: Any) -> Any:
        """Have the candidate do an operation with one of its objects. What it raises is raised here, too."""
        if self.failure is not None:
            raise Abort(self.failure[1])
        captures = sys.stdout is not self._stdout
        try:
            encoded = [encode(argument, self._refer) for argument in arguments]
            named = {name: encode(argument, self._refer) for name, argument in keywords.items()}
            self._channel.send([operation, target, encoded, named, captures])
        except (OSError, ExchangeError) as error:
            self._abort("unsupported" if isinstance(error, ExchangeError) else "runtime error", str(error))
        self.uses += operation != "attribute"
        answer = self._receive(operation, captures=captures)
        if captures:
            sys.stdout.write(answer["printed"])
        if "raised" in answer:
            self._raise(answer["raised"], answer["text"], ends_loop=operation == "next")
        if "exception" in answer:
            return self._exception_class(answer["exception"])
        value = self._decode(answer["value"])
        self.uses += operation == "attribute" and not isinstance(value, _StandIn)
        if "arguments" in answer:
            self._write_back([*arguments, *keywords.values()], [*encoded, *named.values()], answer["arguments"])
        return value

    def _receive(self, operation: str, *, captures: bool) -> dict[str, Any]:
        try:
            answer = self._channel.receive()
        except (EOFError, OSError):
            self._abort("runtime error", "the program ended before its tests did")
        except ExchangeError as error:
            self._abort("runtime error", str(error))
        if isinstance(answer, dict) and "unsupported" in answer:
            self._abort("unsupported", str(answer["unsupported"]))
        if not _is_answer(answer, operation, captures):
            self._abort("runtime error", "an answer that is not in the form of one")
        return dict(answer)

    def _decode(self, value: Any) -> Any:
        try:
            return decode(value, self._stand_in)
        except Exception as error:
            self._abort("runtime error", f"a value that cannot be read: {error}")

    def _write_back(self, arguments: list[Any], before: list[Any], after: Any) -> None:
        """Change lists, dictionaries and sets as a call that returned None has changed the candidate's copies."""
        if not isinstance(after, list) or len(after) != len(before):
            self._abort("runtime error", "an answer that is not in the form of one")
        for argument, old, new in zip(arguments, before, after, strict=True):
            if _encoded_type(new) != _encoded_type(old):
                self._abort("runtime error", "an argument that changed its type")
            if new != old and type(argument) in (list, dict, set):
                value = self._decode(new)
                argument.clear()
                (argument.extend if isinstance(argument, list) else argument.update)(value)

    def _raise(self, names: list[str], text: str | int, *, ends_loop: bool) -> NoReturn:
        if ends_loop and names[0] == "StopIteration":
            raise StopIteration
        raise self._exception_class(names)(text)

    def _exception_class(self, names: list[str]) -> type[Exception]:
        """Return a class for one of the candidate's exceptions: a built-in one, or one derived from the nearest."""
        known = next((name for name in names if name in _RAISABLE), "RuntimeError")
        if names[0] == known:
            return _RAISABLE[known]
        if names[0] not in self._exceptions:
            bases = tuple(self._exceptions[name] for name in names[1:] if name in self._exceptions)[:1]
            self._exceptions[names[0]] = types.new_class(names[0], bases or (_RAISABLE[known],))
        return self._exceptions[names[0]]

    def _refer(self, value: Any) -> int:
        if isinstance(value, _StandIn):
            return value._number
        raise ExchangeError(
            f"a {type(value).__name__} of the tests is no plain data, and cannot be given to the program"
        )

    def _stand_in(self, number: int) -> "_StandIn":
        return self._stand_ins.setdefault(number, _StandIn(self, number))

    def _abort(self, kind: str, detail: str) -> NoReturn:
        self.failure = self.failure or (kind, detail)
        raise Abort(detail)


def _is_answer(answer: Any, operation: str, captures: bool) -> bool:
    """Tell whether the candidate's process has answered as `candidate.serve` says, with nothing missing or added.

    That process may send anything. Above all, it may send arguments with a value, to change what the tests compare the
    value with.
    """
    if not isinstance(answer, dict):
        return False
    keys = {"raised", "text"} if "raised" in answer else {"value"}
    if operation == "call" and answer.get("value", ...) is None:
        keys.add("arguments")
    elif "exception" in answer:
        keys.add("exception")
    if captures:
        keys.add("printed")
    return (
        answer.keys() == keys
        and all(_are_names(answer[key]) for key in keys & {"raised", "exception"})
        and isinstance(answer.get("text", ""), str | int)
        and isinstance(answer.get("printed", ""), str)
    )


def _encoded_type(value: Any) -> Any:
    return [*value][:1] if isinstance(value, dict) else type(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


class _StandIn:
    """Stands for an object of the candidate's process."""

    __slots__ = ("_candidate", "_number")
    _candidate: CandidateProxy
    _number: int

    def __init__(self, candidate: CandidateProxy, number: int) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self._candidate.ask("call", self._number, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        # Libraries that tests use believe special attributes: NumPy reads from any address in `__array_interface__`.
        if name.startswith("__") and name not in ("__name__", "__dict__"):
            raise AttributeError(name)
        return self._candidate.ask("attribute", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.ask("set_attribute", self._number, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._candidate.ask("item", self._number, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._candidate.ask("set_item", self._number, key, value)

    def __len__(self) -> int:
        return int(self._candidate.ask("length", self._number))

    def __str__(self) -> str:
        return str(self._plain("text"))

    def __repr__(self) -> str:
        return str(self._plain("representation"))

    def __iter__(self) -> Iterator[Any]:
        iterator = self._candidate.ask("iterate", self._number)
        return iterator if isinstance(iterator, _StandIn) else iter(iterator)

    def __next__(self) -> Any:
        return self._candidate.ask("next", self._number)

    def _plain(self, operation: str) -> Any:
        text = self._candidate.ask(operation, self._number)
        if not isinstance(text, str):
            self._refuse()
        return text

    def _refuse(self, *arguments: Any) -> NoReturn:
        self._candidate._abort(
            "unsupported",
            "an object of the program is compared, computed with, derived from or used as a truth value; only plain"
            " data can be",
        )


_BINARY = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or"
_OTHER = """
    eq ne lt le gt ge hash bool contains delitem reversed neg pos abs invert int float complex index round trunc floor
    ceil enter exit aenter aexit await aiter anext instancecheck subclasscheck mro_entries
"""
for _name in [*_BINARY.split(), *_OTHER.split(), *(f"r{name}" for name in _BINARY.split())]:
    setattr(_StandIn, f"__{_name}__", _StandIn._refuse)
