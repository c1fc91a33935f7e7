"""The store: by content, whole or not at all."""

import json
from pathlib import Path

import pytest

from zoo.case import Case, Kind, Outcome, View
from zoo.store import case_folder, made


def _kind(make) -> Kind:
    outcome = Outcome("accuracy", healthy=0.8, mild=0.7, collapsed=0.4)
    return Kind("k", "K", "by hand", ("a", "b"), ("c", "d"), outcome, {"dump": View(("rankme/*",))}, make)


def test_made_once_and_truth_beside_it(tmp_path: Path) -> None:
    calls = []

    def make(case: Case, folder: Path) -> dict[str, float]:
        calls.append(case)
        (folder / "dump").write_text("rows")
        return {"outcome": 0.3, "accuracy": 0.37}

    case = Case("k", "a", "c", "collapsed", 1)
    folder = made(tmp_path, _kind(make), case)
    assert made(tmp_path, _kind(make), case) == folder
    assert len(calls) == 1
    said = json.loads((folder / "truth.json").read_text())
    assert (said["truth"], said["figures"]) == ("collapsed", {"outcome": 0.3, "accuracy": 0.37})
    assert sorted(path.name for path in folder.iterdir()) == ["dump", "truth.json"]


def test_another_case_lies_elsewhere(tmp_path: Path) -> None:
    kind = _kind(lambda case, folder: {"outcome": 1.0})
    folders = {
        case_folder(tmp_path, kind, Case("k", a, d, level, seed))
        for a in "ab"
        for d in "cd"
        for level in ("healthy", "mild")
        for seed in range(3)
    }
    assert len(folders) == 24


def test_a_model_that_could_not_be_made_leaves_no_truth_and_is_made_again(tmp_path: Path) -> None:
    attempts = []

    def make(case: Case, folder: Path) -> dict[str, float]:
        attempts.append(case)
        (folder / "half").write_text("rows")
        if len(attempts) == 1:
            raise RuntimeError("no memory")
        return {"outcome": 1.0}

    case = Case("k", "a", "c", "healthy", 1)
    with pytest.raises(RuntimeError, match="no memory"):
        made(tmp_path, _kind(make), case)
    assert not case_folder(tmp_path, _kind(make), case).exists()
    assert (made(tmp_path, _kind(make), case) / "truth.json").exists()
