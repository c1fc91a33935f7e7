"""`collapse explain NAME`: one manual."""

from typing import Annotated

import typer

from collapse_cli.cli import options as flags

__all__ = ["explain"]


def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An analyzer, or a rule: analyzer/metric.")],
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", metavar="FORMAT", help="text, md or json.")
    ] = "text",
    no_plugins: flags.NoPlugins = False,
) -> int:
    """Explain an analyzer: why it matters, how to read it, its limits and where they come from, what to try, papers."""
    from collapse_cli.analyzers import catalogue, find
    from collapse_cli.cli.output import write_text
    from collapse_cli.cli.request import choice
    from collapse_cli.errors import UnknownAnalyzer
    from collapse_cli.render.manuals import explained

    choice("--format", format, ("text", "md", "json"))
    analyzer, _, metric = name.partition("/")
    chosen = find(catalogue(plugins=not no_plugins), select=(analyzer,))
    for found in chosen:
        if metric and metric not in {declared.name for declared in found.manual.metrics}:
            known = ", ".join(declared.name for declared in found.manual.metrics)
            raise UnknownAnalyzer(f'"{found.name}" has no metric "{metric}"', expected=f"it has {known}")
    write_text(explained([found.manual for found in chosen], format), is_machine=format == "json")
    return 0
