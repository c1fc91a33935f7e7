"""The store built from report files: what it lacks is added, and a damaged one is set aside first."""

import os
from collections.abc import Sequence
from pathlib import Path

from collapse_cli.errors import InputError
from collapse_cli.history.store import History, is_damage
from collapse_cli.stored import batch_reports, is_report, read_report

__all__ = ["rebuilt"]


def rebuilt(path: Path, folder: Path) -> tuple[int, int, Path | None]:
    """Keep every report of a folder that is not in the store yet: how many there are, how many were new.

    A damaged store is set aside first, under a name that is returned; one that is whole keeps what it has.

    Raises:
        InputError: there is no such folder, or the store cannot be written.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), hint="--rebuild takes a folder of reports")
    aside = None
    if path.exists() and not _is_sound(path):
        aside = _set_aside(path)
    kept = new = 0
    with History(path) as history:
        for file in _report_files(folder):
            try:
                report = read_report(file)
            except InputError:
                # a report of another version, or half of one: it stays where it is
                continue
            kept += 1
            new += history.record(report)
    return kept, new, aside


def _is_sound(path: Path) -> bool:
    try:
        with History(path) as history:
            return history.is_sound
    except InputError as error:
        if is_damage(error):
            return False
        raise


def _set_aside(path: Path) -> Path:
    """Rename a damaged store with its log, over nothing that is there."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _report_files(folder: Path) -> Sequence[Path]:
    """Reports below a folder, oldest first as far as names tell; of a batch those of its subjects, not their sum."""
    found: list[Path] = []
    for inner, folders, files in os.walk(folder):
        of_batch = batch_reports(Path(inner))
        if of_batch is not None:
            found += of_batch
            folders[:] = [name for name in folders if name != "subjects"]
            continue
        folders.sort()
        found += [Path(inner, name) for name in sorted(files) if name.endswith(".json") and not name.startswith(".")]
    return [file for file in found if is_report(file)]
