"""The exit status of a command, run in this process."""

from typing import Any

from effopd import cli


def status_of(*argv: object) -> Any:
    try:
        return cli.main([str(part) for part in argv])
    except SystemExit as exit_:
        return exit_.code
