"""What is in a checkpoint, as a table, JSON or CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from collapse_cli.core.contents import Contents
from collapse_cli.core.site import Site
from collapse_cli.core.text import inert, json_safe, plain, tail
from collapse_cli.render.verdict import counted

__all__ = ["rendered"]

#: A name longer than this does not widen the column; what stands right of it is shifted.
_COLUMN = 100
_BOLD, _DIM, _WARN, _OFF = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[0m"


def rendered(found: Sequence[Contents], form: str, *, has_color: bool, width: int | None) -> str:
    """`table`, `json` or `csv`; `width` None means: no terminal, so no name is cut."""
    if form == "json":
        return json_safe(json.dumps([_record(item) for item in found], indent=2, ensure_ascii=False)) + "\n"
    if form == "csv":
        return _csv(found)
    pages = ("\n".join(_table(item, has_color=has_color, width=width)) for item in found)
    return "\n\n".join(pages) + "\n"


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
            role = site.role.value
            writer.writerow([inert(item.id), inert(site.name), shape, site.dtype, layer, role, "readable", ""])
        for skip in item.unreadable:
            row = [inert(item.id), inert(skip.site or ""), "", "", "", "", "unreadable", inert(skip.reason)]
            writer.writerow(row)
    return stream.getvalue()


def _table(item: Contents, *, has_color: bool, width: int | None) -> Iterator[str]:
    def styled(text: str, style: str) -> str:
        return f"{style}{text}{_OFF}" if has_color else text

    facts = [item.format, counted(len(item.sites), "tensor"), counted(item.parameters, "parameter")]
    facts += [counted(item.layers, "layer")] if item.layers else []
    yield styled(plain(item.id), _BOLD) + "   " + " · ".join([*facts, f"{item.bytes:,} bytes"])
    rows = [_row(site) for site in item.sites]
    others = [max([len(head), *(len(row[i + 1]) for row in rows)]) for i, head in enumerate(_HEADS)]
    room = max(width - sum(others) - 2 * len(others), 20) if width else None
    names = [tail(site.name, room) if room else plain(site.name) for site in item.sites]
    column = min(max([len("tensor"), *map(len, names)]), _COLUMN)
    if rows:
        yield styled(_line("tensor", column, _HEADS, others), _DIM)
    for name, row in zip(names, rows, strict=True):
        yield _line(name, column, row[1:], others)
    for skip in item.unreadable:
        yield styled("not readable: " + plain(": ".join(part for part in (skip.site, skip.reason) if part)), _WARN)
    for notice in item.notices:
        yield styled(f"notice: {plain(notice)}", _DIM)


_HEADS = ("shape", "dtype", "layer", "role")


def _row(site: Site) -> tuple[str, ...]:
    layer = "" if site.layer is None else str(site.layer)
    return (site.name, "×".join(map(str, site.shape)) or "scalar", plain(site.dtype), layer, site.role.value)


def _line(name: str, column: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    shape, dtype, layer, role = cells
    rest = (shape.ljust(widths[0]), dtype.ljust(widths[1]), layer.rjust(widths[2]), role)
    return "  ".join((name.ljust(column), *rest)).rstrip()
