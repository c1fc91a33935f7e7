"""What goes to stderr: errors with their hint, and notices."""

import sys

from collapse_cli.core.text import plain

__all__ = ["plain", "say", "say_error"]


def say(text: str) -> None:
    """One line on stderr."""
    print(plain(text), file=sys.stderr, flush=True)


def say_error(text: str, hint: str = "") -> None:
    """`error: …` on stderr, and under it what to do."""
    say(f"error: {text}")
    if hint:
        say(f"  hint: {hint}")
