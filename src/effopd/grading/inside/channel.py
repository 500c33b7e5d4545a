"""Messages between a program and its tests, which are two processes, over pipes."""

import json
import os
from typing import Any

MAX_MESSAGE_BYTES = 16 * 2**20


class ExchangeError(Exception):
    """A message or value that cannot be exchanged."""


class Channel:
    """Sends and receives messages. A message is JSON, preceded by its length in eight hexadecimal digits.

    Args:
        read: File descriptor to read from.
        write: File descriptor to write to.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read = read
        self._write = write

    def send(self, message: Any) -> None:
        """Write one message.

        Raises:
            ExchangeError: The message is longer than `MAX_MESSAGE_BYTES`, or JSON cannot hold it.
        """
        try:
            data = json.dumps(message).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ExchangeError(f"a value that cannot be passed on: {error}") from None
        if len(data) > MAX_MESSAGE_BYTES:
            raise ExchangeError(
                f"values of {len(data) >> 20} MiB at a time; at most {MAX_MESSAGE_BYTES >> 20} can pass"
            )
        view = memoryview(b"%08x" % len(data) + data)
        while view:
            view = view[os.write(self._write, view) :]

    def receive(self) -> Any:
        """Read one message.

        Raises:
            EOFError: The other process has closed its side.
            ExchangeError: What it sent is no message.
        """
        try:
            length = int(self._exactly(8), 16)
            if not 0 <= length <= MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes")
            return json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise ExchangeError(f"not a message: {error}") from None

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._read, min(count, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
