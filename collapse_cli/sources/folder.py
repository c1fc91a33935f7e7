"""Folders: which checkpoint a folder is, and which checkpoints a tree of folders holds."""

from pathlib import Path

from collapse_cli.core.order import natural_order
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.bytes import kind_of, not_readable, open_local
from collapse_cli.sources.configuration import WEIGHT_SUFFIXES, is_auxiliary, weight_files
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.shard_index import is_index_name
from collapse_cli.sources.stored import StoredCheckpoint, stored_tensors

__all__ = ["open_folder", "presented_as", "subjects"]

#: In this order the loaders of transformers, peft and diffusers look for weights.
_PREFERRED = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "adapter_model.bin",
)
_MARKERS = ("config.json", "adapter_config.json")
#: Files that need no look inside to know that they are no checkpoint.
_NO_WEIGHTS = frozenset(
    {".json", ".jsonl", ".txt", ".md", ".py", ".sh", ".yaml", ".yml", ".toml", ".log", ".csv", ".tsv", ".html"}
    | {".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".mp4", ".wav", ".parquet", ".arrow", ".db", ".ipynb"}
)


def open_folder(path: Path) -> Checkpoint:
    """The one checkpoint of a folder, under the folder's path.

    Raises:
        UnreadableCheckpoint: the folder holds none, or several of which none is preferred.
    """
    from collapse_cli.sources import open_checkpoint

    chosen = _chosen(path)
    if chosen is None:
        raise _undecided(path)
    return presented_as(str(path), open_checkpoint(chosen))


def presented_as(path: str, checkpoint: Checkpoint) -> StoredCheckpoint:
    """The same checkpoint under another path."""
    return StoredCheckpoint(
        path=path,
        format=checkpoint.format,
        nbytes=checkpoint.nbytes,
        files=checkpoint.files,
        tensors=stored_tensors(checkpoint),
        release=checkpoint.close,
        config=checkpoint.config,
        adapter=checkpoint.adapter,
        unreadable=checkpoint.unreadable,
        optimizer=checkpoint.optimizer,
        layout=checkpoint.layout,
        notices=checkpoint.notices,
        metadata=checkpoint.metadata,
    )


def subjects(path: Path) -> list[Path]:
    """The checkpoints below a path, in natural order: files, and folders that are one checkpoint each.

    Raises:
        UnreadableCheckpoint: there is no such path, or the folder may not be listed.
    """
    if kind_of(path) != "folder":
        # if it cannot be opened, this says why
        open_local(path).close()
        return [path]
    return _below(path, set())


def _below(folder: Path, visited: set[tuple[int, int]]) -> list[Path]:
    try:
        status = folder.stat()
        listed = sorted(folder.iterdir(), key=natural_order)
    except OSError as error:
        if not visited:
            raise not_readable(str(folder), error) from error
        # opening it will say why it cannot be read; left out it would pass for clean
        return [folder]
    if (status.st_dev, status.st_ino) in visited:
        return []
    visited.add((status.st_dev, status.st_ino))
    found = [folder] if _is_subject(folder, listed) else _single_files(listed)
    for inner in listed:
        if kind_of(inner) == "folder" and not inner.name.startswith(".") and not _is_blob_store(inner):
            found += _below(inner, visited)
    return found


def _is_subject(folder: Path, listed: list[Path]) -> bool:
    is_marked = any(path.name in _MARKERS or is_index_name(path.name) for path in listed)
    return is_marked and _chosen(folder) is not None


def _chosen(folder: Path) -> Path | None:
    """The file that a loader would take, or the only one there is."""
    try:
        files = {path.name: path for path in sorted(folder.iterdir()) if kind_of(path) != "folder"}
    except OSError as error:
        raise not_readable(str(folder), error) from error
    for name in _PREFERRED:
        if name in files:
            return files[name]
    indices = [path for name, path in files.items() if is_index_name(name)]
    if indices:
        # safetensors before pickles, the plain one before its variants
        return min(indices, key=lambda path: ("safetensors" not in path.name, len(path.name), path.name))
    weights = weight_files(folder)
    safe = [file for file in weights if file.suffix == ".safetensors"]
    if len(weights) == 1 or len(safe) == 1:
        return (safe or weights)[0]
    return None


def _single_files(listed: list[Path]) -> list[Path]:
    files = [path for path in listed if not path.name.startswith(".") and _may_hold_weights(path)]
    models = [path for path in files if not is_auxiliary(path.name)]
    return models or files


def _may_hold_weights(path: Path) -> bool:
    if path.suffix in WEIGHT_SUFFIXES:
        # a link that leads nowhere is a subject whose opening will say so
        return kind_of(path) in ("file", None)
    if path.suffix in _NO_WEIGHTS or kind_of(path) != "file":
        return False
    from collapse_cli.sources import sniff

    return sniff(path) is not None


def _is_blob_store(folder: Path) -> bool:
    """Whether a folder is the half of a Hugging Face cache that the links in `snapshots` lead to."""
    return folder.name == "blobs" and kind_of(folder.parent / "snapshots") == "folder"


def _undecided(folder: Path) -> UnreadableCheckpoint:
    where = str(folder)
    weights = weight_files(folder)
    if weights:
        some = ", ".join(quoted(file.name) for file in sorted(weights, key=natural_order)[:3])
        return UnreadableCheckpoint(
            f"the folder holds {len(weights)} weight files and no index that joins them",
            where=where,
            got=f"among them {some}",
            hint="name one of them; `collapse batch` looks at all",
        )
    if kind_of(folder / ".metadata") == "file":
        return UnreadableCheckpoint(
            "is a torch distributed checkpoint, which is not read yet",
            where=where,
            hint="python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
        )
    inner = [found.relative_to(folder).as_posix() for found in subjects(folder)]
    if inner:
        return UnreadableCheckpoint(
            f"the folder holds no weights itself, {len(inner)} below it do", where=where, hint="name one: " + inner[0]
        )
    return UnreadableCheckpoint("the folder holds no checkpoint", where=where, hint="check the path")
