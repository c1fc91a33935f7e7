"""Source → engine → judge → report, as the commands and the Python API call it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import collapse_cli
from collapse_cli.compare import diff, trend
from collapse_cli.core.policy import Policy
from collapse_cli.errors import InputError, UnknownAnalyzer
from collapse_cli.render.verdict import coverage_words, outcome_words, verdict_line
from collapse_cli.runs import Observer, ScanOptions, contents, resolved_device, scan, subject_id, subject_paths

RANK = Policy(select=("effective-rank",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    good = {"net.0.weight": torch.randn(64, 32, generator=generator), "net.0.bias": torch.zeros(64)}
    bad = {"net.0.weight": torch.ones(64, 32)}
    save_file(good, tmp_path / "good.safetensors")
    save_file(bad, tmp_path / "bad.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10" + bytes(7) + b"{not json at all")
    (tmp_path / "notes.txt").write_text("not a model")
    return tmp_path


def statuses(report: collapse_cli.Report) -> dict[str, str]:
    return {Path(subject.path).name: subject.status for subject in report.subjects}


def test_every_subject_of_a_folder_is_in_the_report_and_a_broken_one_stops_nothing(folder: Path) -> None:
    report = scan([folder], RANK)
    assert statuses(report) == {
        "good.safetensors": "complete",
        "bad.safetensors": "complete",
        "broken.safetensors": "failed",
    }
    assert (report.verdict.outcome, report.exit_code) == ("incomplete", 2)
    bad = next(subject for subject in report.subjects if subject.path.endswith("bad.safetensors"))
    assert {finding.measurement.metric for finding in bad.findings} >= {"numerical_rank"}
    broken = next(subject for subject in report.subjects if subject.status == "failed")
    assert [(f.analyzer, f.site, f.error) for f in broken.failures] == [(None, None, "UnreadableCheckpoint")]


def test_globs_choose_files_and_exclude_wins(folder: Path) -> None:
    names = [path.name for path in subject_paths(folder, include=("*.safetensors",), exclude=("b*",))]
    assert names == ["good.safetensors"]
    assert subject_paths(folder / "missing") == [folder / "missing"]


def test_a_missing_path_is_a_failed_subject(tmp_path: Path) -> None:
    report = scan([tmp_path / "nothing.safetensors"], RANK)
    assert report.exit_code == 2
    assert "no such file" in report.subjects[0].failures[0].message


def test_a_folder_without_checkpoints_is_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    report = scan([tmp_path], RANK)
    assert (report.verdict.outcome, report.exit_code) == ("empty", 3)


def test_the_report_of_two_runs_differs_in_provenance_alone(folder: Path) -> None:
    first, second = (scan([folder / "good.safetensors"], RANK) for _ in range(2))
    assert replace(first, provenance=second.provenance) == second
    assert first.provenance.analyzers == ("effective-rank",)
    assert collapse_cli.from_json(collapse_cli.to_json(first)) == first


def test_the_digest_is_that_of_the_bytes_and_absent_when_nothing_was_read(folder: Path) -> None:
    import hashlib

    path = folder / "good.safetensors"
    expected = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert scan([path], RANK).subjects[0].digest == expected
    nothing = scan([path], Policy(select=("codebook-geometry",))).subjects[0]
    assert (nothing.digest, nothing.status, nothing.coverage.wanted) == (None, "empty", 0)


def test_ids_are_relative_to_the_base_and_slash_separated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert subject_id(Path("runs/7/m.safetensors")) == "runs/7/m.safetensors"
    assert subject_id(tmp_path / "runs" / "m.pt", tmp_path / "runs") == "m.pt"
    assert subject_id(Path("/elsewhere/m.pt"), tmp_path) == "/elsewhere/m.pt"


def test_observers_hear_of_every_subject(folder: Path) -> None:
    begun: list[str] = []
    ended: list[str] = []
    watch = Observer(begins=begun.append, ends=lambda subject: ended.append(subject.status))
    scan([folder], RANK, ScanOptions(base=folder), watch)
    assert begun == ["bad.safetensors", "broken.safetensors", "good.safetensors"]
    assert ended == ["complete", "failed", "complete"]


def test_an_unknown_analyzer_is_said_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(UnknownAnalyzer, match='"efective-rank"; did you mean "effective-rank"'):
        scan([folder], Policy(select=("efective-rank",)))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "meta"])
def test_a_device_that_is_not_there_is_an_error_that_says_what_is(name: str) -> None:
    with pytest.raises(InputError, match="--device"):
        resolved_device(name)


def test_contents_lists_what_headers_say(folder: Path) -> None:
    listed = contents(folder / "good.safetensors")
    assert [(site.name, site.shape) for site in listed.sites] == [
        ("net.0.weight", (64, 32)),
        ("net.0.bias", (64,)),
    ] or [(site.name, site.shape) for site in listed.sites] == [("net.0.bias", (64,)), ("net.0.weight", (64, 32))]
    assert listed.parameters == 64 * 32 + 64


def test_the_package_names_its_api_and_loads_it_when_asked() -> None:
    assert set(dir(collapse_cli)) == set(collapse_cli.__all__)
    for name in collapse_cli.__all__:
        assert getattr(collapse_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        collapse_cli.nonsense  # noqa: B018


# --- nothing measured, one id for many ------------------------------------------------------------------------------


@pytest.fixture
def dumps(tmp_path: Path) -> Path:
    """Three dumps: one of NaN alone, two that can be measured and whose preprocessing differs."""
    rows = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    save_file({"a/features": rows * torch.nan}, tmp_path / "nan.safetensors")
    save_file({"a/features": rows}, tmp_path / "said.safetensors", {"preprocessing": "centred"})
    save_file({"a/features": rows + 0.1}, tmp_path / "silent.safetensors")
    return tmp_path


def test_a_subject_of_which_nothing_could_be_measured_is_not_clean(dumps: Path) -> None:
    whole = scan([dumps / "nan.safetensors"])
    assert (whole.subjects[0].findings[0].measurement.rule, whole.exit_code) == ("non-finite/nan_count", 1)
    report = scan([dumps / "nan.safetensors"], Policy(ignore=("non-finite",)))
    assert (report.subjects[0].status, report.verdict.outcome, report.exit_code) == ("empty", "empty", 3)
    assert "every analyzer skipped its 1 hook point" in outcome_words(report.subjects[0])
    assert any("finite rows" in skip.reason for skip in report.subjects[0].skips)


def test_beside_measured_ones_it_makes_the_report_incomplete_and_the_verdict_says_why(dumps: Path) -> None:
    report = scan([dumps / "nan.safetensors", dumps / "silent.safetensors"], Policy(select=("rankme",)))
    assert (statuses(report)["silent.safetensors"], report.exit_code) == ("complete", 2)
    assert "1 subject with nothing measured" in verdict_line(report)


def test_a_pair_of_which_nothing_could_be_measured_is_not_clean(dumps: Path) -> None:
    report = diff(dumps / "nan.safetensors", [dumps / "nan.safetensors"], Policy(select=("neuron-matching",)))
    assert (report.subjects[0].status, report.exit_code) == ("empty", 3)


def test_one_id_names_one_subject(dumps: Path) -> None:
    options = ScanOptions(subject_id="mine")
    paths = [dumps / "said.safetensors", dumps / "silent.safetensors"]
    assert scan(paths[:1], RANK, options).subjects[0].id == "mine"
    with pytest.raises(InputError, match="names one subject, 2 subjects are given"):
        scan(paths, RANK, options)
    with pytest.raises(InputError, match="names one subject, 2 NEW are given"):
        diff(paths[0], paths, options=options)


def test_a_pair_of_dumps_has_hook_points_and_says_what_one_side_does_not(dumps: Path) -> None:
    report = diff(dumps / "said.safetensors", [dumps / "silent.safetensors"], Policy(select=("representation-drift",)))
    assert coverage_words(report.subjects[0]) == "analysed 1 of 1 wanted hook point"
    assert any('preprocessing "centred" → not given' in said for said in report.provenance.notices)


def test_a_run_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere, there is no such file or folder"):
        trend([tmp_path / "nowhere"])


def test_what_is_missing_beside_a_dump_is_not_called_a_checkpoint(dumps: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        diff(dumps / "said.safetensors", [dumps / "nowhere"])
