"""A folder measured by workers: the same as one scan of it, whatever is killed, changed or refused on the way."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import collapse_cli.batch as batches
from collapse_cli.batch import BatchOptions, Progress, batch
from collapse_cli.batch.results import locked, report_file
from collapse_cli.batch.subject import CHANGED, Task, measure
from collapse_cli.batch.workers import Workers
from collapse_cli.core.policy import Override, Policy
from collapse_cli.core.report import Report, Subject, from_json
from collapse_cli.core.site import Role
from collapse_cli.errors import BadPolicy, InputError, TimedOut, WorkerDied
from collapse_cli.gate import gate
from collapse_cli.runs import Observer, ScanOptions, scan

RANK = Policy(select=("effective-rank",))
#: Long enough ago for a time of change to be trusted.
SETTLED = time.time() - 100


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder `zoo` of four sound checkpoints, one of them collapsed, and a broken one."""
    generator = torch.Generator().manual_seed(0)
    zoo = tmp_path / "zoo"
    (zoo / "inner").mkdir(parents=True)
    for name in ("a", "b", "inner/c"):
        save_file({"fc.weight": torch.randn(32, 24, generator=generator)}, zoo / f"{name}.safetensors")
    save_file({"fc.weight": torch.ones(32, 24)}, zoo / "ones.safetensors")
    (zoo / "broken.safetensors").write_bytes(b"\x10" + bytes(7) + b"{not json at all")
    (zoo / "notes.txt").write_text("no model")
    for file in zoo.rglob("*.safetensors"):
        os.utime(file, (SETTLED, SETTLED))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Inline(Executor):
    """Runs a call at once, in this process, and remembers the tasks."""

    tasks: list[Task] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(args[1])
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever waits for the result decides what it means
            future.set_exception(error)
        return future

    def kill(self) -> None:
        pass


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks of batches that need no processes."""
    Inline.tasks = []
    monkeypatch.setattr(batches, "Workers", Inline)
    return Inline.tasks


def names(tasks: list[Task]) -> list[str]:
    """Of the tasks since the last time."""
    found = sorted(task.path.stem for task in tasks)
    tasks.clear()
    return found


def parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Every report file below a folder without what is volatile."""
    found = {}
    for file in sorted(folder.rglob("*.json")):
        if file.name != "digests.json":
            whole = json.loads(file.read_text())
            del whole["provenance"]
            found[file.relative_to(folder).as_posix()] = whole
    return found


# --- the same as a scan ----------------------------------------------------------------------------------------------


