"""The index of a sharded checkpoint: which shard holds which tensor."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.bytes import open_local
from collapse_cli.sources.quoting import is_text, quoted

__all__ = ["ShardIndex", "is_index_name", "read_index"]

#: As much as the header of a safetensors file may have: both hold a line per tensor.
_LONGEST = 100_000_000


@final
@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Tensor → shard file as the index claims, and the bytes it says there are in all (None if it does not say)."""

    weight_map: Mapping[str, str]
    total_size: int | None


def is_index_name(name: str) -> bool:
    """Whether a file is called like an index: `model.safetensors.index.json`, `….index.fp16.json`."""
    return name.endswith(".json") and ".index." in name


def read_index(path: Path) -> ShardIndex:
    """An index file.

    Raises:
        UnreadableCheckpoint: it is not there, too long, no JSON, or has no `weight_map` of strings.
    """
    where = str(path)
    source = open_local(path)
    try:
        if source.size > _LONGEST:
            _refuse(where, f"the index should have at most {_LONGEST:,} bytes", f"it has {source.size:,}")
        text = source.read(0, source.size)
    finally:
        source.close()
    value = _json(text, where)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        _refuse(where, "the index should have a weight_map from tensor to shard file", "it has none")
    for text in (*weight_map.keys(), *weight_map.values()):
        if not is_text(text):
            _refuse(where, f"the index should be text, {quoted(text)} has half a character in it")
    metadata = value.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    is_whole = type(total) is int or (isinstance(total, float) and total.is_integer())
    return ShardIndex(weight_map, int(total) if is_whole else None)  # type: ignore[arg-type] # is_whole excludes None


def _json(text: bytes, where: str) -> Any:
    def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, item in members:
            if key in seen:
                _refuse(where, f"the index should have each key once, {quoted(key)} stands in it twice")
            seen[key] = item
        return seen

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else "it is not"
        _refuse(where, "the index should be JSON", reason)


def _refuse(where: str, expected: str, got: str = "") -> NoReturn:
    raise UnreadableCheckpoint(expected, where=where, got=got, hint="download it again, or save the model again")
