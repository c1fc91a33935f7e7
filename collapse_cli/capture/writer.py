"""`DumpWriter`: named arrays appended batch by batch to a folder of shards, in bounded memory."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from collapse_cli.capture.shard import DTYPE_NAMES, replace_file, write_shard
from collapse_cli.core.roles import INDEX_NAME, ROLES, SCHEMA, SCHEMA_KEY, SHARD_KEY, DumpRole, join_name, split_name
from collapse_cli.errors import InputError

__all__ = ["DumpWriter"]

Writer = TypeVar("Writer", bound="DumpWriter")

#: One shard fits beside a model in memory, and a thousand of them are a dump of 64 GiB.
SHARD_BYTES = 64 << 20


@final
class DumpWriter:
    """A dump that grows: `append` rows, then `finish`, or use it as a context manager.

    Rows wait in memory until they fill a shard of `shard_bytes` (or of `shard_rows` rows); each shard is written under
    another name, brought to the disk and then renamed, and the index that makes the folder one dump comes last.
    So a capture that was killed, or left by an exception, has no index: the folder is not taken for a finished dump,
    each shard in it is whole, and `--as dump` (`open_dump(…, as_dump=True)`) reads what was completed.
    `dtype` is what floating arrays are stored in.

    Raises:
        InputError: `path` holds a dump or other files already, or is a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] = MappingProxyType({}),
        dtype: torch.dtype | None = None,
        shard_rows: int | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = Path(path)
        self._dtype, self._shard_rows, self._shard_bytes = dtype, shard_rows, shard_bytes
        self._metadata = {SCHEMA_KEY: SCHEMA, **_texts(metadata, str(path))}
        self._pending: dict[str, list[Tensor]] = {}
        self._first: dict[str, Tensor] = {}  # no rows, the shape and dtype that every append must have
        self._together: list[frozenset[str]] = []
        self._rows: dict[str, int] = {}
        self._whole: dict[str, Tensor] = {}
        self._shards: list[dict[str, Any]] = []
        self._is_finished = False
        _make_folder(self.path)

    def append(self, arrays: Mapping[str, Any]) -> None:
        """Add rows: torch tensors or numpy arrays by `<site>/<role>` or role, each with as many rows.

        Arrays that are appended together are always so. Others have rows of their own: samples and reference, or one
        site per sample and another per token. Arrays whose role has no rows (`head_weight`) are given with `attach`.

        Raises:
            InputError: a name has no role, or an array cannot have it, or not the rows, shape or dtype of the others.
        """
        self._check_open()
        rows = {_full(name): self._checked(name, value) for name, value in arrays.items()}
        self._check_rows(rows)
        self._check_known(rows)
        count = next(iter(rows.values())).shape[0] if rows else 0
        begin = 0
        while begin < count:
            end = min(count, begin + self._room(rows))
            for name, tensor in rows.items():
                # a copy: the caller may write the next batch into the same memory
                self._pending.setdefault(name, []).append(tensor[begin:end].detach().cpu().clone())
                self._rows[name] = self._rows.get(name, 0) + end - begin
            begin = end
            if self._room(rows) < 1:
                self._flush()

    def attach(self, arrays: Mapping[str, Any]) -> None:
        """Add arrays that are not per sample: a head, a codebook, class counts. A later one replaces the earlier.

        Raises:
            InputError: a name has no role, or one that grows by rows, or an array cannot have it.
        """
        self._check_open()
        for name, value in arrays.items():
            tensor = self._checked(name, value)
            if _role(name, self.path).rows is not None:
                raise self._refused(name, "should be given by append", "it has one row per sample")
            self._whole[_full(name)] = tensor.detach().cpu().clone()

    def finish(self) -> Path:
        """Write what still waits, then the index; the folder is a whole dump from then on.

        Raises:
            InputError: nothing was appended, arrays of one site have not as many rows, or it was finished before.
        """
        self._check_open()
        if not self._rows:
            raise InputError("no rows were appended", where=str(self.path), hint="a dump has at least one row")
        self._check_sites()
        self._flush(is_last=True)
        index = {SCHEMA_KEY: SCHEMA, "metadata": self._metadata, "shards": self._shards}
        replace_file(self.path / INDEX_NAME, [json.dumps(index, indent=1, ensure_ascii=False).encode()])
        self._is_finished = True
        return self.path

    def __enter__(self: Writer) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._pending.clear()
        elif not self._is_finished:
            self.finish()

    # --- shards ---

    def _room(self, rows: Mapping[str, Tensor]) -> int:
        """How many more of these rows fit into the shard; at least one into an empty shard."""
        row_bytes = sum(tensor[:1].numel() * tensor.element_size() for tensor in rows.values())
        waiting = [piece for pieces in self._pending.values() for piece in pieces]
        room = (self._shard_bytes - sum(piece.nbytes for piece in waiting)) // max(1, row_bytes)
        if self._shard_rows is not None:
            longest = max((sum(piece.shape[0] for piece in pieces) for pieces in self._pending.values()), default=0)
            room = min(room, self._shard_rows - longest)
        return room if waiting else max(1, room)

    def _flush(self, *, is_last: bool = False) -> None:
        arrays = {name: pieces for name, pieces in self._pending.items() if pieces}
        if is_last:
            arrays |= {name: [tensor] for name, tensor in self._whole.items()}
        if not arrays:
            return
        file = f"shard-{len(self._shards):05d}.safetensors"
        write_shard(self.path / file, arrays, {**self._metadata, SHARD_KEY: str(len(self._shards))})
        self._shards.append(
            {"file": file, "rows": {name: sum(p.shape[0] for p in pieces) for name, pieces in arrays.items()}}
        )
        self._pending.clear()

    # --- what an array must be ---

    def _checked(self, name: str, value: Any) -> Tensor:
        """The array as a tensor in the dtype it is stored in, its shape and numbers those of its role."""
        role = _role(name, self.path)
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if tensor.is_floating_point() and self._dtype is not None:
            tensor = tensor.to(self._dtype)
        if tensor.dtype not in DTYPE_NAMES:
            raise self._refused(name, "should have a dtype that a dump holds", f"it has {tensor.dtype}")
        if fault := role.fault(tensor.shape, DTYPE_NAMES[tensor.dtype]):
            raise self._refused(name, *fault)
        return tensor

    def _check_rows(self, rows: Mapping[str, Tensor]) -> None:
        lengths = {name: tensor.shape[0] for name, tensor in rows.items()}
        for name in rows:
            if ROLES[split_name(name)[1]].rows is None:
                raise self._refused(name, "should be given by attach", "it has no row per sample")
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
            raise InputError(
                "the arrays of an append should have as many rows",
                where=str(self.path),
                got=said,
                hint="append what belongs to the same samples together",
            )

    def _check_known(self, rows: Mapping[str, Tensor]) -> None:
        """Arrays that were appended together stay together, with their shapes and dtypes."""
        known = {name for together in self._together if together & rows.keys() for name in together}
        if known and known != set(rows):
            missing, added = sorted(known - set(rows)), sorted(set(rows) - known)
            said = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(added)} new"] * bool(added)
            raise InputError(
                "every append should have the arrays of the first",
                where=str(self.path),
                got="; ".join(said),
                hint="rows that lack an array would shift those after them",
            )
        if not known:
            self._together.append(frozenset(rows))
        for name, tensor in rows.items():
            first = self._first.setdefault(name, tensor[:0].detach().cpu())
            if first.shape[1:] != tensor.shape[1:]:
                was, now = ([*map(int, kind.shape[1:])] for kind in (first, tensor))
                hint = "pad every batch to one length: tokenizer(…, padding='max_length')" if tensor.dim() > 2 else ""
                raise self._refused(name, f"should have rows of shape {was}, as before", f"they are {now}", hint)
            if first.dtype != tensor.dtype:
                raise self._refused(name, f"should be {first.dtype}, as before", f"it is {tensor.dtype}")

    def _check_sites(self) -> None:
        """Arrays of a site that grow along the same axis have as many rows, however they were appended."""
        first: dict[tuple[str, str | None], str] = {}
        for name, count in self._rows.items():
            site, role = split_name(name)
            before = first.setdefault((site, ROLES[role].rows), name)
            if self._rows[before] != count:
                raise self._refused(name, f"should have {self._rows[before]:,} rows, as {before}", f"it has {count:,}")

    def _refused(self, name: str, expected: str, got: str, hint: str = "") -> InputError:
        return InputError(f'array "{name}"', where=str(self.path), expected=expected, got=got, hint=hint)

    def _check_open(self) -> None:
        if self._is_finished:
            raise InputError("the dump is finished", where=str(self.path), hint="write another one")


