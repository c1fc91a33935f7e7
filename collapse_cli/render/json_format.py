"""JSON: the report itself."""

from collapse_cli.core.report import Report, to_json
from collapse_cli.render.look import Look

__all__ = ["render"]


def render(report: Report, _look: Look) -> str:
    """One JSON object, the contract."""
    return to_json(report, indent=2) + "\n"