def test_a_batch_says_what_a_scan_of_the_folder_says_and_writes_a_report_each(here: Path) -> None:
    report = batch("zoo", RANK, ScanOptions(), BatchOptions(jobs=2))
    whole = scan(["zoo"], RANK)
    assert {one.id: one for one in report.subjects} == {one.id: one for one in whole.subjects}
    assert (report.verdict, report.exit_code) == (whole.verdict, whole.exit_code)
    assert [one.id for one in report.subjects] == [
        "zoo/broken.safetensors",
        "zoo/ones.safetensors",
        "zoo/a.safetensors",
        "zoo/b.safetensors",
        "zoo/inner/c.safetensors",
    ], "failed first, then errors, then names"
    out = here / "collapse-report"
    assert from_json((out / "summary.json").read_text()) == report
    for one in report.subjects:
        alone = from_json((out / "subjects" / f"{one.id}.json").read_text())
        assert alone.subjects == (one,)
        assert alone.provenance.analyzers == ("effective-rank",)
        assert (out / "subjects" / f"{one.id}.html").read_text().startswith("<!")
    rows = (out / "summary.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(s.measurements) + len(s.skips) + len(s.failures) for s in report.subjects)
    index = (out / "summary.html").read_text()
    assert all(f'href="subjects/{one.id}.html"' in index for one in report.subjects)
    again = gate([str(out)], RANK)
    assert sorted(one.id for one in again.subjects) == sorted(one.id for one in report.subjects)


def test_who_watches_hears_of_every_subject_and_of_bytes(here: Path, inline: list[Task]) -> None:
    steps: list[Progress] = []
    ended: list[str] = []
    kept: list[Report] = []
    how = BatchOptions(advances=steps.append, keep=kept.append)
    batch("zoo", RANK, ScanOptions(exclude=("broken*",)), how, Observer(ends=lambda one: ended.append(one.id)))
    everything = sum(file.stat().st_size for file in Path("zoo").rglob("*.safetensors") if file.stem != "broken")
    assert [(one.subjects, one.all_subjects, one.reused) for one in steps] == [(n, 4, 0) for n in (1, 2, 3, 4)]
    assert (steps[-1].bytes, steps[-1].all_bytes) == (everything, everything)
    assert sorted(ended) == sorted(one.name for one in steps)
    assert [report.subjects[0].id for report in kept] == ended
    for report in kept:
        assert report == from_json((Path("collapse-report") / report_file(report.subjects[0].id)).read_text())
    batch("zoo", RANK, ScanOptions(exclude=("broken*",)), replace(how, advances=steps.append))
    assert steps[-1].reused == 4


@pytest.mark.parametrize(("name", "code"), [("notes", 3), ("zoo", 2), ("zoo/inner", 0), ("zoo/ones.safetensors", 1)])
def test_the_exit_code_is_that_of_a_scan(here: Path, inline: list[Task], name: str, code: int) -> None:
    (here / "notes").mkdir()
    assert batch(name, RANK).exit_code == code == scan([name], RANK).exit_code
    with pytest.raises(InputError, match="no such folder"):
        batch("gone", RANK)
    with pytest.raises(BadPolicy, match="one id per subject"):
        batch(name, RANK, ScanOptions(subject_id="mine"))


# --- resume ----------------------------------------------------------------------------------------------------------


def test_only_what_is_new_changed_or_failed_is_measured_again(here: Path, inline: list[Task]) -> None:
    first = batch("zoo", RANK)
    assert names(inline) == ["a", "b", "broken", "c", "ones"]
    before = parts(here / "collapse-report")
    assert batch("zoo", RANK).subjects == first.subjects
    assert names(inline) == ["broken"]
    assert parts(here / "collapse-report") == before
    save_file({"fc.weight": torch.eye(24)}, here / "zoo" / "b.safetensors")
    save_file({"fc.weight": torch.eye(24)}, here / "zoo" / "new.safetensors")
    (here / "zoo" / "broken.safetensors").unlink()
    second = batch("zoo", RANK)
    assert names(inline) == ["b", "new"]
    found = {one.id: one for one in second.subjects}
    assert found["zoo/b.safetensors"] == scan(["zoo/b.safetensors"], RANK).subjects[0]
    (here / "collapse-report" / "subjects" / "zoo" / "a.safetensors.json").write_text('{"schema_version": "1.0", "to')
    batch("zoo", RANK)
    assert "a" in names(inline), "half a report counts for nothing"


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (replace(RANK, select=("effective-rank", "stable-rank")), ScanOptions()),
        (replace(RANK, intent="classifier"), ScanOptions()),
        (RANK, ScanOptions(seed=1)),
        (RANK, ScanOptions(sites=("fc*",))),
        (RANK, ScanOptions(ignore_sites=("x*",))),
        (RANK, ScanOptions(roles={"fc.weight": Role.HEAD})),
        (RANK, ScanOptions(arrays={"features": "fc.weight"})),
        (RANK, ScanOptions(kind="checkpoint")),
        (RANK, ScanOptions(max_memory=1 << 20)),
    ],
    ids=["selection", "intent", "seed", "sites", "ignored sites", "roles", "arrays", "kind", "memory"],
)
def test_what_the_numbers_depend_on_is_measured_again(
    here: Path, inline: list[Task], policy: Policy, options: ScanOptions
) -> None:
    only = replace(options, include=("a.*",))
    batch("zoo", RANK, ScanOptions(include=("a.*",)))
    batch("zoo", policy, only)
    assert names(inline) == ["a", "a"]
    batch("zoo", policy, only)
    assert names(inline) == []


