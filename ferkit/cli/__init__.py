"""The ``ferkit`` command: parses, then calls one task."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ferkit ARGV``; the exit status is 0, 1 for a training that diverged, 2 for an error of the user's.

    After Ctrl-C it is 130. Each is told in one line, without a traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["info"] and len(arguments) == 1:  # needs torch and numpy alone
            from ferkit.info import report

            print(report())
            return 0
        try:
            if arguments[:1] == ["graph"]:  # needs no Lightning
                from ferkit.cli.graph import run
            else:
                from ferkit.cli.parser import run
        except ModuleNotFoundError as error:
            raise ImportError(f'this command needs {error.name}: pip install "ferkit[train]"') from error
        return run(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"ferkit: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(": ".join(["\nferkit: interrupted", *map(str, stop.args)]), file=sys.stderr)  # not behind a progress bar
        return 130
