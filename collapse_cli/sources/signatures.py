"""What a file is by its first bytes: a checkpoint of a format we read, or something else that has a name."""

import zipfile
from pathlib import Path

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.bytes import open_local
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.safetensors_header import HEADER_LIMIT, parse_header
from collapse_cli.sources.shard_index import is_index_name
from collapse_cli.sources.zip_member import ZIP_FAULTS

__all__ = ["format_of", "refusal"]

_BEGINNING = 1 << 16
_UNKNOWN = "is not a checkpoint of a known format"
_READ = "collapse reads safetensors, torch.save zips, .npz and .npy, and folders of them"

#: Beginning → what it is, what to do. The magic bytes are those of the formats' own specifications.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "is a GGUF file, which is not read yet", "open the model it was converted from"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras), which is not read yet", "save the weights as safetensors or .npz"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstandard", "unpack it first"),
    (b"BZh", "is compressed with bzip2", "unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed with xz", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it first"),
    (b"PAR1", "is a Parquet table, not a checkpoint", _READ),
    (b"SQLite format 3\x00", "is an SQLite database, not a checkpoint", _READ),
    (b"\x89PNG\r\n\x1a\n", "is a PNG image, not a checkpoint", _READ),
    (b"%PDF-", "is a PDF document, not a checkpoint", _READ),
    (b"\x7fELF", "is a program, not a checkpoint", _READ),
)
#: torch.serialization.MAGIC_NUMBER, pickled with protocol 2: how torch.save began before 1.6.
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LFS = b"version https://git-lfs.github.com/spec/v1"


def format_of(path: Path) -> str | None:
    """`safetensors`, `torch-zip`, `npz`, `npy`, `index`; None for everything that is not a checkpoint.

    Raises:
        UnreadableCheckpoint: the file is not there or cannot be read.
    """
    beginning, _ = _first_bytes(path)
    if beginning.startswith(b"\x93NUMPY"):
        return "npy"
    if beginning.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    if beginning.lstrip().startswith(b"{") and (b'"weight_map"' in beginning or is_index_name(path.name)):
        return "index"
    is_length = int.from_bytes(beginning[:8], "little") <= HEADER_LIMIT or not beginning[:8].isascii()
    if beginning[8:9] == b"{" and is_length:
        return "safetensors"
    return None


def refusal(path: Path) -> UnreadableCheckpoint:
    """The sentence about a file that is not a checkpoint: what it is instead, and what to do."""
    beginning, size = _first_bytes(path)
    what, hint = _named(beginning, size, path)
    if what == _UNKNOWN and path.suffix == ".safetensors":
        # what it was meant to be is known, so the rule that it breaks can be named
        try:
            parse_header(beginning, size, str(path))
        except UnreadableCheckpoint as error:
            return error
    return UnreadableCheckpoint(what, where=str(path), hint=hint)


def _first_bytes(path: Path) -> tuple[bytes, int]:
    source = open_local(path)
    try:
        return source.read(0, min(source.size, _BEGINNING)), source.size
    finally:
        source.close()


def _named(beginning: bytes, size: int, path: Path) -> tuple[str, str]:
    if size == 0:
        return "is empty", "the file was never written, or its copy failed; copy it again"
    if beginning.startswith(_LFS):
        pointer = f"is a Git LFS pointer ({size:,} bytes), not a checkpoint"
        return pointer, f"git lfs pull --include {path}"
    if not beginning.strip(b"\0"):
        zeros = f"begins with {len(beginning):,} zero bytes"
        return zeros, "room was made for the file and its content never written; copy it again"
    if beginning.startswith(_LEGACY_TORCH):
        legacy = "is a legacy pickle (torch.save before 1.6), which is not supported"
        return legacy, "load it where you trust it and save it again with torch.save"
    if beginning[257:262] == b"ustar":
        return "is a tar archive", "unpack it first; if torch.save made it, save it again with torch.save"
    if beginning[:1] == b"\x80" and beginning[1:2] in b"\x02\x03\x04\x05":
        return (
            "is a raw pickle, not a torch.save zip; legacy pickle formats are not supported",
            "load it where you trust it and save it again with torch.save",
        )
    if beginning.startswith(b"PK"):
        return _zip_named(path)
    for magic, what, hint in _OTHERS:
        if beginning.startswith(magic):
            return what, hint
    return _text_named(beginning)


def _text_named(beginning: bytes) -> tuple[str, str]:
    again = "the download failed; log in or check the address, and download it again"
    try:
        # the last character may be cut
        text = beginning.decode("utf-8-sig", errors="ignore" if len(beginning) == _BEGINNING else "strict").strip()
    except UnicodeDecodeError:
        return _UNKNOWN, _READ
    if any(not character.isprintable() and not character.isspace() for character in text[:1000]):
        return _UNKNOWN, _READ
    opening = text[:200].lower()
    if opening.startswith(("<!doctype html", "<html")) or "<html" in opening:
        return "is an HTML page, not a checkpoint", again
    if opening.startswith("<"):
        return f"is XML, not a checkpoint; it begins {quoted(text[:80])}", again
    if opening.startswith(("{", "[")):
        return f"is JSON, not a checkpoint; it begins {quoted(text[:80])}", again
    return f"is plain text, not a checkpoint; it begins {quoted(text[:80])}", _READ


def _zip_members(path: Path) -> list[str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except ZIP_FAULTS:
        return None


def _zip_format(path: Path) -> str | None:
    members = _zip_members(path) or []
    if any(name.rpartition("/")[2] == "data.pkl" for name in members):
        return "torch-zip"
    return "npz" if any(name.endswith(".npy") for name in members) else None


def _zip_named(path: Path) -> tuple[str, str]:
    members = _zip_members(path)
    if members is None:
        return "is a zip archive without a whole table of contents", "the file is truncated; copy it again"
    if "model.weights.h5" in members:
        return "is a Keras archive, which is not read yet", "save the weights as safetensors or .npz"
    return "is a zip archive with neither a torch.save state nor arrays in it", _READ