def test_another_version_of_the_program_measures_again(
    here: Path, inline: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch("zoo/inner", RANK)
    monkeypatch.setattr("collapse_cli.batch.resumed.__version__", "99.0")
    batch("zoo/inner", RANK)
    assert names(inline) == ["c", "c"]


def test_limits_judge_stored_reports_again_without_measuring(here: Path, inline: list[Task]) -> None:
    batch("zoo/inner", RANK)
    names(inline)
    # a share of the directions, which no matrix passes
    strict = replace(RANK, limits=(Override("effective-rank/effective_rank_sigma", "ours", error=1e9),))
    report = batch("zoo/inner", strict)
    assert names(inline) == []
    assert (report.exit_code, [f.severity.value for f in report.subjects[0].findings]) == (1, ["error"])
    stored = from_json((here / "collapse-report" / report_file(report.subjects[0].id)).read_text())
    assert (stored.subjects, stored.exit_code) == (report.subjects, 1)
    assert batch("zoo/inner", RANK).exit_code == 0


def test_a_digest_is_remembered_by_size_and_time_until_rehash_distrusts_it(here: Path, inline: list[Task]) -> None:
    file = here / "zoo" / "inner" / "c.safetensors"
    before = batch("zoo/inner", RANK).subjects[0]
    names(inline)
    other = bytearray(file.read_bytes())
    other[-1] ^= 0x80
    file.write_bytes(other)
    os.utime(file, (SETTLED, SETTLED))
    assert batch("zoo/inner", RANK).subjects[0].digest == before.digest
    assert names(inline) == [], "same size, same time: it is believed to be the same"
    after = batch("zoo/inner", RANK, ScanOptions(), BatchOptions(rehash=True)).subjects[0]
    assert after.digest != before.digest
    assert after == scan(["zoo/inner"], RANK).subjects[0]
    file.touch()
    inline.clear()
    assert batch("zoo/inner", RANK).subjects[0] == after
    assert [task.known for task in inline] == [after.digest], "touched: the digest is made again, and is the same"


def test_a_file_changed_just_now_is_not_trusted_by_its_time(here: Path, inline: list[Task]) -> None:
    (here / "zoo" / "inner" / "c.safetensors").touch()
    batch("zoo/inner", RANK)
    batch("zoo/inner", RANK)
    assert [task.known is None for task in inline] == [True, False]


def test_seconds_count_only_for_subjects_that_had_too_few(here: Path, inline: list[Task]) -> None:
    batch("zoo/inner", RANK, ScanOptions(timeout=500.0))
    batch("zoo/inner", RANK, ScanOptions(timeout=600.0))
    assert names(inline) == ["c"]
    late = batch("zoo/inner", replace(RANK, select=("stable-rank",)), ScanOptions(timeout=0.0)).subjects[0]
    assert late.status == "partial"
    batch("zoo/inner", replace(RANK, select=("stable-rank",)), ScanOptions(timeout=600.0))
    assert names(inline) == ["c", "c"]


def test_a_subject_that_changes_while_it_is_measured_gets_no_digest(
    here: Path, inline: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    from collapse_cli.batch import subject as of_one

    real = of_one.measured

    def changing(path: Path, *rest: Any) -> tuple[Subject, tuple[str, ...]]:
        found = real(path, *rest)
        path.touch()
        return found

    monkeypatch.setattr(of_one, "measured", changing)
    report = batch("zoo/inner", RANK)
    assert report.subjects[0].digest is None
    assert any(CHANGED in notice for notice in report.provenance.notices)
    monkeypatch.undo()


# --- what goes wrong -------------------------------------------------------------------------------------------------

FATAL = """
import os, signal, time
from collapse_cli.batch.subject import measure

def fatal(shared, task):
    if task.path.stem == "a":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.path.stem == "b":
        time.sleep(100)
    if task.path.stem == "ones":
        raise ZeroDivisionError("by what?")
    return measure(shared, task)
"""


def test_a_subject_that_kills_hangs_or_breaks_its_worker_is_failed_and_the_others_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "fatal_measure.py").write_text(FATAL)
    monkeypatch.syspath_prepend(here)
    import fatal_measure  # type: ignore[import-not-found]

    monkeypatch.setattr(batches, "measure", fatal_measure.fatal)
    monkeypatch.setattr(batches, "_LATE_SECONDS", 0.5)
    report = batch("zoo", RANK, ScanOptions(timeout=2.0), BatchOptions(jobs=2))
    found = {Path(one.path).stem: one for one in report.subjects}
    assert found["c"].status == "complete"
    errors = {name: one.failures[0].error for name, one in found.items() if one.status == "failed"}
    assert errors == {
        "a": "WorkerDied",
        "b": "TimedOut",
        "ones": "ZeroDivisionError",
        "broken": "UnreadableCheckpoint",
    }
    assert "SIGKILL" in found["a"].failures[0].message
    assert report.exit_code == 2
    stored = from_json((here / "collapse-report" / report_file(found["a"].id)).read_text())
    assert stored.subjects == (found["a"],)
    monkeypatch.setattr(batches, "measure", measure)
    healed = batch("zoo", RANK, ScanOptions(), BatchOptions(jobs=2))
    assert [one.status for one in healed.subjects] == ["failed", *["complete"] * 4]


def test_a_full_disk_is_said_and_keeps_what_is_finished(
    here: Path, inline: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.fsync, [4]

    def full(descriptor: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadPolicy, match="No space left"):
        batch("zoo", RANK)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    out = here / "collapse-report" / "subjects"
    assert len(list(out.rglob("*.json"))) == 2, "an HTML page and a report each"
    assert list(out.rglob(".*")) == []
    monkeypatch.setattr(batches, "Workers", Inline)
    inline.clear()
    batch("zoo", RANK, ScanOptions(exclude=("broken*",)))
    assert [task.path.stem for task in inline if task.known is None] == ["ones", "c"]


def test_a_folder_that_takes_no_files_is_said_before_anything_is_measured(here: Path, inline: list[Task]) -> None:
    (here / "taken").write_text("a file")
    with pytest.raises(BadPolicy, match=r'cannot write to "taken'):
        batch("zoo", RANK, ScanOptions(), BatchOptions(results=Path("taken")))
    with pytest.raises(BadPolicy, match="cannot write"):
        batch("zoo", RANK, ScanOptions(), BatchOptions(results=Path("/proc/self/nothing")))
    assert inline == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(here: Path, inline: list[Task]) -> None:
    (here / "locked").mkdir(mode=0o500)
    with pytest.raises(BadPolicy, match="Permission denied"):
        batch("zoo", RANK, ScanOptions(), BatchOptions(results=Path("locked/out")))


def test_a_second_batch_is_refused_and_a_dead_one_holds_nobody_up(here: Path, inline: list[Task]) -> None:
    with locked(Path("collapse-report")), pytest.raises(BadPolicy, match=f"process {os.getpid()} on "):
        batch("zoo", RANK)
    script = "from pathlib import Path; import sys, time; from collapse_cli.batch.results import locked\n"
    script += "with locked(Path('collapse-report')): print('held', flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(BadPolicy, match=f"process {other.pid} on "):
            batch("zoo", RANK)
        other.kill()
    batch("zoo/inner", RANK)
    assert names(inline) == ["c"]


def test_links_loops_and_thousands_of_other_files(here: Path, inline: list[Task]) -> None:
    zoo = here / "zoo"
    (zoo / "inner" / "loop").symlink_to(zoo)
    (zoo / "self.safetensors").symlink_to("self.safetensors")
    (zoo / "same.safetensors").symlink_to("a.safetensors")
    (zoo / "gone.safetensors").symlink_to("nowhere")
    for number in range(10_000):
        (zoo / f"log-{number}.txt").touch()
    (zoo / "collapse-report").mkdir()
    begun = time.monotonic()
    report = batch("zoo", RANK, ScanOptions(), BatchOptions(results=zoo / "collapse-report"))
    assert time.monotonic() - begun < 20
    assert {Path(one.path).stem: one.status for one in report.subjects} == {
        **dict.fromkeys(("a", "b", "c", "ones"), "complete"),
        **dict.fromkeys(("broken", "self", "gone"), "failed"),
    }
    assert any("is a link to it" in notice for notice in report.provenance.notices)
    assert len(list((zoo / "collapse-report" / "subjects").rglob("*.json"))) == 7


def test_a_page_that_cannot_be_drawn_costs_the_page_alone(
    here: Path, inline: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = here / "collapse-report" / "subjects" / "zoo" / "inner" / "c.safetensors.html"
    batch("zoo/inner", RANK)
    assert page.exists()
    save_file({"fc.weight": torch.eye(24)}, here / "zoo" / "inner" / "c.safetensors")

    def broken(*_args: object) -> str:
        raise ZeroDivisionError("no axis")

    monkeypatch.setattr("collapse_cli.render.html_format.render", broken)
    report = batch("zoo/inner", RANK)
    assert report.subjects[0].status == "complete"
    assert any("could not be drawn: ZeroDivisionError: no axis" in said for said in report.provenance.notices)
    assert not page.exists(), "the page of another report would mislead"
    assert page.with_suffix(".json").exists()


def test_reports_of_subjects_that_are_gone_are_said_and_kept(here: Path, inline: list[Task]) -> None:
    batch("zoo", RANK)
    (here / "zoo" / "a.safetensors").unlink()
    report = batch("zoo", RANK)
    assert any("1 report there is of subjects that this batch did not find" in one for one in report.provenance.notices)
    assert (here / "collapse-report" / "subjects" / "zoo" / "a.safetensors.json").exists()
    assert "zoo/a.safetensors" not in {one.id for one in report.subjects}


def test_an_interrupt_keeps_what_is_finished(here: Path, inline: list[Task]) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.subjects == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch("zoo", RANK, ScanOptions(), BatchOptions(advances=interrupt))
    assert not (here / "collapse-report" / "summary.json").exists()
    inline.clear()
    report = batch("zoo", RANK)
    assert len(report.subjects) == 5
    assert [task.path.stem for task in inline if task.known is None] == ["broken"], "what lay there was kept"


# --- names of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "file"),
    [
        ("runs/7/model.safetensors", "subjects/runs/7/model.safetensors.json"),
        ("/data/model.pt", "subjects/data/model.pt.json"),
        ("../zoo/a.pt", "subjects/%2E./zoo/a.pt.json"),
        (".", "subjects/%2E.json"),
        ("m.json/x", "subjects/m%2Ejson/x.json"),
        (".hidden/x", "subjects/%2Ehidden/x.json"),
        ("a\nb", "subjects/a%0Ab.json"),
        ("100%", "subjects/100%25.json"),
    ],
)
def test_a_report_lies_under_the_id_of_its_subject(identity: str, file: str) -> None:
    assert report_file(identity) == Path(file)


@given(st.lists(st.text(st.sampled_from("a./%~\udc80") | st.characters(), min_size=1, max_size=300), unique=True))
def test_every_id_has_a_file_of_its_own_inside_the_folder(identities: list[str]) -> None:
    distinct = {identity.lstrip("/") for identity in identities}
    files = {report_file(identity) for identity in distinct}
    assert len(files) == len(distinct)
    folders = {folder for file in files for folder in file.parents}
    assert not folders & files, "no file where a folder is needed"
    for file in files:
        assert file.parts[0] == "subjects"
        assert file.suffix == ".json"
        assert not any(name.startswith(".") or len(name.encode()) > 200 for name in file.parts)


# --- killed at random ------------------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    # a thread is the parent of what it begins
    of_threads = (file.read_text() for file in Path(f"/proc/{process}/task").glob("*/children"))
    return [int(word) for words in of_threads for word in words.split()]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


@dataclass(frozen=True)
class Running:
    """A batch of the command line over `zoo`, and how many reports it has written."""

    process: subprocess.Popen[bytes]
    before: int

    @property
    def written(self) -> int:
        return len(list(Path("out/subjects").rglob("*.json"))) - self.before


@pytest.fixture
def started() -> Iterator[Callable[[], Running]]:
    begun: list[subprocess.Popen[bytes]] = []

    def start() -> Running:
        before = len(list(Path("out/subjects").rglob("*.json")))
        command = [sys.executable, "-m", "collapse_cli", "batch", "zoo", "--out", "out", "--jobs", "2", "--isolated"]
        command += ["--select", "effective-rank", "-q"]
        # a file, not a pipe: nobody reads while the batch runs
        with Path("log").open("ab") as log:
            begun.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log))
        return Running(begun[-1], before)

    yield start
    for process in begun:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_killed_at_random_and_resumed_it_ends_as_if_undisturbed(
    here: Path, started: Callable[[], Running], inline: list[Task]
) -> None:
    generator = torch.Generator().manual_seed(1)
    for number in range(16):
        tensors = {f"{i}.weight": torch.randn(48, 48, generator=generator) for i in range(6)}
        save_file(tensors, here / "zoo" / f"more-{number}.safetensors")
    batch("zoo", RANK, ScanOptions(), BatchOptions(results=Path("undisturbed")))
    chance = random.Random(0)
    for written in (1, 5):
        running = started()
        until(lambda running=running, written=written: running.written >= written)
        workers = children(running.process.pid)
        assert workers
        time.sleep(chance.uniform(0, 0.05))
        running.process.kill()
        running.process.wait()
        # no orphan goes on writing
        until(lambda workers=workers: not any(is_alive(worker) for worker in workers), 20)
        for file in Path("out/subjects").rglob("*.json"):
            if not file.name.startswith("."):
                from_json(file.read_text())
    running = started()
    until(lambda: running.written >= 1 or running.process.poll() is not None)
    for worker in children(running.process.pid):
        os.kill(worker, signal.SIGKILL)
    assert running.process.wait(60) == 2
    assert parts(here / "out") == parts(here / "undisturbed")
    assert list(Path("out").rglob(".*.json.*")) == [], "what the dead were writing is gone"


