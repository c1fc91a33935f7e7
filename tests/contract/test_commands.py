"""What the commands promise: exit codes, streams, messages, variables."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file

from collapse_cli.cli.app import app, run
from collapse_cli.core.report import from_json

RANK = ("--select", "effective-rank")
MEASURING = ("scan",)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a healthy, a collapsed, a broken, a partly readable and an integer checkpoint."""
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no model")
    save_file({"fc.weight": torch.randn(32, 24, generator=generator)}, tmp_path / "zoo" / "good.safetensors")
    save_file({"fc.weight": torch.ones(32, 24)}, tmp_path / "zoo" / "bad.safetensors")
    save_file({"steps": torch.arange(4)}, tmp_path / "integers.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    index = {"weight_map": {"fc.weight": "one.safetensors", "fc2.weight": "two.safetensors"}}
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"fc.weight": torch.randn(32, 24, generator=generator)}, tmp_path / "torn" / "one.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", *(name for name in os.environ if name.startswith("COLLAPSE_"))):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


GOOD, BAD = "zoo/good.safetensors", "zoo/bad.safetensors"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([GOOD], 0),
        ([BAD], 1),
        ([BAD, "--exit-zero"], 0),
        ([GOOD, BAD], 1),
        (["zoo"], 1),
        (["zoo", "--exclude", "bad*"], 0),
        (["empty.safetensors"], 2),
        ([GOOD, "empty.safetensors"], 2),
        ([BAD, "empty.safetensors", "--exit-zero"], 2),
        (["empty.safetensors", "--allow-partial"], 2),
        (["torn"], 2),
        (["torn", "--allow-partial"], 0),
        ([GOOD, "integers.safetensors"], 2),
        ([GOOD, "integers.safetensors", "--allow-partial"], 0),
        (["integers.safetensors"], 3),
        (["integers.safetensors", "--allow-partial", "--exit-zero"], 3),
        (["integers.safetensors", "empty.safetensors"], 2),
        (["notes"], 3),
        (["missing.safetensors"], 2),
        ([""], 2),
        ([], 2),
    ],
    ids=lambda given: " ".join(given) or "nothing" if isinstance(given, list) else str(given),
)
def test_exit_codes_of_scan(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> None:
    assert run(["scan", *arguments, *RANK, "-f", "json"]) == code
    out = capsys.readouterr().out
    if out:
        assert from_json(out).exit_code == code


@pytest.mark.parametrize(("severity", "code"), [("info", 1), ("warning", 1), ("error", 0)])
def test_fail_on_decides_from_which_severity_on_a_finding_counts(here: Path, severity: str, code: int) -> None:
    # a matrix of ones has stable rank 1, which is a warning
    assert run(["scan", BAD, "--select", "stable-rank", "--fail-on", severity]) == code


MESSAGES = {
    "no such analyzer": (
        ["scan", "--select", "efective-rank", GOOD],
        'error: no analyzer, family or pattern "efective-rank"; did you mean "effective-rank"?\n',
    ),
    "no such format": (["scan", "-f", "jsn", GOOD], 'error: --format "jsn" should be one of table,'),
    "no such suffix": (["scan", "-o", "a.txt", GOOD], 'error: --output "a.txt" should end in one of .json,'),
    "no such folder": (
        ["scan", "-o", "x/a.json", GOOD],
        'error: --output "x/a.json" should lie in a folder that exists',
    ),
    "no such intent": (["scan", "--intent", "clasifier", GOOD], 'hint: did you mean "classifier"?'),
    "no such severity": (["scan", "--fail-on", "warn", GOOD], 'hint: did you mean "warning"?'),
    "no such role": (["scan", "--map", "codebok=vq", GOOD], 'hint: did you mean "codebook"?'),
    "no role at all": (["scan", "--map", "codebook", GOOD], "should be ROLE=NAME"),
    "no such device": (["scan", "--device", "gpu", GOOD], 'error: --device "gpu" should be auto, cpu or cuda[:N]'),
    "no such size": (["scan", "--max-memory", "3Q", GOOD], "should be a size such as 4GiB or 500MB"),
    "no path": (["scan"], "error: missing argument 'PATH...'\n"),
    "empty path": (["scan", ""], "error: PATH is empty\n"),
    "no such option": (["scan", "--colour", "never", GOOD], "error: no such option: --colour"),
    "no such command": (["scann", GOOD], "error: no such command 'scann'. Did you mean 'scan'"),
    "a path for a command": ([GOOD], f"did you mean: collapse scan {GOOD}\n"),
    "a missing path for a command": (["./x.safetensors"], "did you mean: collapse scan ./x.safetensors\n"),
    "no such metric": (["explain", "effective-rank/rank"], 'error: "effective-rank" has no metric "rank" it has '),
    "no such contract": (["schema", "reprot"], 'hint: did you mean "report"?'),
    "empty file": (["scan", "empty.safetensors"], "error: cannot read empty.safetensors: "),
    "no such file": (["inspect", "no.safetensors"], "error: cannot read no.safetensors: there is no such file"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_mistake_is_one_error_on_stderr_and_exits_with_2(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, said = MESSAGES[name]
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert "error: " in err


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("notes", "error: nothing was analysed: 1 file under notes/, none a checkpoint or a dump\n"),
        ("integers.safetensors", "error: nothing was analysed: integers.safetensors has 1 tensor, none of which"),
    ],
)
def test_an_empty_result_says_why(here: Path, capsys: pytest.CaptureFixture[str], path: str, said: str) -> None:
    assert run(["scan", path, *RANK]) == 3
    assert said in capsys.readouterr().err


def test_without_arguments_there_is_help_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("Usage: collapse [OPTIONS] COMMAND")


def test_a_bug_is_exit_2_with_its_traceback_and_never_1(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("collapse_cli.runs.scan", broken)
    assert run(["scan", GOOD]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: this is a bug in collapse" in err


def test_an_interrupt_is_exit_130(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("collapse_cli.runs.scan", interrupted)
    assert run(["scan", GOOD, "-o", "a.json"]) == 130
    assert "error: interrupted" in capsys.readouterr().err
    assert not (here / "a.json").exists()


@pytest.mark.parametrize("loud", [[], ["-v"], ["-vv"], ["--progress"], ["-q"], ["--color", "always"]], ids="".join)
def test_stdout_carries_one_report_and_stderr_the_rest(
    here: Path, capsys: pytest.CaptureFixture[str], loud: list[str]
) -> None:
    assert run(["scan", BAD, "empty.safetensors", *RANK, "-f", "json", *loud]) == 2
    shown = capsys.readouterr()
    whole = json.loads(shown.out)
    assert [one["status"] for one in whole["subjects"]] == ["complete", "failed"]
    assert "error: cannot read empty.safetensors" in shown.err
    assert shown.err.splitlines()[-1].startswith("Incomplete: ")
    assert ("scanning" in shown.err) is (loud != ["-q"])


def test_several_outputs_of_one_run_say_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["-o", "a.json", "-o", "b.csv", "-o", "md=c.txt", "-o", "d.jsonl", "-o", "concise=e.log"]
    assert run(["scan", "zoo", *RANK, *files, "-f", "json"]) == 1
    assert (here / "a.json").read_text() == capsys.readouterr().out
    whole = from_json((here / "a.json").read_text())
    rows = list(csv.DictReader(io.StringIO((here / "b.csv").read_text())))
    assert len(rows) == sum(len(one.measurements) + len(one.skips) + len(one.failures) for one in whole.subjects)
    assert (here / "c.txt").read_text().startswith("## collapse: ")
    assert json.loads((here / "d.jsonl").read_text().splitlines()[-1])["type"] == "verdict"
    assert (here / "e.log").read_text().endswith("Exit 1.\n")
    assert not [path for path in here.iterdir() if path.name.startswith(".")], "no temporary file is left"


def test_a_file_that_cannot_be_written_costs_neither_the_others_nor_stdout(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "taken.json").mkdir()
    assert run(["scan", GOOD, *RANK, "-f", "json", "-o", "taken.json", "-o", "b.csv"]) == 2
    shown = capsys.readouterr()
    assert from_json(shown.out).exit_code == 0
    assert 'error: cannot write "taken.json"' in shown.err
    assert (here / "b.csv").exists()


def test_quiet_says_findings_and_errors_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", GOOD, *RANK, "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["scan", BAD, *RANK, "-q"]) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    assert all(
        ": error: " in line or ": warning: " in line or line.startswith("Fail: ") for line in shown.out.splitlines()
    )


def test_elsewhere_than_on_a_terminal_the_table_is_the_concise_lines(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["scan", BAD, *RANK])
    table = capsys.readouterr().out
    run(["scan", BAD, *RANK, "-f", "concise"])
    assert capsys.readouterr().out == table
    assert "\x1b" not in table
    run(["scan", BAD, *RANK, "--color", "always"])
    assert "\x1b[" in capsys.readouterr().out


#: Options that share a variable, or are named otherwise in it.
SHARED = {"-v": "COLLAPSE_VERBOSITY", "-f": "COLLAPSE_FORMAT", "-o": "COLLAPSE_OUTPUT", "-q": "COLLAPSE_QUIET"}


@pytest.mark.parametrize("command", MEASURING)
def test_every_flag_of_a_measuring_command_has_its_variable(command: str) -> None:
    options = [one for one in typer.main.get_command(app).commands[command].params if one.param_type_name == "option"]
    options = [one for one in options if "--help" not in one.opts]
    assert len(options) > 20
    for option in options:
        short, long = option.opts[0], option.opts[-1]
        assert option.envvar == SHARED.get(short, "COLLAPSE_" + long.removeprefix("--").upper().replace("-", "_"))


def test_a_variable_acts_like_its_flag_and_the_flag_beats_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAPSE_FORMAT", "json")
    monkeypatch.setenv("COLLAPSE_SELECT", "stable-rank,effective-rank")
    monkeypatch.setenv("COLLAPSE_OUTPUT", "a b.json,md=c.txt")
    monkeypatch.setenv("COLLAPSE_EXIT_ZERO", "1")
    assert run(["scan", BAD]) == 0
    whole = from_json(capsys.readouterr().out)
    assert set(whole.provenance.analyzers) == {"stable-rank", "effective-rank"}
    assert (here / "a b.json").exists()
    assert (here / "c.txt").exists()
    assert run(["scan", GOOD, "-f", "csv", "--select", "stable-rank"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["analyzer"] for row in rows} == {"stable-rank"}
    assert run(["explain", "stable-rank"]) == 0, "a format of reports is not one of manuals"


def test_the_subject_is_named_relative_to_the_working_directory_or_as_asked(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["scan", str(here / GOOD), *RANK, "-f", "json"])
    assert [one.id for one in from_json(capsys.readouterr().out).subjects] == [GOOD]
    run(["scan", GOOD, *RANK, "-f", "json", "--subject-id", "mine"])
    assert [one.id for one in from_json(capsys.readouterr().out).subjects] == ["mine"]


def test_inspect_lists_what_is_whole_in_a_truncated_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a.weight": torch.zeros(8, 8), "b.weight": torch.zeros(8, 8)}, here / "two.safetensors")
    whole = (here / "two.safetensors").read_bytes()
    (here / "two.safetensors").write_bytes(whole[:-100])
    assert run(["inspect", "two.safetensors", "-f", "json"]) == 2
    shown = capsys.readouterr()
    (item,) = json.loads(shown.out)
    assert [site["name"] for site in item["sites"]] == ["a.weight"]
    assert "the file ends at" in item["unreadable"][0]["reason"]
    assert "hint: the file is truncated" in shown.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([GOOD], 0),
        (["zoo"], 0),
        (["empty.safetensors"], 2),
        ([GOOD, "empty.safetensors"], 2),
        (["torn"], 2),
        (["notes"], 3),
    ],
)
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_exit_codes_of_inspect(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, form: str
) -> None:
    assert run(["inspect", *arguments, "-f", form]) == code
    if form == "json":
        json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_list_names_every_analyzer_that_is_selected(capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert run(["list", "--select", "spectrum", "--ignore", "power-law", "-f", form, "--no-plugins"]) == 0
    out = capsys.readouterr().out
    assert "effective-rank" in out
    assert "power-law" not in out
    assert "dead-units" not in out


def test_explain_json_is_the_manual_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "effective-rank", "-f", "json"]) == 0
    (manual,) = json.loads(capsys.readouterr().out)
    for form in ("text", "md"):
        assert run(["explain", "effective-rank", "-f", form]) == 0
        out = capsys.readouterr().out
        for said in (*(metric["name"] for metric in manual["metrics"]), *(one["url"] for one in manual["references"])):
            assert said in out


def test_doctor_names_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--no-plugins"]) == 0
    out = capsys.readouterr().out
    assert torch.__version__ in out
    assert "cpu" in out


def collapse(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "collapse_cli", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # a test run in the background ignores Ctrl-C, and what it starts would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    )


def test_a_reader_that_goes_away_ends_the_program_in_silence(here: Path) -> None:
    running = collapse("schema")
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == 141
    assert err == b""


def test_a_process_exits_with_the_code_of_its_command(here: Path) -> None:
    out, err = collapse("scan", "notes").communicate(timeout=120)
    assert out.decode() == "Nothing was analysed: no findings. Exit 3.\n"
    assert err.decode().startswith("error: nothing was analysed: 1 file under notes/")


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_control_c_ends_with_130_and_leaves_no_half_file(here: Path) -> None:
    running = collapse("scan", *["zoo"] * 2_000, "--select", "effective-rank", "-o", "a.json")
    assert b"scanning" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.decode().endswith("error: interrupted\n")
    assert sorted(path.name for path in here.iterdir() if path.suffix == ".json" or path.name.startswith(".")) == []
