"""What is in a checkpoint, as a table, JSON or CSV."""

import csv
import io
import json
from collections.abc import Sequence

from collapse_cli.core.contents import Contents
from collapse_cli.core.text import plain
from collapse_cli.render.verdict import counted

__all__ = ["rendered"]


def rendered(found: Sequence[Contents], form: str, *, has_color: bool, width: int | None) -> str:
    """`table`, `json` or `csv`; `width` None means: no terminal, so nothing is cut or folded."""
    if form == "json":
        return json.dumps([_record(item) for item in found], indent=2) + "\n"
    if form == "csv":
        return _csv(found)
    return "".join(_table(item, has_color=has_color, width=width) for item in found)


def _record(item: Contents) -> dict[str, object]:
    return {
        "id": item.id,
        "path": item.path,
        "format": item.format,
        "bytes": item.bytes,
        "parameters": item.parameters,
        "layers": item.layers,
        "sites": [
            {"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "layer": s.layer, "role": s.role.value}
            for s in item.sites
        ],
        "unreadable": [{"site": skip.site, "reason": skip.reason} for skip in item.unreadable],
        "notices": list(item.notices),
    }


def _csv(found: Sequence[Contents]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["subject", "site", "shape", "dtype", "layer", "role", "status", "reason"])
    for item in found:
        for site in item.sites:
            layer = "" if site.layer is None else str(site.layer)
            shape = "x".join(map(str, site.shape))
            writer.writerow(
                [_inert(item.id), _inert(site.name), shape, site.dtype, layer, site.role.value, "readable", ""]
            )
        for skip in item.unreadable:
            writer.writerow(
                [_inert(item.id), _inert(skip.site or ""), "", "", "", "", "unreadable", _inert(skip.reason)]
            )
    return stream.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _table(item: Contents, *, has_color: bool, width: int | None) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = io.StringIO()
    longest = max((len(plain(site.name)) for site in item.sites), default=20)
    console = Console(
        file=stream,
        width=max(width, 40) if width else max(120, longest + 60),
        force_terminal=has_color,
        color_system="auto" if has_color else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    facts = [item.format, counted(len(item.sites), "tensor"), counted(item.parameters, "parameter")]
    facts += [counted(item.layers, "layer"), f"{item.bytes:,} bytes"]
    console.print(Text.assemble((plain(item.id), "bold"), "  ", " · ".join(facts)))
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    for name in ("tensor", "shape", "dtype"):
        table.add_column(name, overflow="fold")
    table.add_column("layer", justify="right")
    table.add_column("role", overflow="fold")
    for site in item.sites:
        layer = "" if site.layer is None else str(site.layer)
        shape = "×".join(map(str, site.shape)) or "scalar"
        table.add_row(Text(plain(site.name)), shape, site.dtype, layer, site.role.value)
    console.print(table)
    for skip in item.unreadable:
        console.print(Text(plain(f"not readable: {skip.site}: {skip.reason}"), style="yellow"))
    for notice in item.notices:
        console.print(Text(plain(f"notice: {notice}"), style="dim"))
    console.print()
    return stream.getvalue()
