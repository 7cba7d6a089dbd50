"""The command line of a benchmark that is run as a module."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any


def run_command(
    function: Callable[..., Any],
    arguments: Sequence[str] | None = None,
    *,
    as_positional: bool = False,
) -> None:
    """Call a function with options from the command line; user errors end in one sentence.

    `--max-length` is `--max_length`.

    Args:
        function: its name is that of the program.
        arguments: words in place of the process's own.
        as_positional: required arguments are given without their names.
    """
    from jsonargparse import auto_cli

    given = sys.argv[1:] if arguments is None else arguments
    words = [re.sub(r"(?<=\w)-", "_", w) if re.fullmatch(r"--[a-z-]+", w) else w for w in given]
    name = function.__name__
    try:
        auto_cli(function, args=words, as_positional=as_positional, prog=name)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


__all__ = ["run_command"]
