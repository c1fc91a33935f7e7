"""What the flags ask for, checked: the policy and the roles that the user names."""

from difflib import get_close_matches
from typing import TYPE_CHECKING

from collapse_cli.errors import BadPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collapse_cli.core.policy import Policy
    from collapse_cli.core.site import Role

__all__ = ["choice", "policy", "role_map"]


def choice(flag: str, given: str, allowed: "Iterable[str]") -> str:
    """The word, if it is one of the allowed ones.

    Raises:
        BadPolicy: it is not; the message lists them and guesses which was meant.
    """
    known = list(allowed)
    if given in known:
        return given
    close = get_close_matches(given, known, n=1)
    hint = f'did you mean "{close[0]}"?' if close else ""
    raise BadPolicy(f'{flag} "{given}"', expected="should be one of " + ", ".join(known), hint=hint)


def policy(
    *,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    intent: str | None,
    fail_on: str,
    exit_zero: bool,
    allow_partial: bool,
) -> "Policy":
    """The policy that the flags describe.

    Raises:
        BadPolicy: an unknown intent or severity.
    """
    from collapse_cli.core.finding import Severity
    from collapse_cli.core.policy import INTENTS, Policy

    return Policy(
        intent=None if intent is None else choice("--intent", intent, INTENTS),
        select=select,
        ignore=ignore,
        fail_on=Severity(choice("--fail-on", fail_on, list(Severity))),
        exit_zero=exit_zero,
        allow_partial=allow_partial,
    )


def role_map(given: tuple[str, ...]) -> "Mapping[str, Role]":
    """`ROLE=TENSOR` words as tensor pattern → role.

    Raises:
        BadPolicy: a word without `=`, or an unknown role.
    """
    from collapse_cli.core.site import Role

    mapped = {}
    for word in given:
        role, equals, pattern = word.partition("=")
        if not equals or not pattern:
            raise BadPolicy(f'--map "{word}"', expected="should be ROLE=TENSOR, e.g. codebook=vq.table")
        mapped[pattern] = Role(choice("--map: role", role, list(Role)))
    return mapped
