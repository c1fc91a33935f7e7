"""The header of a safetensors file, parsed and validated completely before any value is read.

    8 bytes: length n of the header, little-endian │ n bytes: JSON │ the values, without holes

    {"__metadata__": {string: string}, name: {"dtype": …, "shape": […], "data_offsets": [begin, end]}, …}

The header MUST be at most 100,000,000 bytes of UTF-8 and begin with `{`; keys MUST be unique; the ranges MUST follow
one another from 0 to the end of the file and have the size that dtype and shape say. Sizes fit in 63 bits.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn, final

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.dtypes import BITS
from collapse_cli.sources.quoting import is_text, quoted

__all__ = ["HEADER_LIMIT", "Entry", "Header", "check_length", "header_end", "parse_entries", "parse_header"]

#: The limit of the official reader (safetensors 0.8, `MAX_HEADER_SIZE`).
HEADER_LIMIT = 100_000_000
#: torch counts entries and bytes with 64 bits, one of them the sign.
_SIZE_LIMIT = 1 << 63

_TRUNCATED = "the file is truncated; copy it again"
_LISTS_WHOLE = "the file is truncated; copy it again. `collapse inspect` lists the tensors that are whole"
_WRITTEN_WRONGLY = "the file was damaged or written by a faulty program; copy or save it again"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the header; `begin` and `end` count from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@final
@dataclass(frozen=True, slots=True)
class Header:
    """Everything a header says: its tensors in file order, the free metadata, and where the values end."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    end: int


def header_end(beginning: bytes, file_size: int, where: str) -> int:
    """Where the header ends, counted from the start of the file, from the first eight bytes.

    Raises:
        UnreadableCheckpoint: the file is too short, or the header too long.
    """
    if file_size < 8 or len(beginning) < 8:
        _refuse(where, "a safetensors file should have at least 8 bytes", f"this one has {file_size:,}", _TRUNCATED)
    length = int.from_bytes(beginning[:8], "little")
    if length > HEADER_LIMIT:
        _refuse(
            where,
            f"the header should have at most {HEADER_LIMIT:,} bytes",
            f"its first eight bytes claim {length:,}",
            "this is no safetensors file, or its beginning is damaged",
        )
    if 8 + length > file_size:
        _refuse(where, f"the header should end at byte {8 + length:,}", f"the file ends at {file_size:,}", _TRUNCATED)
    return 8 + length


def parse_header(beginning: bytes, file_size: int, where: str) -> Header:
    """The header at the beginning of a file of `file_size` bytes.

    Raises:
        UnreadableCheckpoint: whatever of the format's rules is broken, each with its own sentence.
    """
    header = parse_entries(beginning, file_size, where)
    check_length(header, file_size, where)
    return header


def parse_entries(beginning: bytes, file_size: int, where: str) -> Header:
    """The header of a file that may end too early or too late.

    Raises:
        UnreadableCheckpoint: any other rule is broken.
    """
    data_begin = header_end(beginning, file_size, where)
    members = _json_object(beginning[8:data_begin], where)
    metadata = _metadata(members.pop("__metadata__", None), where)
    entries = sorted(
        (_entry(name, value, data_begin, where) for name, value in members.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    end = data_begin
    for entry in entries:
        if entry.begin != end:
            fault = "overlaps what stands before it" if entry.begin < end else "leaves a hole before it"
            _refuse(
                where,
                f"tensor {quoted(entry.name)} {fault}: it should begin at byte {end:,}",
                f"it begins at {entry.begin:,}",
            )
        end = entry.end
    return Header(tuple(entries), metadata, end)


def check_length(header: Header, file_size: int, where: str) -> None:
    """The last rule: the file ends where the last tensor does.

    Raises:
        UnreadableCheckpoint: it ends earlier, or later.
    """
    if header.end < file_size:
        _refuse(
            where,
            f"the file should end at byte {header.end:,}, after its last tensor",
            f"it ends at {file_size:,}",
            "something was appended to the file; save it again",
        )
    for entry in header.entries:
        if entry.end > file_size:
            raise UnreadableCheckpoint(
                f"tensor {quoted(entry.name)}",
                where=where,
                expected=f"should end at byte {entry.end:,}",
                got=f"the file ends at {file_size:,}",
                hint=_LISTS_WHOLE,
            )


def _json_object(text: bytes, where: str) -> dict[str, Any]:
    if text[:1] != b"{":
        _refuse(where, "the header should begin with `{`", f"it begins with {text[:16]!r}" if text else "it is empty")

    def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(members)
        if len(result) < len(members):
            seen: set[str] = set()
            twice = next(key for key, _ in members if key in seen or seen.add(key))  # type: ignore[func-returns-value] # add gives None
            _refuse(where, f"the header should have each key once, {quoted(twice)} stands in it twice")
        return result

    def refuse_constant(word: str) -> NoReturn:
        _refuse(where, f"the header should be JSON, which has no {word}")

    try:
        # the nesting that Python's own scanner bears is far above the format's three levels
        members = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        _refuse(where, "the header should be UTF-8", f"its byte {error.start:,} is not")
    except json.JSONDecodeError as error:
        _refuse(where, "the header should be JSON", f"at character {error.pos:,}: {error.msg}")
    except RecursionError:
        _refuse(where, "the header should have three levels", "it is nested too deeply to be read")
    except ValueError:
        _refuse(where, "the header should hold sizes of at most 63 bits", "it holds a number of thousands of digits")
    result: dict[str, Any] = members
    return result


def _metadata(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        _refuse(where, '"__metadata__" should map strings to strings, it does not')
    for text in (*value.keys(), *value.values()):
        if not is_text(text):
            _refuse(where, f'"__metadata__" should be text, {quoted(text)} has half a character in it')
    return dict(value)


def _entry(name: str, value: Any, data_begin: int, where: str) -> Entry:
    called = f"tensor {quoted(name)}"
    if not is_text(name):
        _refuse(where, f"the name of {called} should be text, it has half a character in it")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        _refuse(where, f"{called} should have dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(where, f"{called} should have a dtype of the format", f"it has {quoted(str(dtype))}")
    if not _are_sizes(shape):
        _refuse(where, f"{called} should have a shape of whole numbers from 0 to 2^63 - 1, it does not")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(where, f"{called} should have two data_offsets in order, it does not")
    begin, end = offsets
    if end - begin != (nbytes := _nbytes(called, shape, dtype, where)):
        _refuse(
            where,
            f"{called} should have {nbytes:,} bytes for {dtype} {list(shape)!r}",
            f"its range has {end - begin:,}",
        )
    return Entry(name, dtype, tuple(shape), data_begin + begin, data_begin + end)


def _nbytes(called: str, shape: list[int], dtype: str, where: str) -> int:
    bits = BITS[dtype]
    strides = 1
    for side in shape:
        # strides are counted as if empty axes had one entry; so does torch
        strides *= max(side, 1)
        if strides * bits >= 8 * _SIZE_LIMIT:
            _refuse(where, f"{called} should have a size that fits in 63 bits, its shape overflows")
    entries = 0 if 0 in shape else strides
    if entries * bits % 8:
        _refuse(where, f"{called} should fill whole bytes", f"{entries:,} entries of {bits} bits do not")
    return entries * bits // 8


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _SIZE_LIMIT for item in value)


def _refuse(where: str, expected: str, got: str = "", hint: str = _WRITTEN_WRONGLY) -> NoReturn:
    raise UnreadableCheckpoint(expected, where=where, got=got, hint=hint)
