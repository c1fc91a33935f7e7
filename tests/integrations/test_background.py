"""Scans beside a training: real processes over small files; only the interpreter is replaced, to make one fail."""

import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.core.finding import Severity
from collapse_cli.core.policy import Policy
from collapse_cli.errors import BadPolicy, UnknownAnalyzer
from collapse_cli.integrations.background import BESIDE, Scanner, Watch, quietly
from collapse_cli.integrations.scan_process import Request, environment, report_file
from collapse_cli.runs import ScanOptions
from collapse_cli.stored import read_report

RANK = Policy(select=("effective-rank",))
#: Seconds in which a scan of a small file is certainly done, on a machine with other work.
PATIENCE = 120.0


def request(path: Path, step: int = 1) -> Request:
    return Request(path, step, RANK, BESIDE, ("effective-rank/*",))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "step-1.safetensors"
    save_file({"net.0.weight": torch.ones(64, 32), "net.1.weight": torch.eye(32)}, path)
    return path


@pytest.fixture
def slow_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))


def test_the_report_lies_whole_beside_the_checkpoint_and_the_answer_says_it_in_short(checkpoint: Path) -> None:
    scanner = Scanner()
    scanner.submit(request(checkpoint))
    assert scanner.wait(PATIENCE)
    (one,) = scanner.finished()
    assert (one.failure, one.step, one.worst, one.outcome) == ("", 1, Severity.ERROR, "fail")
    assert one.report == checkpoint.parent / "step-1.collapse.json" == report_file(checkpoint)
    report = read_report(one.report)
    assert report.provenance.device == "cpu"
    assert [finding.measurement.site for finding in report.subjects[0].findings][:1] == ["net.0.weight"]
    assert one.scalars is not None
    # a matrix of ones has one direction, the identity 32: the median of two is their mean
    assert one.scalars["collapse/effective-rank/effective_rank_lambda"] == pytest.approx((1 + 32) / 2, rel=1e-6)
    assert one.scalars["collapse/errors"] >= 1
    assert "net.0.weight" in one.messages[0]
    assert scanner.finished() == []
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["step-1.collapse.json", "step-1.safetensors"]


def test_a_checkpoint_that_is_gone_or_broken_is_a_failure_and_the_next_is_scanned(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = checkpoint.with_name("broken.safetensors")
    broken.write_bytes(b"\x10" + bytes(7) + b"{not json at all")
    watch = Watch(RANK, stop_on="error")
    with caplog.at_level(logging.INFO, "collapse"):
        for step, path in enumerate((checkpoint.with_name("gone.safetensors"), broken, checkpoint)):
            watch.begin(path, step)
            assert watch._scanner is not None
            assert watch._scanner.wait(PATIENCE)
        found = watch.news()
    assert [(one.path.name, one.outcome) for one in found] == [
        ("broken.safetensors", "incomplete"),
        ("step-1.safetensors", "fail"),
    ]
    assert watch.is_over
    assert "gone.safetensors is not scanned: it was removed before its turn" in caplog.text
    assert "broken.safetensors: incomplete" in caplog.text
    assert "the training is stopped" in caplog.text


def test_handing_over_returns_at_once_and_of_too_many_the_oldest_is_given_up(
    checkpoint: Path, slow_interpreter: None, caplog: pytest.LogCaptureFixture
) -> None:
    scanner = Scanner(waiting=2)
    begun = time.monotonic()
    scanner.submit(request(checkpoint, 0))
    while scanner._process is None:
        time.sleep(0.01)
        assert time.monotonic() - begun < 10
    for step in range(1, 5):
        scanner.submit(request(checkpoint, step))
    assert [waiting.step for waiting in scanner._waiting] == [3, 4]
    assert caplog.text.count("newer checkpoints wait") == 2
    assert not scanner.wait(0.05)
    scanner.close()
    assert scanner.wait(10)
    assert time.monotonic() - begun < 30  # the interpreter sleeps for 60
    assert [one.failure for one in scanner.finished()] == ["its scan ended with code -9"]


def test_the_end_of_the_training_waits_no_longer_than_allowed(
    checkpoint: Path, slow_interpreter: None, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(RANK)
    watch.begin(checkpoint, 1)
    begun = time.monotonic()
    assert watch.end(0.2) == []
    assert time.monotonic() - begun < 10
    assert "not done within 0.2 seconds" in caplog.text


def test_a_process_that_dies_is_a_failure_with_its_last_words(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dying"
    program.write_text("#!/bin/sh\ncat > /dev/null\necho out of memory >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    scanner = Scanner()
    scanner.submit(request(checkpoint))
    assert scanner.wait(PATIENCE)
    assert [one.failure for one in scanner.finished()] == ["its scan ended with code 3: out of memory"]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no such program"))
    scanner.submit(request(checkpoint))
    assert scanner.wait(PATIENCE)
    assert ["FileNotFoundError" in one.failure for one in scanner.finished()] == [True]


def test_a_folder_has_its_report_inside(tmp_path: Path) -> None:
    assert report_file(tmp_path) == tmp_path / "collapse.json"


def test_the_gpu_is_the_trainings_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for device, seen in {"cpu": "", "auto": "", "cuda:1": "0,1"}.items():
        options = ScanOptions(device=device, threads=2)
        variables = environment(Request(tmp_path, 0, RANK, options, ()))
        assert (variables["CUDA_VISIBLE_DEVICES"], variables["OMP_NUM_THREADS"]) == (seen, "2")


def test_what_does_not_exist_is_refused_before_the_training() -> None:
    with pytest.raises(UnknownAnalyzer, match='"efective-rank"'):
        Watch(Policy(select=("efective-rank",)))
    with pytest.raises(UnknownAnalyzer, match="no rule or pattern") as refused:
        Watch(rules=["effective-rank/effective_rank_lamda"])
    assert "effective-rank/effective_rank_lambda" in refused.value.hint
    with pytest.raises(BadPolicy, match="should be warning or error"):
        Watch(stop_on="fatal")


def test_an_error_of_the_watch_is_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    @quietly
    def failing() -> None:
        raise RuntimeError("the disk is full")

    failing()
    assert "the training goes on" in caplog.text
    assert "the disk is full" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="an orphan is recognised by its new parent")
def test_a_scan_ends_with_the_training_that_began_it(tmp_path: Path) -> None:
    child = (
        "import os, threading; from collapse_cli.integrations.scan_process import _end_with; _end_with(os.getppid())"
    )
    parent = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); print(child.pid, flush=True); time.sleep(8)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(6)
        os.kill(pid, 0)  # raises if it is not there
        process.kill()
    deadline = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
