"""`collapse scan` on every sample checkpoint says what the table of `sample_checkpoints/README.md` says."""

import csv
import io
import json
from pathlib import Path

import pytest

from collapse_cli.cli.app import run
from tests.test_sample_checkpoints import HOSTILE, SAMPLES, TRAINED


def scanned(path: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = run(["scan", str(path), "--device", "cpu", "--no-progress", *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rules(cell: str) -> set[str]:
    return {rule.strip() for rule in cell.split(",")} - {"-"}


@pytest.mark.parametrize("name", TRAINED)
def test_trained_sample(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = TRAINED[name]
    code, out, _err = scanned(SAMPLES / name, capsys, "-f", "json")
    report = json.loads(out)
    (subject,) = report["subjects"]
    found = {f"{f['measurement']['analyzer']}/{f['measurement']['metric']}" for f in subject["findings"]}
    assert rules(row["must find"]) <= found
    assert not rules(row["must not find"]) & found
    assert code == report["exit_code"] == int(row["exit"]), [f["message"] for f in subject["findings"]]
    assert subject["status"] == "complete"
    if name.startswith(("healthy", "lora", "sharded", "lightning")):
        assert [(f["severity"], f["message"]) for f in subject["findings"]] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sample(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = HOSTILE[name]
    code, out, err = scanned(SAMPLES / "hostile" / name, capsys, "-f", "concise")
    assert code == int(row["exit"]), out + err
    wanted = row["message contains"].strip("`")
    if wanted != "-":
        assert wanted.lower() in (out + err).lower()
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == [], "something was executed"


@pytest.mark.parametrize(
    "name", ["rank_collapse.safetensors", "hostile/missing_shard", "hostile/hostile_names.safetensors"]
)
def test_the_same_findings_in_every_format(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {form: scanned(SAMPLES / name, capsys, "-f", form) for form in ("json", "jsonl", "csv", "concise", "md")}
    assert len({code for code, _out, _err in outputs.values()}) == 1
    subject = json.loads(outputs["json"][1])["subjects"][0]
    found = {(f["measurement"]["analyzer"], f["measurement"]["metric"], f["severity"]) for f in subject["findings"]}
    rows = list(csv.DictReader(io.StringIO(outputs["csv"][1])))
    assert {(row["analyzer"], row["metric"], row["severity"]) for row in rows if row["severity"]} == found
    records = [json.loads(line) for line in outputs["jsonl"][1].splitlines()]
    assert records[-1]["type"] == "verdict"
    told = [record for record in records if record["type"] == "finding"]
    primary = {one["primary"] for one in subject["diagnoses"]}
    assert {record["fingerprint"] for record in told if record["follows_from"] is None} == primary
    assert [
        {key: record[key] for key in ("type", "subject", *finding)}
        for record, finding in zip(told, subject["findings"], strict=True)
    ] == [{"type": "finding", "subject": subject["id"], **finding} for finding in subject["findings"]]
    for analyzer, metric, severity in found:
        assert f": {severity}: {analyzer}/{metric} " in outputs["concise"][1]
        assert severity in outputs["md"][1]
        assert f"`{analyzer}/{metric}`" in outputs["md"][1]


def test_a_folder_of_good_and_bad_files_loses_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = scanned(SAMPLES / "hostile", capsys, "-f", "json", "--select", "non-finite,shard-index")
    report = json.loads(out)
    assert code == 2
    assert {subject["id"].rpartition("hostile/")[2] for subject in report["subjects"]} == set(HOSTILE)