# --- executors -------------------------------------------------------------------------------------------------------


def test_workers_answer_run_again_and_stop() -> None:
    with Workers(2, seconds=1.5) as pool:
        answers = [pool.submit(pow, number, 2) for number in range(20)]
        deadly = pool.submit(signal.raise_signal, signal.SIGKILL)
        leaving = pool.submit(os._exit, 3)
        slow = pool.submit(time.sleep, 100)
        wrong = pool.submit(int, "x")
        # neither can be pickled on the way back
        odd, odder = pool.submit(eval, "(i for i in ())"), pool.submit(exec, "class E(Exception): ...\nraise E(7)")
        answers += [pool.submit(pow, number, 2) for number in range(20)]
    assert [one.result() for one in answers] == [number**2 for number in range(20)] * 2
    with pytest.raises(WorkerDied, match="died 2 times, it was killed by SIGKILL"):
        deadly.result()
    with pytest.raises(WorkerDied, match="exit code 3"):
        leaving.result()
    with pytest.raises(TimedOut, match=r"did not answer for 1\.5 seconds"):
        slow.result()
    with pytest.raises(ValueError, match="invalid literal"):
        wrong.result()
    with pytest.raises(TypeError, match="pickle"):
        odd.result()
    with pytest.raises(RuntimeError, match="E: 7"):
        odder.result()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(pow, 1, 1)


