"""What the flags ask for, checked: the policy and the roles that the user names."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, final

from collapse_cli.errors import BadPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collapse_cli.core.policy import Policy
    from collapse_cli.core.site import Role

__all__ = ["Mapping", "choice", "mapping", "policy"]


@final
@dataclass(frozen=True, slots=True)
class Mapping:
    """What foreign names mean: tensor pattern → role of a checkpoint, dump role → array."""

    tensors: "dict[str, Role]"
    arrays: "dict[str, str]"


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


def mapping(given: tuple[str, ...]) -> Mapping:
    """`ROLE=NAME` words: of a checkpoint a tensor pattern, of a dump an array (there `<site>/ROLE` is a role as well).

    Raises:
        BadPolicy: a word without `=`, or an unknown role.
    """
    from collapse_cli.core.roles import ROLES
    from collapse_cli.core.site import Role

    tensors: dict[str, Role] = {}
    arrays: dict[str, str] = {}
    for word in given:
        role, equals, name = word.partition("=")
        if not equals or not name:
            raise BadPolicy(f'--map "{word}"', expected="should be ROLE=NAME, e.g. codebook=vq.table or features=x")
        known = choice("--map: role", role.rpartition("/")[2], sorted({*Role, *ROLES}))
        # some words are roles of both; which is meant, what the file is decides
        if known in set(Role):
            tensors[name] = Role(known)
        if known in ROLES:
            arrays[role] = name
    return Mapping(tensors, arrays)
