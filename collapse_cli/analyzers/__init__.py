"""Every analyzer there is, found by walking the folders; nothing is edited when one is added."""

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import final

from collapse_cli.analyzer import Analyzer
from collapse_cli.errors import UnknownAnalyzer

__all__ = ["PLUGIN_GROUP", "Catalogue", "catalogue", "find"]

#: Entry-point group in which third parties offer analyzers; entry name = analyzer name.
PLUGIN_GROUP = "collapse.analyzers"


@final
@dataclass(frozen=True, slots=True)
class Catalogue:
    """The analyzers in order of family and name, the plugins they came from, and the plugins that failed and why."""

    analyzers: tuple[Analyzer, ...]
    plugins: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)


@cache
def _built_in() -> tuple[Analyzer, ...]:
    found: list[Analyzer] = []
    for family in pkgutil.iter_modules(__path__, f"{__name__}."):
        if not family.ispkg:
            continue
        package = importlib.import_module(family.name)
        for module in pkgutil.iter_modules(package.__path__, f"{family.name}."):
            members = vars(importlib.import_module(module.name)).values()
            found.extend(member for member in members if isinstance(member, Analyzer))
    return tuple(sorted(found, key=lambda analyzer: (analyzer.manual.family, analyzer.name)))


def catalogue(*, plugins: bool = True) -> Catalogue:
    """The built-in analyzers and, unless told otherwise, those that installed packages offer."""
    own = _built_in()
    if not plugins:
        return Catalogue(own)
    names = {analyzer.name for analyzer in own}
    loaded: list[Analyzer] = []
    origins: list[str] = []
    broken: dict[str, str] = {}
    for entry in sorted(entry_points(group=PLUGIN_GROUP), key=lambda entry: entry.name):
        analyzer = _loaded(entry, names)
        if isinstance(analyzer, str):
            broken[entry.name] = analyzer
            continue
        names.add(analyzer.name)
        loaded.append(analyzer)
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        origins.append(f"{entry.name} ({package})")
    return Catalogue((*own, *loaded), tuple(origins), broken)


def _loaded(entry: EntryPoint, taken: set[str]) -> Analyzer | str:
    """The plugin's analyzer, or in one sentence why there is none."""
    if entry.name in taken:
        return "the name is already taken"
    try:
        analyzer = entry.load()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
        return f"{type(error).__name__}: {error}"
    if not isinstance(analyzer, Analyzer):
        return f"{entry.value} is a {type(analyzer).__name__}, not an Analyzer"
    if analyzer.name != entry.name:
        return f"the entry is named {entry.name}, the analyzer {analyzer.name}"
    return analyzer


def find(available: Catalogue, *, select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Analyzer, ...]:
    """The analyzers that a selection means: names, families, globs, or `all`; `ignore` wins; no selection is all.

    Raises:
        UnknownAnalyzer: a token matches nothing, or names a plugin that failed.
    """
    wanted = {name for token in select for name in _matches(token, available)} if (select := tuple(select)) else None
    unwanted = {name for token in ignore for name in _matches(token, available)}
    return tuple(
        analyzer
        for analyzer in available.analyzers
        if (wanted is None or analyzer.name in wanted) and analyzer.name not in unwanted
    )


def _matches(token: str, available: Catalogue) -> set[str]:
    if token == "all":  # noqa: S105 - a word, not a secret
        return {analyzer.name for analyzer in available.analyzers}
    found = {
        analyzer.name
        for analyzer in available.analyzers
        if fnmatchcase(analyzer.name, token) or fnmatchcase(analyzer.manual.family, token)
    }
    if found:
        return found
    if token in available.broken:
        raise UnknownAnalyzer(f'the plugin "{token}" failed to load: {available.broken[token]}')
    known = [name for analyzer in available.analyzers for name in (analyzer.name, analyzer.manual.family)]
    close = get_close_matches(token, known, n=1)
    guess = f'did you mean "{close[0]}"?' if close else "`collapse list` shows them all"
    raise UnknownAnalyzer(f'no analyzer, family or pattern "{token}"; {guess}')
