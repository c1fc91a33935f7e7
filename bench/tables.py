"""The tables of a report in Markdown: three significant digits, ratios in bold beside their goals, the machine."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # has no types

MIB = 1 << 20


def ratio(
    label: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> tuple[str, str, str, str]:
    """A row: label, value in bold, goal, and whether it is met."""
    if at_least is not None:
        goal, is_met = f"≥ {at_least:g}", value >= at_least
    elif at_most is not None:
        goal, is_met = f"≤ {at_most:g}", value <= at_most
    else:
        return label, f"**{number(value)}**", "", ""
    return label, f"**{number(value)}**", goal, "✓" if is_met else "✗"


def number(value: float) -> str:
    """Three significant digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:#.3g}".rstrip(".")
        return f"{float(text):.0f}" if "e" in text else text
    return f"{value:.2e}"


def sides_table(sides: dict[str, dict[str, Any]]) -> str:
    """Seconds and memory of each side."""
    rows = [
        (name, number(run["seconds"]), number(run["peak"] / MIB), number(run["before"] / MIB))
        for name, run in sides.items()
    ]
    return table(("side", "seconds", "peak MiB", "MiB before it began"), rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Date, command, processor, memory, load, versions."""
    model = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        names = [line.split(":", 1)[1].strip() for line in described.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("collapse-cli", "torch", "numpy", "scipy", "transformers", "weightwatcher")
    )
    rows = [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`python bench/run.py {' '.join(sys.argv[1:])}`".replace(" `", "`")),
        ("processor", f"{model}, {psutil.cpu_count(logical=False)} cores, {psutil.cpu_count()} threads"),
        ("memory", f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB"),
        ("load before", " ".join(f"{load:.2f}" for load in psutil.getloadavg())),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("versions", versions),
    ]
    return table(("", ""), rows)
