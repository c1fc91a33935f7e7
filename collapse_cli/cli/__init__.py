"""The command line: every command parses, calls one function, renders, exits.

Nothing here imports torch, numpy, pandas or pydantic at module level, so that `--help` and `--version` are instant.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run `collapse`, with the exit codes of the contract: an uncaught exception is a bug and exits with 2, never 1."""
    from collapse_cli.cli.app import run

    sys.exit(run(sys.argv[1:]))
