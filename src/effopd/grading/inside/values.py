"""Plain data as JSON: all that passes between a program and its tests.

Numbers, text, bytes, None, lists, tuples, sets, dictionaries and a few more types of the standard library are copied.
Instances of their subclasses (`Counter`, `namedtuple`) are copied as the type that they derive from. Every other object
stays in its own process, and the other process knows it by a number.
"""

import datetime
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from effopd.grading.inside.channel import ExchangeError

MAX_DEPTH = 200
_TIMES: dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}
_PLAIN_INT = 2**62
_SEQUENCES: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}


def encode(value: Any, refer: Callable[[Any], int], depth: int = 0) -> Any:
    """Turn a value into what JSON can hold.

    Args:
        value: Any object.
        refer: Function that gives the number of an object that is not plain data.
        depth: Depth of the value within the outermost one.

    Raises:
        ExchangeError: The value is nested more than `MAX_DEPTH` deep.
    """
    if value is None or type(value) in (bool, str, float):
        return value
    if depth > MAX_DEPTH:
        raise ExchangeError(f"a value is nested more than {MAX_DEPTH} deep")
    kind = type(value)
    # Of a class that the program defines, the methods may matter, even if it derives from list or dict.
    if kind.__module__ == "solution" and not issubclass(kind, (tuple, str, int, float)):
        return {"reference": refer(value)}
    for name, base in _SEQUENCES.items():
        if isinstance(value, base):
            return {name: [encode(item, refer, depth + 1) for item in base.__iter__(value)]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[encode(key, refer, depth + 1), encode(item, refer, depth + 1)] for key, item in pairs]}
    encoded = _encode_scalar(value)
    return {"reference": refer(value)} if encoded is None else encoded


def _encode_scalar(value: Any) -> Any:
    """Encode a value that contains no other values as JSON can hold it; None for any other value."""
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_PLAIN_INT < number < _PLAIN_INT else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return {"bytearray" if isinstance(value, bytearray) else "bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Decimal):
        return {"decimal": Decimal.__str__(value)}
    if isinstance(value, Fraction):
        return {"fraction": Fraction.__str__(value)}
    for name, kind in _TIMES.items():
        if isinstance(value, kind):
            return {name: kind.isoformat(value)}
    if isinstance(value, datetime.timedelta):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufU":
        if value.shape:
            return {"array": [str(value.dtype), value.tolist(), value.shape]}
        return float(value) if value.dtype.kind == "f" else value.item()  # `item` of a long double is one, too
    return None


def decode(value: Any, resolve: Callable[[int], Any], depth: int = 0) -> Any:
    """Turn the result of `encode` back into a value.

    Args:
        value: Result of `encode`, read from JSON.
        resolve: Function that gives the object with a number, or a stand-in for it.
        depth: Depth of the value within the outermost one.

    Raises:
        ExchangeError: `value` does not have the form of such a result.
    """
    if value is None or type(value) in (bool, str, float, int):
        return value
    if type(value) is not dict or len(value) != 1 or depth > MAX_DEPTH + 1:
        raise ExchangeError("a value is not encoded as expected")
    [(name, content)] = value.items()
    if name in _SEQUENCES:
        return _SEQUENCES[name]([decode(item, resolve, depth + 1) for item in content])
    if name == "dict":
        return {decode(key, resolve, depth + 1): decode(item, resolve, depth + 1) for key, item in content}
    if name == "reference":
        return resolve(int(content))
    if name == "array":
        import numpy

        if numpy.dtype(content[0]).kind not in "biufU":
            raise ExchangeError(f"an array of {content[0]}")
        return numpy.array(content[1], dtype=content[0]).reshape(content[2])
    if name not in _DECODERS:
        raise ExchangeError(f"a value is encoded as {name!r}, which is not known")
    return _DECODERS[name](content)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "decimal": Decimal,
    "fraction": Fraction,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    **{name: kind.fromisoformat for name, kind in _TIMES.items()},
}
