"""`collapse scan` on every sample dump, with and without an intent, says what the table says."""

import json

import pytest

from collapse_cli.cli.app import run
from tests.test_sample_dumps import ROWS, SAMPLES


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['file'].strip('`')} {row['intent']}" for row in ROWS])
def test_sample_dump(row: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    intent = [] if row["intent"] == "-" else ["--intent", row["intent"]]
    path = str(SAMPLES / row["file"].strip("`"))
    code = run(["scan", path, "--device", "cpu", "--no-progress", "-f", "json", *intent])
    report = json.loads(capsys.readouterr().out)
    (subject,) = report["subjects"]
    found = {f"{f['measurement']['analyzer']}/{f['measurement']['metric']}" for f in subject["findings"]}
    wanted, unwanted = (set(row[column].split(", ")) - {"-"} for column in ("must find", "must not find"))
    assert wanted <= found
    assert not unwanted & found
    assert code == report["exit_code"] == int(row["exit"]), [f["message"] for f in subject["findings"]]
    assert (subject["kind"], subject["status"]) == ("dump", "complete")
    if not wanted:
        assert [(f["severity"], f["message"]) for f in subject["findings"]] == []
