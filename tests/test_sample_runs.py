"""The sample runs: files as described, and `trend` dates the collapse of the one and says nothing of the other."""

import statistics
from pathlib import Path

import pytest
from safetensors import safe_open

from collapse_cli.compare import trend
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Report, to_json
from collapse_cli.runs import ScanOptions, scan
from tests.test_sample_checkpoints import SAMPLES, table

RUNS = {row["folder"].strip("`"): row for row in table("Runs")}
each = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return {name: trend([SAMPLES / name], Policy(), ScanOptions(device="cpu")) for name in RUNS}


def rules(cell: str) -> set[str]:
    return {rule.strip() for rule in cell.split(",")} - {"-"}


def test_the_table_names_what_is_there() -> None:
    assert {f"runs/{path.name}" for path in (SAMPLES / "runs").iterdir()} == set(RUNS)


@each
def test_members_are_small_finite_and_carry_their_step_and_the_figure_of_the_row(name: str) -> None:
    files = sorted((SAMPLES / name).iterdir())
    assert [file.name for file in files] == [f"step-{step:04}.safetensors" for step in range(100, 1001, 100)]
    for place, file in enumerate(files, start=1):
        assert file.stat().st_size < 40_000
        with safe_open(file, framework="pt") as content:
            said = content.metadata()
            assert int(said["step"]) == 100 * place
            assert all(bool(content.get_tensor(key).isfinite().all()) for key in content.keys())  # noqa: SIM118
    assert RUNS[name]["held-out"] == f"accuracy {float(said['val_accuracy']):.3f}"


def test_the_runs_are_one_until_the_cause_sets_in() -> None:
    for step in range(100, 1001, 100):
        one, other = (SAMPLES / name / f"step-{step:04}.safetensors" for name in RUNS)
        with safe_open(one, framework="np") as left, safe_open(other, framework="np") as right:
            equal = all((left.get_tensor(k) == right.get_tensor(k)).all() for k in left.keys())  # noqa: SIM118
        assert equal == (step <= 500)


@each
def test_verdict(name: str, reports: dict[str, Report]) -> None:
    row, report = RUNS[name], reports[name]
    (subject,) = report.subjects
    assert subject.status == "complete"
    assert not subject.failures
    assert report.exit_code == int(row["exit"]), [finding.message for finding in subject.findings]
    found = {finding.measurement.rule for finding in subject.findings}
    assert rules(row["must find"]) <= found
    assert not rules(row["must not find"]) & found
    if row["must find"] == "-":
        assert [finding.message for finding in subject.findings if finding.severity == "error"] == []


@each
def test_the_collapse_is_dated(name: str, reports: dict[str, Report]) -> None:
    row = RUNS[name]
    (subject,) = reports[name].subjects
    for rule in rules(row["dated by"]):
        changes = [
            (m.value, m.evidence["gain_nats"])
            for m in subject.measurements
            if m.rule == "trend/change_point" and m.site.endswith(f"#rule={rule}")
        ]
        assert changes
        clear = [step for step, gain in changes if gain > 10]
        if row["changed at"] == "-":
            assert not clear
        else:
            assert len(clear) == len(changes)
            assert statistics.median(clear) == float(row["changed at"])
            assert all(abs(step - 500) <= 100 for step in clear)
    findings = [f.measurement for f in subject.findings if f.measurement.rule == "trend/limit_approach"]
    assert {m.evidence["beyond_since"] for m in findings} <= {600.0}


@each
def test_figures_of_the_metadata_are_series(name: str, reports: dict[str, Report]) -> None:
    (subject,) = reports[name].subjects
    curves = {m.site: m.evidence for m in subject.measurements if m.rule == "trend/slope" and m.site.startswith("#run")}
    assert set(curves) == {"#run#rule=metadata/train_loss", "#run#rule=metadata/val_accuracy"}
    assert all(curve["step"] == [100.0 * place for place in range(1, 11)] for curve in curves.values())
    assert curves["#run#rule=metadata/val_accuracy"]["better"] == "higher"


def test_stored_reports_give_the_trends_of_their_checkpoints(tmp_path: Path, reports: dict[str, Report]) -> None:
    name = "runs/collapsing_mlp"
    for file in (SAMPLES / name).iterdir():
        options = ScanOptions(device="cpu", base=tmp_path)
        report = scan([file], Policy(select=("effective-rank",)), options)
        (tmp_path / f"{file.stem}.json").write_text(to_json(report), encoding="utf-8")
    (of_reports,) = trend([tmp_path], Policy(), ScanOptions(device="cpu")).subjects
    (of_checkpoints,) = reports[name].subjects
    told = {(m.metric, m.site): (m.value, m.null) for m in of_reports.measurements}
    expected = {
        (m.metric, m.site): (m.value, m.null)
        for m in of_checkpoints.measurements
        if m.analyzer == "trend" and "#rule=effective-rank/" in m.site
    }
    assert expected
    assert told == expected
