"""`collapse schema`: the JSON Schema of what `collapse` writes."""

import json
from typing import Annotated

import typer

__all__ = ["schema"]


def schema(
    what: Annotated[str, typer.Argument(metavar="[report]", help="Which contract.")] = "report",
) -> int:
    """Print the JSON Schema of the report."""
    from collapse_cli.cli.output import write_text
    from collapse_cli.cli.request import choice
    from collapse_cli.core.report import json_schema

    choice("schema", what, ("report",))
    write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", is_machine=True)
    return 0
