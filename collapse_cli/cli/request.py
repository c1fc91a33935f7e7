"""What flags, variables and the configuration file ask for, checked: policy, options, and the roles of names."""

import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, final

from collapse_cli.cli.options import byte_count, words
from collapse_cli.errors import BadPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collapse_cli.cli.asked import Judging, Measuring
    from collapse_cli.configuration import Configuration
    from collapse_cli.core.policy import Policy
    from collapse_cli.core.site import Role
    from collapse_cli.runs import ScanOptions

__all__ = ["Mapping", "choice", "mapping", "no_empty_path", "policy", "scan_options"]


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
    given: "Configuration", measuring: "Measuring", judging: "Judging | None" = None, *, is_known: bool = True
) -> "Policy":
    """The policy that flags, variables and the configuration file describe; `is_known` says to read the baseline.

    Raises:
        BadPolicy: an unknown intent or severity, or a baseline that cannot be read.
    """
    from collapse_cli.baseline import read
    from collapse_cli.cli.asked import Judging
    from collapse_cli.core.finding import Severity
    from collapse_cli.core.policy import INTENTS, Policy

    judging = judging or Judging()
    is_known = is_known and judging.baseline is not None and not judging.no_baseline
    return Policy(
        intent=None if measuring.intent is None else choice("--intent", measuring.intent, INTENTS),
        select=words(measuring.select),
        ignore=words(measuring.ignore),
        fail_on=Severity(choice("--fail-on", judging.fail_on, list(Severity))),
        limits=given.limits,
        accepted=given.accepted,
        exit_zero=judging.exit_zero,
        allow_partial=measuring.allow_partial,
        baseline=read(Path(judging.baseline or "")) if is_known else None,
        comparison=given.comparison,
        file=None if given.file is None else given.file.as_posix(),
        digest=given.digest,
    )


def scan_options(given: "Configuration", measuring: "Measuring") -> "ScanOptions":
    """How to measure, as flags, variables and the configuration file say.

    Raises:
        BadPolicy: a role, a kind or a size that does not exist.
    """
    from collapse_cli.runs import ScanOptions

    mapped = mapping(words(measuring.roles))
    held = None if measuring.kind is None else choice("--as", measuring.kind, ("checkpoint", "dump"))
    return ScanOptions(
        device=measuring.device,
        seed=measuring.seed,
        sites=words(measuring.sites),
        ignore_sites=words(measuring.ignore_sites),
        include=words(measuring.include),
        exclude=words(measuring.exclude),
        roles=mapped.tensors,
        arrays=mapped.arrays,
        kind="dump" if held == "dump" else "checkpoint" if held else None,
        max_memory=byte_count(measuring.max_memory),
        timeout=measuring.timeout,
        plugins=not measuring.no_plugins,
        base=given.folder,
        subject_id=measuring.subject_id,
        command=tuple(sys.argv[1:]),
    )


def no_empty_path(paths: "Iterable[str]") -> None:
    """Nothing, if every path has a name.

    Raises:
        BadPolicy: a path is empty.
    """
    if "" in list(paths):
        raise BadPolicy("PATH is empty", hint="is a variable of the calling script unset?")


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