def _full(name: str) -> str:
    return join_name(*split_name(name))


def _role(name: str, path: Path) -> DumpRole:
    role = ROLES.get(split_name(name)[1])
    if role is None:
        raise InputError(
            f'array "{name}" should end with a role',
            where=str(path),
            got=f'"{split_name(name)[1]}" is none',
            hint=f"the roles are {', '.join(ROLES)}",
        )
    return role


def _texts(metadata: Mapping[Any, Any], where: str) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            got = f"{key!r} has {type(value).__name__}"
            raise InputError("metadata should map strings to strings", where=where, got=got, hint="str(…) it")
    return dict(metadata)


def _make_folder(path: Path) -> None:
    """The folder of the dump, new or empty."""
    if path.suffix in (".safetensors", ".npz", ".npy", ".pt", ".json"):
        raise InputError("a dump is written as a folder of shards", where=str(path), hint=f"call it {path.stem}")
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = sorted(file.name for file in path.iterdir())
    except OSError as error:
        raise InputError("a dump is a folder of shards", where=str(path), got=str(error.strerror)) from error
    if held:
        raise InputError(
            "the folder of a new dump should be empty",
            where=str(path),
            got=f"it holds {len(held):,} files, among them {held[0]}",
            hint="choose another folder, or remove this one",
        )
