"""What of a log is not SARIF 2.1.0, by the types that `pysarif` generates from the schema of the standard."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pysarif


def violations(log: dict[str, Any]) -> list[str]:
    """Every unknown, missing, null or wrongly typed property, with its place in the log."""
    # the address of the schema is the one property that the types leave out
    whole = {key: value for key, value in log.items() if key != "$schema"}
    return list(_wrong(whole, pysarif.SarifLog, "$"))


def _wrong(value: Any, wanted: Any, where: str) -> Iterator[str]:
    origin = get_origin(wanted)
    if wanted is Any:
        return
    if origin in (Union, types.UnionType):
        # optional means absent, never null
        (wanted,) = [one for one in get_args(wanted) if one is not type(None)]
        yield from _wrong(value, wanted, where)
    elif origin is Literal:
        if value not in get_args(wanted):
            yield f"{where}: {value!r} is none of {get_args(wanted)}"
    elif origin in (list, set):
        if not isinstance(value, list):
            yield f"{where}: no array"
            return
        for index, item in enumerate(value):
            yield from _wrong(item, get_args(wanted)[0], f"{where}[{index}]")
    elif dataclasses.is_dataclass(wanted):
        yield from _wrong_object(value, wanted, where)
    else:
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
            yield f"{where}: {value!r} is no {wanted}"


def _wrong_object(value: Any, wanted: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: no object"
        return
    if wanted is pysarif.PropertyBag:
        return
    hints = get_type_hints(wanted)
    fields = {_named(field): field for field in dataclasses.fields(wanted)}
    for name, item in value.items():
        if name not in fields:
            yield f"{where}: unknown property {name!r}"
        else:
            yield from _wrong(item, hints[fields[name].name], f"{where}.{name}")
    for name, field in fields.items():
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required and name not in value:
            yield f"{where}: {name!r} is missing"


def _named(field: dataclasses.Field[Any]) -> str:
    configured = field.metadata.get("dataclasses_json", {}).get("letter_case")
    if configured is not None:
        return str(configured(field.name))
    first, *rest = field.name.split("_")
    return first + "".join(word.capitalize() for word in rest)
