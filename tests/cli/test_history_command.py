"""`--record` and `collapse history`, `collapse batch` and Ctrl-C, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file

from collapse_cli.cli.app import app, run
from collapse_cli.core.report import from_json

RANK = ("--select", "effective-rank", "--isolated")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run of three checkpoints that loses rank, and a history of its own."""
    (tmp_path / "run").mkdir()
    generator = torch.Generator().manual_seed(0)
    for step, rank in ((100, 24), (200, 6), (300, 1)):
        # whole numbers: the product has its rank exactly
        left, right = (torch.randint(-9, 10, size, generator=generator) for size in ((32, rank), (rank, 24)))
        save_file({"fc.weight": (left @ right).float()}, tmp_path / "run" / f"ckpt-{step}.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("COLLAPSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLLAPSE_HISTORY", str(tmp_path / "history.sqlite"))
    return tmp_path


def test_every_flag_of_batch_has_its_variable() -> None:
    options = [one for one in typer.main.get_command(app).commands["batch"].params if one.param_type_name == "option"]
    shared = {"-v": "COLLAPSE_VERBOSITY", "-f": "COLLAPSE_FORMAT", "-o": "COLLAPSE_OUTPUT", "-q": "COLLAPSE_QUIET"}
    for option in [one for one in options if "--help" not in one.opts]:
        short, long = option.opts[0], option.opts[-1]
        assert option.envvar == shared.get(short, "COLLAPSE_" + long.removeprefix("--").upper().replace("-", "_"))
    assert {"--jobs", "--out", "--rehash", "--executor", "--record"} <= {one.opts[0] for one in options}


def test_recorded_runs_are_listed_and_their_values_printed_over_time(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["history"]) == 2
    assert "no history yet" in capsys.readouterr().err
    for step in (100, 200, 300):
        run(["scan", f"run/ckpt-{step}.safetensors", *RANK, "--record", "-q"])
    run(["scan", "run", *RANK, "-q"])
    capsys.readouterr()
    assert run(["history", "-f", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["subject"] for one in listed] == [f"run/ckpt-{step}.safetensors" for step in (100, 200, 300)]
    values = ["history", "run/*", "--rule", "numerical_rank", "--site", "fc.*"]
    assert run([*values, "-f", "csv", "-o", "values.csv", "-o", "values.json"]) == 0
    text = capsys.readouterr().out
    assert [float(row["value"]) for row in csv.DictReader(io.StringIO(text))] == [24.0, 6.0, 1.0]
    assert (here / "values.csv").read_text() == text
    assert [one["value"] for one in json.loads((here / "values.json").read_text())] == [24.0, 6.0, 1.0]
    assert run([*values, "--color", "always"]) == 0
    assert "numerical_rank" in capsys.readouterr().out
    assert run(["history", "other/*", "-f", "csv"]) == 3
    shown = capsys.readouterr()
    assert shown.out.startswith("started,subject,")
    assert 'matches "other/*"' in shown.err
    assert run(["history", "--since", "2999-01-01"]) == 3
    assert run(["history", "--since", "yesterday"]) == 2
    assert run(["history", "-o", "values.txt"]) == 2


def test_a_trend_takes_its_members_from_the_history(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (100, 200, 300):
        run(["scan", f"run/ckpt-{step}.safetensors", *RANK, "--record", "-q"])
    capsys.readouterr()
    assert run(["trend", "history:run/*", "--isolated", "-f", "json", "--record", "--exit-zero"]) in (0, 2)
    report = from_json(capsys.readouterr().out)
    (subject,) = report.subjects
    assert [part.id for part in subject.parts] == [f"run/ckpt-{step}.safetensors" for step in (100, 200, 300)]
    assert subject.measurements
    run(["history", "*..*", "-f", "json"])
    assert [one["kind"] for one in json.loads(capsys.readouterr().out)] == ["run"]


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_says_what_to_install(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["history", "-o", "values.parquet"]) == 2
    assert "Parquet needs pyarrow" in capsys.readouterr().err


def test_parquet_holds_the_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pandas as pd

    run(["scan", "run", *RANK, "--record", "-q"])
    assert run(["history", "--rule", "numerical_rank", "-o", "values.parquet"]) == 0
    assert sorted(pd.read_parquet(here / "values.parquet")["value"]) == [1.0, 6.0, 24.0]


def test_a_damaged_history_costs_no_report_and_is_rebuilt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "history.sqlite").write_text("not a database")
    assert run(["scan", "run", *RANK, "--record", "-f", "json", "-o", "kept.json"]) == 2
    shown = capsys.readouterr()
    assert "the history is damaged" in shown.err
    assert len(from_json(shown.out).subjects) == 3
    assert run(["history"]) == 2
    assert run(["history", "--rebuild", "."]) == 0
    shown = capsys.readouterr()
    assert "damaged-1" in shown.err
    assert len(shown.out.splitlines()) == 3


def test_history_needs_no_torch(here: Path) -> None:
    script = "import sys; sys.modules['torch'] = None\nfrom collapse_cli.cli.app import run\n"
    script += "run(['history']); sys.exit(run(['history', '--rebuild', '.']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr


def test_batch_of_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["batch", "run", *RANK, "--out", "out", "--jobs", "2"]
    assert run([*arguments, "--record", "--progress", "-f", "json"]) == 1
    shown = capsys.readouterr()
    report = from_json(shown.out)
    assert report.subjects[0].id == "run/ckpt-300.safetensors", "the worst first"
    lines = [line for line in shown.err.splitlines() if line.startswith("scanning: ")]
    assert [line.partition(",")[0] for line in lines] == [f"scanning: {number} of 3 subjects" for number in (1, 2, 3)]
    assert from_json((here / "out" / "summary.json").read_text()) == report
    run(["history", "-f", "json"])
    assert sorted(one["subject"] for one in json.loads(capsys.readouterr().out)) == sorted(
        one.id for one in report.subjects
    )
    assert run(["gate", "out", "--isolated", "-q"]) == 1
    for wrong, said in (
        (["batch", "gone"], "no such folder"),
        (["batch", "run", "--executor", "dask"], "should be one of process, ray"),
        (["batch", "run", "--jobs", "0"], "--jobs"),
        (["batch", "run", "--subject-id", "x"], "one id per subject"),
        (["batch", ""], "PATH is empty"),
    ):
        assert run(wrong) == 2
        assert said in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_control_c_ends_a_batch_with_130_and_keeps_what_is_finished(here: Path) -> None:
    whole = (here / "run" / "ckpt-100.safetensors").read_bytes()
    for number in range(200):
        (here / "run" / f"more-{number}.safetensors").write_bytes(whole)
    running = subprocess.Popen(
        [sys.executable, "-m", "collapse_cli", "batch", "run", *RANK, "--out", "out", "--jobs", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # the whole group, as a terminal does it
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    )
    end = time.monotonic() + 60
    while not list((here / "out").rglob("*.safetensors.json")):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.decode().endswith("error: interrupted\n")
    assert "Traceback" not in err.decode()
    kept = list((here / "out" / "subjects").rglob("*.json"))
    assert 0 < len(kept) < 203
    for file in kept:
        from_json(file.read_text())
