"""What the deciding commands promise: exit codes, where the configuration comes from, files, streams."""

from __future__ import annotations

import csv
import io
import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file

from collapse_cli.cli.app import app, run
from collapse_cli.cli.configured import keys_of
from collapse_cli.configuration.keys import KEYS
from collapse_cli.core.report import Failure, Report, Skip, from_json, to_json
from tests.contract.test_startup import run_without
from tests.reports import ratio, report, subject

Shown = pytest.CaptureFixture[str]

WELL = subject("a", measurements=(ratio("w", 0.9), ratio("head.weight", 0.8)))
DOUBTFUL = replace(WELL, measurements=(ratio("w", 0.2),))
ILL = replace(WELL, measurements=(ratio("w", 0.01), ratio("v", 0.2)))
CRASHED = (Failure("power-law", "w", "NotConverged", "did not converge in 100 steps"),)
UNREAD = subject(
    "c", status="failed", failures=(Failure(None, None, "UnreadableCheckpoint", "cannot read c"),), sites=()
)
STORED = {
    "well": report(WELL),
    "doubtful": report(DOUBTFUL),
    "ill": report(ILL),
    "crashed": report(replace(WELL, status="partial", failures=CRASHED)),
    "ill-crashed": report(replace(ILL, status="partial", failures=CRASHED)),
    "torn": report(replace(WELL, status="partial", skips=(Skip(None, "v", "its shard is missing"),))),
    "unread": report(ILL, UNREAD),
    "empty": report(subject("e", status="empty", sites=())),
    "nothing": report(),
    "half-empty": report(ILL, subject("e", status="empty", sites=())),
}
ACCEPT = '[[accept]]\nrule = "effective-rank/*"\nreason = "known"\nuntil = {}\n'
POLICIES = {
    "accept.toml": ACCEPT.format("2999-01-01"),
    "expired.toml": ACCEPT.format("2020-01-01"),
    "asks.toml": 'select = ["effective-rank", "stable-rank"]\n',
    "wrong.toml": "fail_on = 3\n",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with stored reports, policies that must be named, and two checkpoints."""
    for name, given in STORED.items():
        (tmp_path / f"{name}.json").write_text(to_json(given), encoding="utf-8")
    (tmp_path / "cut.json").write_text(to_json(STORED["well"])[:-300])
    newer = json.loads(to_json(STORED["well"])) | {"schema_version": "2.0"}
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    for name, text in POLICIES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "models").mkdir()
    save_file({"fc.weight": torch.ones(32, 24)}, tmp_path / "models" / "bad.safetensors")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("COLLAPSE_")]:
        monkeypatch.delenv(name)
    return tmp_path


CODES = [
    ("well.json", 0),
    ("doubtful.json", 0),
    ("doubtful.json --fail-on warning", 1),
    ("ill.json", 1),
    ("ill.json --exit-zero", 0),
    ("well.json ill.json", 1),
    ("crashed.json", 2),
    ("crashed.json --allow-partial", 0),
    ("crashed.json --ignore power-law", 0),
    ("ill-crashed.json", 2),
    ("ill-crashed.json --exit-zero", 2),
    ("ill-crashed.json --allow-partial", 1),
    ("ill-crashed.json --allow-partial --exit-zero", 0),
    ("torn.json", 2),
    ("torn.json --allow-partial", 0),
    ("torn.json --ignore-sites v", 0),
    ("unread.json", 2),
    ("unread.json --allow-partial --exit-zero", 2),
    ("empty.json", 3),
    ("empty.json --allow-partial --exit-zero", 3),
    ("nothing.json", 3),
    ("empty.json unread.json", 2),
    ("half-empty.json", 2),
    ("half-empty.json --allow-partial", 1),
    ("well.json --select stable-*", 3),
    ("well.json --ignore all", 3),
    ("well.json --sites nothing", 3),
    ("well.json --select stable-rank", 2),
    ("well.json --select stable-rank --allow-partial", 0),
    ("well.json --config asks.toml", 2),
    ("ill.json --config asks.toml --allow-partial", 1),
    ("ill.json --config asks.toml --select effective-rank", 1),
    ("ill.json --config accept.toml", 0),
    ("ill.json --config accept.toml --fail-on info", 0),
    ("crashed.json --config accept.toml", 2),
    ("ill.json --config expired.toml", 1),
    ("ill.json --config expired.toml --exit-zero", 0),
    ("well.json --config expired.toml", 0),
    ("well.json --config wrong.toml", 2),
    ("well.json --config missing.toml", 2),
    ("well.json --config accept.toml --isolated", 2),
    ("ill.json --baseline missing.json", 2),
    ("ill.json --baseline missing.json --no-baseline", 1),
    ("ill.json --baseline well.json", 2),
    ("well.json --compare ill.json", 0),
    ("ill.json --compare well.json", 1),
    ("doubtful.json --compare well.json", 1),
    ("doubtful.json --compare well.json --exit-zero", 0),
    ("doubtful.json --compare well.json --config accept.toml", 0),
    ("well.json --compare missing.json", 2),
    ("well.json --compare empty.json", 0),
    ("well.json --compare half-empty.json", 0),
    ("well.json --compare newer.json", 2),
    ("cut.json", 2),
    ("newer.json", 2),
    ("ill.json newer.json", 2),
    ("missing.json", 2),
    ("models --select effective-rank", 1),
    ("models well.json --select effective-rank", 1),
    ("work", 3),
    ("", 2),
]


@pytest.mark.parametrize(("arguments", "code"), CODES)
def test_exit_codes_of_gate(here: Path, capsys: Shown, arguments: str, code: int) -> None:
    assert run(["gate", *arguments.split(), "-f", "json"]) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    if shown.out:
        assert from_json(shown.out).exit_code == code
    else:
        assert code == 2
        assert shown.err.startswith("error: ")


MESSAGES = {
    "gate newer.json": "error: newer.json: schema_version should be 1.x, it is 2.0; it was written by a newer collapse",
    "gate cut.json": "error: cut.json: is not a whole report, ",
    "gate well.json --config wrong.toml": 'error: wrong.toml: line 1: unknown key "fail_on"; did you mean "fail-on"?\n',
    "gate well.json --isolated --config accept.toml": "error: --config and --isolated contradict each other\n",
    "gate ill.json --baseline no.json": "error: no.json: there is no such baseline\n  hint: `collapse baseline create",
    "gate work": "error: nothing was analysed: 0 files under work/, none a checkpoint or a dump\n",
    "gate ill.json --config expired.toml": 'warning: accept "effective-rank/*" (known) ended on 2020-01-01: 2 findings',
    "gate well.json --config accept.toml": 'warning: accept "effective-rank/*" (known) matches no finding: remove it\n',
    "gate well.json": "0 suppressed (0 baseline, 0 accepted)\n",
    "gate well.json --compare half-empty.json": "warning: e of half-empty.json was not given: not compared\n",
    "report cut.json": "error: cut.json: is not a whole report, ",
    "report models/bad.safetensors": "error: models/bad.safetensors: is not a whole report, ",
    "report missing.json": "error: missing.json: cannot read the report, No such file or directory\n",
    "baseline": "error: missing command",
    "baseline creat ill.json": "error: no such command 'creat'",
    "baseline prune ill.json": "error: collapse-baseline.json: there is no such baseline\n",
    "baseline show well.json": "error: well.json: the baseline should be an object with",
    "schema configs": 'hint: did you mean "config"?',
}


@pytest.mark.parametrize("arguments", MESSAGES)
def test_what_is_wrong_is_said_on_stderr(here: Path, capsys: Shown, arguments: str) -> None:
    run(arguments.split())
    shown = capsys.readouterr().err
    assert MESSAGES[arguments] in shown
    assert "Traceback" not in shown


def test_a_report_is_gated_without_torch(here: Path) -> None:
    for arguments in ("gate well.json --compare ill.json", "baseline create ill.json", "baseline prune ill.json",
                      "baseline show", "report ill.json -f md", "config show", "config init", "schema config",
                      "schema baseline"):  # fmt: skip
        done = run_without(("torch",), *arguments.split())
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_what_gate_needs_is_not_needed_for_its_help() -> None:
    for command in (["gate"], ["baseline"], ["baseline", "create"], ["config", "show"], ["report"]):
        done = run_without(("torch", "numpy", "scipy", "pandas", "pydantic", "rich", "safetensors"), *command, "--help")
        assert (done.returncode, done.stderr) == (0, "")


def gated(capsys: Shown, *arguments: str) -> Report:
    capsys.readouterr()
    run(["gate", *arguments, "-f", "json"])
    return from_json(capsys.readouterr().out)


def test_the_policy_and_its_digest_are_recorded(here: Path, capsys: Shown) -> None:
    record = gated(capsys, "ill.json", "--config", "accept.toml").provenance.policy
    assert record.file == "accept.toml"
    assert record.digest is not None
    assert record.digest.startswith("sha256:")
    assert gated(capsys, "ill.json").provenance.policy.file is None
    assert run(["scan", "models", "--config", "accept.toml", "--select", "effective-rank", "-f", "json"]) == 0
    scanned = from_json(capsys.readouterr().out)
    assert scanned.provenance.policy == record
    assert {one.suppressed.by for one in scanned.subjects[0].findings if one.suppressed} == {"accept"}


def test_flag_beats_variable_beats_file_beats_default(
    here: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gated(capsys, "well.json").verdict.fail_on == "error"
    (here / "collapse.toml").write_text('fail-on = "warning"\nignore = ["power-law"]\nexit-zero = true\n')
    found = gated(capsys, "ill.json")
    assert (found.verdict.fail_on, found.provenance.analyzers, found.exit_code) == ("warning", ("effective-rank",), 0)
    monkeypatch.setenv("COLLAPSE_FAIL_ON", "info")
    monkeypatch.setenv("COLLAPSE_IGNORE", "units,rank")
    found = gated(capsys, "ill.json")
    assert (found.verdict.fail_on, found.provenance.analyzers) == ("info", ("effective-rank", "power-law"))
    assert gated(capsys, "ill.json", "--fail-on", "error").verdict.fail_on == "error"
    monkeypatch.setenv("COLLAPSE_ISOLATED", "1")
    monkeypatch.delenv("COLLAPSE_FAIL_ON")
    assert gated(capsys, "ill.json").verdict.fail_on == "error"
    assert gated(capsys, "ill.json", "--config", "collapse.toml").verdict.fail_on == "warning", (
        "a flag beats a variable"
    )
    monkeypatch.delenv("COLLAPSE_ISOLATED")
    monkeypatch.setenv("COLLAPSE_CONFIG", "accept.toml")
    assert gated(capsys, "ill.json").provenance.policy.file == "accept.toml"
    assert gated(capsys, "ill.json", "--isolated").provenance.policy.file is None


def test_the_configuration_of_a_subjects_folder_is_never_read(here: Path, capsys: Shown) -> None:
    (here / "models" / "collapse.toml").write_text(ACCEPT.format("2999-01-01"))
    (here / "models" / "r.json").write_text(to_json(STORED["ill"]))
    for subject_path in ("models/r.json", "models", str(here / "models" / "bad.safetensors")):
        found = gated(capsys, subject_path, "--select", "effective-rank")
        assert (found.provenance.policy.file, found.exit_code) == (None, 1)


def test_the_nearest_file_above_the_working_directory_holds_and_names_subjects_and_paths(
    here: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["baseline", "create", "ill.json", "-o", "known.json"]) == 0
    (here / "pyproject.toml").write_text('[tool.collapse]\nbaseline = "known.json"\nselect = ["effective-rank"]\n')
    monkeypatch.chdir(here / "work")
    found = gated(capsys, "../ill.json", "../models/bad.safetensors")
    assert [one.id for one in found.subjects] == ["a", "models/bad.safetensors"]
    assert found.verdict.suppressed == {"accept": 0, "baseline": 2}
    assert found.provenance.policy.file == "../pyproject.toml"


def test_a_key_of_reports_is_none_of_other_files(here: Path, capsys: Shown) -> None:
    (here / "collapse.toml").write_text('output = ["r.json"]\nformat = "csv"\nbaseline = "known.json"\n')
    assert run(["baseline", "create", "ill.json"]) == 0
    assert (here / "known.json").exists()
    assert not (here / "r.json").exists()
    assert run(["baseline", "show"]) == 0
    assert run(["config", "show"]) == 0


def test_help_needs_no_configuration_that_is_right(here: Path, capsys: Shown) -> None:
    (here / "collapse.toml").write_text("nonsense")
    for command in (["scan"], ["gate"], ["baseline", "prune"], ["config", "show"]):
        assert run([*command, "-h"]) == 0
        assert run([*command, "x.json"]) == 2
        assert "error: collapse.toml: is not TOML" in capsys.readouterr().err


def test_every_key_is_a_flag_and_every_flag_that_is_no_key_is_meant_to_be_none() -> None:
    commands = typer.main.get_command(app).commands
    keys = {key.name for key in KEYS}
    never = {"help", "subject-id", "quiet", "verbose", "config", "isolated", "no-baseline", "compare", "record"}
    for name in ("scan", "gate"):
        flags = set(keys_of(commands[name]))
        assert keys <= flags
        assert flags - keys <= never | {"no-progress"}


def test_every_flag_of_gate_has_its_variable() -> None:
    options = [one for one in typer.main.get_command(app).commands["gate"].params if one.param_type_name == "option"]
    for option in options:
        if "--help" not in option.opts and "--verbose" not in option.opts:
            assert option.envvar == "COLLAPSE_" + option.opts[-1].removeprefix("--").upper().replace("-", "_")


def test_a_baseline_hides_what_is_known_until_it_gets_worse_and_is_pruned_when_it_is_gone(
    here: Path, capsys: Shown
) -> None:
    assert run(["baseline", "create", "ill.json"]) == 0
    assert capsys.readouterr().err == "collapse-baseline.json: 2 entries\n"
    kept = (here / "collapse-baseline.json").read_text()
    flag = ("--baseline", "collapse-baseline.json")
    assert run(["gate", "ill.json", *flag, "-q"]) == 0
    assert capsys.readouterr().out == "Pass: no findings, 2 suppressed (2 baseline, 0 accepted). Exit 0.\n"
    worse = report(replace(ILL, measurements=(ratio("w", 0.009), ratio("v", 0.2))))
    (here / "worse.json").write_text(to_json(worse))
    assert run(["gate", "worse.json", *flag]) == 1
    assert "(regressed: baseline 0.01, now 0.009)" in capsys.readouterr().out
    better = report(replace(ILL, measurements=(ratio("w", 0.04), ratio("v", 0.9))))
    (here / "better.json").write_text(to_json(better))
    assert run(["gate", "better.json", *flag]) == 0
    stale = "warning: baseline entry effective-rank/effective_rank_ratio at v of a is stale: its finding is gone\n"
    assert stale in capsys.readouterr().err
    assert run(["baseline", "prune", "better.json", "--check"]) == 1
    assert (here / "collapse-baseline.json").read_text() == kept
    assert "1 gone, 1 tightened, 1 entry left (nothing was changed)" in capsys.readouterr().err
    assert run(["baseline", "prune", "better.json"]) == 0
    assert run(["baseline", "prune", "better.json", "--check"]) == 0
    capsys.readouterr()
    assert run(["baseline", "show", "-f", "json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert (entry["site"], entry["value"]) == ("w", 0.04)
    assert run(["gate", "ill.json", *flag]) == 1, "what was reached is not given back"


def test_a_baseline_of_half_an_analysis_is_written_and_told(here: Path, capsys: Shown) -> None:
    assert run(["baseline", "create", "ill-crashed.json", "-o", "half.json"]) == 2
    assert "Incomplete: " in capsys.readouterr().err
    assert (here / "half.json").exists()
    assert run(["baseline", "create", "ill-crashed.json", "--allow-partial", "-o", "half.json"]) == 0
    assert run(["baseline", "create", "empty.json", "-o", "none.json"]) == 3
    assert not (here / "none.json").exists()
    assert run(["baseline", "create", "ill.json", "-o", "no/where.json"]) == 2


def test_a_baseline_that_is_made_anew_keeps_the_tolerance_that_somebody_chose(here: Path) -> None:
    path = here / "collapse-baseline.json"
    path.write_text("not a baseline")
    assert run(["baseline", "create", "ill.json"]) == 0
    assert json.loads(path.read_text())["tolerance"] == 0.05
    path.write_text(path.read_text().replace("0.05", "0.2"))
    assert run(["baseline", "create", "doubtful.json"]) == 0
    whole = json.loads(path.read_text())
    assert (whole["tolerance"], [entry["site"] for entry in whole["entries"]]) == (0.2, ["w"])


def test_show_lists_entries_on_lines(here: Path, capsys: Shown) -> None:
    run(["baseline", "create", "ill.json"])
    capsys.readouterr()
    assert run(["baseline", "show", "collapse-baseline.json"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a: v: warning: effective-rank/effective_rank_ratio 0.2 (limit <)",
        "a: w: error: effective-rank/effective_rank_ratio 0.01 (limit <)",
        "2 entries, tolerance 0.05",
    ]


SUPPRESSED = {
    "concise": "a: w: suppressed error: effective-rank/effective_rank_ratio 0.01 < 0.05 (null 0.802): "
    "Uses 0.64 of 64 directions; a random matrix of this shape uses 51.3. (accepted until 2999-01-01: known)",
    "md": "- suppressed: error `effective-rank/effective_rank_ratio` `w` 0.01 \\< 0.05 (null 0.802) "
    "(accepted until 2999-01-01: known)",
    "table": "suppressed error effective-rank/effective_rank_ratio w 0.01 < 0.05 (null 0.802): accepted until",
}


@pytest.mark.parametrize("form", SUPPRESSED)
def test_suppressed_findings_are_shown_when_asked_for(here: Path, capsys: Shown, form: str) -> None:
    arguments = ["gate", "ill.json", "--config", "accept.toml", "-f", form, "--color", "always"]
    assert run(arguments) == 0
    hidden = capsys.readouterr().out
    assert "2 suppressed (0 baseline, 2 accepted)" in hidden
    assert "suppressed error" not in hidden
    assert "- suppressed:" not in hidden
    assert run([*arguments, "--show-suppressed"]) == 0
    flat = " ".join(capsys.readouterr().out.replace("\x1b[2m", "").replace("\x1b[0m", "").split())
    assert SUPPRESSED[form] in flat


def test_machine_formats_always_carry_suppressed_findings_with_their_reason(here: Path, capsys: Shown) -> None:
    found = gated(capsys, "ill.json", "--config", "accept.toml").subjects[0].findings
    assert [one.suppressed.reason for one in found if one.suppressed] == ["known", "known"]
    assert run(["gate", "ill.json", "--config", "accept.toml", "-f", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["suppressed"] for row in rows if row["severity"]] == ["accept", "accept"]


def test_gate_writes_several_formats_of_one_run(here: Path, capsys: Shown) -> None:
    assert run(["gate", "ill.json", "-o", "g.json", "-o", "g.csv", "-o", "md=g.txt", "-f", "json"]) == 1
    assert (here / "g.json").read_text() == capsys.readouterr().out
    assert (here / "g.txt").read_text().startswith("## collapse: Fail: 1 error, 1 warning")
    assert len(list(csv.DictReader(io.StringIO((here / "g.csv").read_text())))) == 2


def test_a_stored_report_is_converted_as_it_is(here: Path, capsys: Shown) -> None:
    run(["gate", "ill.json", "--config", "accept.toml", "-f", "json", "-o", "g.json", "-o", "g.md", "-o", "g.jsonl"])
    capsys.readouterr()
    assert run(["report", "g.json", "-f", "json", "-o", "again.json", "-o", "again.md", "-o", "again.jsonl"]) == 0
    assert capsys.readouterr().out == (here / "g.json").read_text()
    for suffix in ("json", "md", "jsonl"):
        assert (here / f"again.{suffix}").read_text() == (here / f"g.{suffix}").read_text()
    assert run(["report", "ill.json", "-f", "concise"]) == 0, "its verdict is not the command's"


def test_init_writes_a_file_that_changes_nothing_and_never_writes_over_one(here: Path, capsys: Shown) -> None:
    assert run(["config", "init"]) == 0
    before = (here / "collapse.toml").read_text()
    assert tomllib.loads(before) == {}
    assert run(["gate", "well.json"]) == 0
    (here / "collapse.toml").write_text("seed = 3\n")
    capsys.readouterr()
    assert run(["config", "init"]) == 2
    assert "error: collapse.toml is there already" in capsys.readouterr().err
    assert (here / "collapse.toml").read_text() == "seed = 3\n"


def test_show_says_what_holds_and_why(here: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "collapse.toml").write_text('\nfail-on = "warning"\nselect = ["spectrum"]\n' + ACCEPT.format("2999-01-01"))
    monkeypatch.setenv("COLLAPSE_SELECT", "dead-units,rank")
    monkeypatch.setenv("COLLAPSE_SEED", "7")
    assert run(["config", "show", "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == "collapse.toml"
    assert found["values"]["fail-on"] == {"value": "warning", "origin": "collapse.toml, line 2"}
    assert found["values"]["select"] == {"value": ["dead-units,rank"], "origin": "COLLAPSE_SELECT"}
    assert found["values"]["seed"] == {"value": 7, "origin": "COLLAPSE_SEED"}
    assert found["values"]["device"] == {"value": "auto", "origin": "default"}
    assert found["accept"][0]["until"] == "2999-01-01"
    assert run(["config", "show"]) == 0
    shown = capsys.readouterr().out
    whole = tomllib.loads(shown)
    assert (whole["fail-on"], whole["seed"], whole["compare"]["tolerance"]) == ("warning", 7, 0.05)
    assert whole["accept"][0]["rule"] == "effective-rank/*"
    assert 'fail-on = "warning"                       # collapse.toml, line 2' in shown.splitlines()
    assert run(["config", "show", "--isolated"]) == 0
    assert capsys.readouterr().out.startswith("# no configuration file is in force\n")


@pytest.mark.parametrize("what", ["report", "config", "baseline"])
def test_every_contract_has_a_schema(capsys: Shown, what: str) -> None:
    assert run(["schema", what]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_doctor_names_the_configuration_and_what_is_wrong_with_it(here: Path, capsys: Shown) -> None:
    (here / "collapse.toml").write_text("seed = 1\n")
    assert run(["doctor", "--no-plugins"]) == 0
    assert "configured   by collapse.toml\n" in capsys.readouterr().out
    (here / "collapse.toml").write_text("sed = 1\n")
    assert run(["doctor", "--no-plugins"]) == 2
    assert 'configured   collapse.toml: line 1: unknown key "sed"; did you mean "seed"?\n' in capsys.readouterr().out
