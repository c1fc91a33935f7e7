"""`collapse history`: past runs, and values over time, from the local store."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from collapse_cli.cli import options as flags

__all__ = ["history"]


def history(
    query: Annotated[str, typer.Argument(metavar="[QUERY]", help="A glob over subject ids.")] = "*",
    rule: Annotated[
        str | None,
        typer.Option("--rule", metavar="GLOB", help="Values of these rules over time, e.g. effective-rank/*."),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="GLOB", help="Values at these tensors or hook points over time.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DATE", help="Runs from this day on, e.g. 2026-03-01.")
    ] = None,
    rebuild: Annotated[
        str | None,
        typer.Option(
            "--rebuild",
            metavar="FOLDER",
            help="Take in every report of a folder; a damaged history is set aside first.",
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", metavar="FORMAT", help="table, json or csv.")
    ] = "table",
    output: Annotated[
        list[str] | None,
        typer.Option("-o", "--output", metavar="FILE", help="Also write .csv, .json or .parquet; repeatable."),
    ] = None,
    color: flags.Color = "auto",
) -> int:
    """List what --record kept: runs by subject, or with --rule or --site the values of one metric over time.

    The store is one file, named by COLLAPSE_HISTORY. Exit codes: 0 something was found; 2 the store cannot be read;
    3 nothing matches.
    """
    from collapse_cli.cli.history_output import checked, export, show
    from collapse_cli.cli.messages import say, say_error
    from collapse_cli.cli.request import choice
    from collapse_cli.history import History, Past, Value, rebuilt, store_path

    choice("--format", format, ("table", "json", "csv"))
    choice("--color", color, ("auto", "always", "never"))
    files = [checked(word) for word in output or ()]
    begin = _day(since)
    store = store_path()
    is_of_runs = rule is None and site is None
    if rebuild is not None:
        kept, new, aside = rebuilt(store, Path(rebuild))
        if aside is not None:
            say(f"notice: the damaged history lies in {aside} now")
        say(f"{kept:,} reports in {rebuild}, {new:,} of them new in {store}")
    with History(store, is_new=False) as past:
        found: list[Past] | list[Value]
        if is_of_runs:
            found = past.runs(query, since=begin)
        else:
            found = past.values(query, rule=rule or "*", site=site or "*", since=begin)
    rows: list[dict[str, Any]] = [asdict(one) for one in found]
    columns = [one.name for one in fields(Past if is_of_runs else Value)]
    for file in files:
        export(rows, columns, file)
    show(rows, columns, format, color=color)
    if not rows:
        say_error(f'nothing in {store} matches "{query}"')
        return 3
    return 0


def _day(given: str | None) -> str:
    """A day as the beginning of the times in the store.

    Raises:
        BadPolicy: it is no date.
    """
    from datetime import date

    from collapse_cli.errors import BadPolicy

    if given is None:
        return ""
    try:
        return date.fromisoformat(given).isoformat()
    except ValueError as error:
        raise BadPolicy(f'--since "{given}"', expected="should be a date such as 2026-03-01") from error
