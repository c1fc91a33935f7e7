"""`collapse`: has this saved model collapsed, where, how badly, why is that believed, and what to do about it?

```python
import collapse_cli

report = collapse_cli.scan(["model.safetensors"])
print(report.verdict.outcome, [finding.message for finding in report.subjects[0].findings])
```

Importing the package costs nothing: the names below are loaded when first used (PEP 562).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapse_cli._version import __version__
    from collapse_cli.core.policy import Policy
    from collapse_cli.core.report import Report, from_json, to_json
    from collapse_cli.runs import ScanOptions, scan

__all__ = ["Policy", "Report", "ScanOptions", "__version__", "from_json", "scan", "to_json"]

_HOMES = {
    "Policy": "collapse_cli.core.policy",
    "Report": "collapse_cli.core.report",
    "ScanOptions": "collapse_cli.runs",
    "__version__": "collapse_cli._version",
    "from_json": "collapse_cli.core.report",
    "scan": "collapse_cli.runs",
    "to_json": "collapse_cli.core.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
