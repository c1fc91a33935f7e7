"""The store of past reports: lossless, one transaction a report, never the only copy of anything."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from collapse_cli.core.report import Report, to_json
from collapse_cli.errors import InputError
from collapse_cli.history import History, members, rebuilt, store_path
from tests import reports


def at(day: int, *subjects: str, value: float = 0.5) -> Report:
    """A report of subjects with one measurement each, made on a day of March."""
    measured = (reports.ratio("head.weight", value),)
    whole = reports.report(*(reports.subject(name, measurements=measured) for name in subjects))
    return replace(whole, provenance=replace(whole.provenance, started=f"2026-03-{day:02}T09:30:00Z"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.sqlite"


@pytest.mark.parametrize("name", reports.REPORTS)
def test_what_is_kept_comes_back_as_it_was(path: Path, name: str) -> None:
    report = reports.REPORTS[name]()
    with History(path) as history:
        assert history.record(report)
        found = list(history.reports())
    assert [one.subjects for one in found] == [(subject,) for subject in report.subjects]
    assert all(one.manuals == report.manuals for one in found)


def test_runs_and_values_are_found_by_globs_and_from_a_day_on(path: Path) -> None:
    with History(path) as history:
        for day, value in ((3, 0.01), (1, 0.6), (2, 0.2)):
            history.record(at(day, "runs/7/a.pt", "runs/8/b.pt", value=value))
        assert [one.started[8:10] for one in history.runs("runs/7/*")] == ["01", "02", "03"]
        assert [(one.errors, one.warnings, one.outcome) for one in history.runs("*a.pt")] == [
            (0, 0, "pass"),
            (0, 1, "pass"),
            (1, 0, "fail"),
        ]
        assert [one.value for one in history.values("runs/7/*", rule="effective-rank/*")] == [0.6, 0.2, 0.01]
        assert [one.severity for one in history.values("*b.pt", rule="effective_rank_ratio")] == [
            None,
            "warning",
            "error",
        ]
        assert [one.value for one in history.values("*b.pt", site="head.*", since="2026-03-02")] == [0.2, 0.01]
        assert history.values("*", rule="power-law/*") == history.values("*", site="tail*") == []
        assert history.runs("runs/9/*") == []
        assert len(history.runs(since="2026-03-03")) == 2
    assert [(subject.id, len(manuals)) for subject, manuals in members("runs/7/*", path)] == [("runs/7/a.pt", 2)] * 3


def test_the_same_report_is_kept_once_and_another_run_of_it_again(path: Path) -> None:
    with History(path) as history:
        assert history.record(at(1, "a"))
        assert not history.record(at(1, "a"))
        assert history.record(at(2, "a"))
        assert len(history.runs()) == 2


def test_a_report_that_cannot_be_kept_whole_is_not_kept_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with History(path) as history:
        whole = at(1, "a", "b")
        history._store.execute("CREATE TRIGGER full BEFORE INSERT ON subjects WHEN NEW.id = 'b' "
                               "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")  # fmt: skip
        with pytest.raises(InputError, match="disk is full"):
            history.record(whole)
        assert history.runs() == []
        assert history._store.execute("SELECT count(*) FROM measurements").fetchone() == (0,)


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from tests.test_history import at
from collapse_cli.history import History
with History(Path({str(path)!r})) as history:
    for day in range(1, 29):
        history.record(at(day, "a"))
        print(day, flush=True)
        if day == 20:
            os.kill(os.getpid(), 9)
"""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, cwd=root, check=False)
    assert done.stdout.split()[-1] == b"20", done.stderr
    with History(path) as history:
        assert len(history.runs()) == 20
        assert history.is_sound


def test_writers_wait_for_each_other(path: Path) -> None:
    with History(path) as one, History(path) as other:
        for day in range(1, 6):
            one.record(at(day, "a"))
            other.record(at(day, "b"))
        assert len(one.runs()) == len(other.runs()) == 10


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + bytes(4096)])
def test_a_damaged_store_is_said_and_set_aside_by_a_rebuild_only(tmp_path: Path, path: Path, damage: bytes) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    for day in (1, 2):
        (folder / f"{day}.json").write_text(to_json(at(day, "a")))
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(InputError, match=r"history.* is damaged") as caught:
        History(path)
    assert "--rebuild" in caught.value.hint
    assert path.read_bytes() == damage
    assert rebuilt(path, folder) == (2, 2, path.with_name("history.sqlite.damaged-1"))
    assert path.with_name("history.sqlite.damaged-1").read_bytes() == damage
    assert [subject.id for subject, _manuals in members("*", path)] == ["a", "a"]
    path.write_bytes(damage)
    assert rebuilt(path, folder)[2] == path.with_name("history.sqlite.damaged-2")


def test_a_page_destroyed_in_the_middle_is_found_by_a_rebuild(tmp_path: Path, path: Path) -> None:
    with History(path) as history:
        for day in range(1, 29):
            history.record(at(day, "a"))
        history._store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = bytearray(path.read_bytes())
    whole[4096:8192] = os.urandom(4096)
    path.write_bytes(whole)
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "one.json").write_text(to_json(at(1, "a")))
    assert rebuilt(path, folder)[2] is not None
    assert path.with_name("history.sqlite.damaged-1").read_bytes() == whole


def test_a_rebuild_adds_what_is_missing_and_takes_nothing_away(tmp_path: Path, path: Path) -> None:
    batch = tmp_path / "all" / "batch"
    (batch / "subjects" / "x").mkdir(parents=True)
    (batch / "summary.json").write_text(to_json(at(1, "a", "b")))
    (batch / "subjects" / "x" / "a.json").write_text(to_json(at(1, "a")))
    (batch / "subjects" / "b.json").write_text(to_json(at(1, "b")))
    (tmp_path / "all" / "alone.json").write_text(to_json(at(2, "a")))
    (tmp_path / "all" / "half.json").write_text(to_json(at(3, "a"))[:300])
    (tmp_path / "all" / "other.json").write_text("{}")
    with History(path) as history:
        history.record(at(4, "c"))
        history.record(at(2, "a"))
    assert rebuilt(path, tmp_path / "all") == (3, 2, None), "of a batch its subjects, not their sum again"
    assert rebuilt(path, tmp_path / "all") == (3, 0, None)
    with History(path) as history:
        assert [(one.started[8:10], one.subject) for one in history.runs()] == [
            ("01", "b"),
            ("01", "a"),
            ("02", "a"),
            ("04", "c"),
        ]
    with pytest.raises(InputError, match="no such folder"):
        rebuilt(path, tmp_path / "gone")


def test_a_store_of_another_version_and_one_that_is_not_there_are_said(path: Path) -> None:
    with pytest.raises(InputError, match="no history yet"):
        members("*", path)
    History(path).__exit__(None, None, None)
    with sqlite3.connect(path) as store:
        store.execute("PRAGMA user_version = 2")
    store.close()
    with pytest.raises(InputError, match="should be 1, it is 2"):
        History(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot use the history"):
        History(path)


def test_the_store_lies_where_the_variable_says_or_programs_keep_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("COLLAPSE_HISTORY", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert store_path() == Path("/home/me/.local/share/collapse/history.sqlite")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert store_path() == Path("/home/me/.local/share/collapse/history.sqlite")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert store_path() == Path("/data/collapse/history.sqlite")
    monkeypatch.setenv("COLLAPSE_HISTORY", "here.sqlite")
    assert store_path() == Path("here.sqlite")
