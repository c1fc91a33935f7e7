"""Where models and measurements are kept: by the content of what made them, written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from zoo.case import Case, Kind

__all__ = ["case_folder", "made", "read_json", "write_json"]

_IMPORTED = re.compile(r"^(?:from|import) (zoo\.[\w.]+)", re.MULTILINE)


@cache
def _sources(name: str) -> tuple[bytes, ...]:
    """The source of a module and of every module of the zoo that it imports, in the order of their names."""
    found: dict[str, bytes] = {}
    left = {name}
    while left:
        one = left.pop()
        source = Path(str(importlib.import_module(one).__file__)).read_bytes()
        found[one] = source
        left |= set(_IMPORTED.findall(source.decode())) - set(found)
    return tuple(found[one] for one in sorted(found))


def case_folder(root: Path, kind: Kind, case: Case) -> Path:
    """The folder of a case: its name, and the digest of the code that makes it, of torch and of its parameters."""
    digest = hashlib.sha256()
    for part in (*_sources(kind.make.__module__), torch.__version__.encode(), repr(case).encode()):
        digest.update(part)
    return root / f"{case.name}-{digest.hexdigest()[:12]}"


def made(root: Path, kind: Kind, case: Case) -> Path:
    """The folder of the model of a case, trained now unless it is there; `truth.json` says what came out."""
    folder = case_folder(root, kind, case)
    if (folder / "truth.json").exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(case.seed)
    figures = dict(kind.make(case, unfinished))
    truth = "control" if kind.is_control else kind.outcome.truth(figures["outcome"])
    said = {"case": case.name, "truth": truth, "outcome": kind.outcome.says, "figures": figures}
    (unfinished / "truth.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Compressed JSON, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with gzip.open(unfinished, "wt", encoding="utf-8", compresslevel=3) as file:
        json.dump(content, file)
    unfinished.replace(path)


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)
