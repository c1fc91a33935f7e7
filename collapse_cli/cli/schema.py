"""`collapse schema`: the JSON Schema of what `collapse` writes and reads."""

import json
from typing import Annotated, Any

import typer

__all__ = ["schema"]


def schema(
    what: Annotated[str, typer.Argument(metavar="[report|config|baseline]", help="Which contract.")] = "report",
) -> int:
    """Print the JSON Schema of the report, of the configuration file or of the baseline."""
    from collapse_cli.cli.output import write_text
    from collapse_cli.cli.request import choice

    contracts = {"report": _report, "config": _config, "baseline": _baseline}
    made = contracts[choice("schema", what, contracts)]
    write_text(json.dumps(made(), indent=2, ensure_ascii=False) + "\n", is_machine=True)
    return 0


def _report() -> dict[str, Any]:
    from collapse_cli.core.report import json_schema

    return json_schema()


def _config() -> dict[str, Any]:
    from collapse_cli.cli.configured import choices
    from collapse_cli.configuration.schema import json_schema

    return json_schema(choices())


def _baseline() -> dict[str, Any]:
    from collapse_cli.baseline import json_schema

    return json_schema()