def test_a_task_that_cost_one_worker_is_run_again(tmp_path: Path) -> None:
    once = f"open({str(tmp_path / 'seen')!r}, 'x') and __import__('os').kill(__import__('os').getpid(), 9)"
    with Workers(1) as pool:
        first = pool.submit(exec, f"try: {once}\nexcept FileExistsError: pass")
        assert first.result(30) is None
    assert (tmp_path / "seen").exists()


def test_workers_that_cannot_begin_fail_what_waits_and_kill_leaves_none() -> None:
    never = Workers(2, prepare=partial(os._exit, 7))
    with never, pytest.raises(WorkerDied, match=r"in a row died before they were ready.*exit code 7"):
        never.submit(pow, 2, 2).result(60)
    stopped = Workers(1)
    running, waiting = stopped.submit(time.sleep, 100), stopped.submit(time.sleep, 100)
    until(running.running)
    (worker,) = stopped.processes
    stopped.kill()
    with pytest.raises(WorkerDied, match="stopped"):
        running.result(1)
    assert waiting.cancelled()
    assert not is_alive(worker)


def test_ray_writes_the_same_reports_and_outlives_a_worker(here: Path, inline: list[Task]) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    from collapse_cli.batch.ray_workers import RayWorkers

    batch("zoo", RANK, ScanOptions(), BatchOptions(results=Path("undisturbed")))
    # under Ray's own threads and sockets, which it leaves to the garbage collector
    batch("zoo", RANK, ScanOptions(), BatchOptions(results=Path("out"), executor="ray", jobs=2))
    assert parts(here / "out") == parts(here / "undisturbed")
    once = f"open({str(here / 'seen')!r}, 'x') and __import__('os').kill(__import__('os').getpid(), 9)"
    with RayWorkers(1) as pool:
        first = pool.submit(exec, f"try: {once}\nexcept FileExistsError: pass")
        deadly = pool.submit(signal.raise_signal, signal.SIGKILL)
        wrong = pool.submit(int, "x")
        assert first.result(60) is None
        with pytest.raises(WorkerDied, match="died 2 times"):
            deadly.result(60)
        with pytest.raises(ValueError, match="invalid literal"):
            wrong.result(60)


def test_without_ray_the_executor_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapse_cli.batch.ray_workers.find_spec", lambda _name: None)
    with pytest.raises(InputError, match="needs Ray"):
        batch("zoo", RANK, ScanOptions(), BatchOptions(executor="ray"))
