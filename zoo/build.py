"""Every case trained and scanned, several at a time; one that fails is said and does not stop the rest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import final

from zoo.case import Case, Truth
from zoo.kinds import kinds

__all__ = ["Built", "build", "built"]


@final
@dataclass(frozen=True, slots=True)
class Built:
    """What became of one case: its folder, what its outcome says, and the seconds it took."""

    case: Case
    folder: Path | None
    truth: Truth | None
    outcome: float
    seconds: float
    error: str = ""


def build(root: Path, cases: Sequence[Case], *, workers: int = 2, is_told: bool = True) -> list[Built]:
    """These cases, in their order."""
    rows: dict[Case, Built] = {}
    begun = time.monotonic()
    # spawned, not forked: a fork of a process that ran torch may deadlock
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_single_threaded) as pool:
        for future in as_completed([pool.submit(built, root, case) for case in cases]):
            row = future.result()
            rows[row.case] = row
            if is_told:
                said = row.error or f"{row.truth} (outcome {row.outcome:.3g})"
                print(f"{len(rows)}/{len(cases)} {row.case.name}: {said}, {row.seconds:.1f} s", flush=True)
    if is_told:
        print(f"{len(cases)} models in {time.monotonic() - begun:.0f} s")
    return [rows[case] for case in cases]


def built(root: Path, case: Case) -> Built:
    """One case, trained and every view of it measured, from the store where it is there already."""
    from zoo.measure import measured
    from zoo.store import made

    kind = kinds()[case.kind]
    begun = time.monotonic()
    try:
        folder = made(root, kind, case)
        for name, view in kind.views.items():
            measured(folder, name, view)
    except Exception as error:  # noqa: BLE001
        return Built(case, None, None, float("nan"), time.monotonic() - begun, f"{type(error).__name__}: {error}")
    said = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    return Built(case, folder, said["truth"], said["figures"]["outcome"], time.monotonic() - begun)


def _single_threaded() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
