"""The sample checkpoints: table and folder agree, files are well-formed, hostile ones are as described."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"
RULE = re.compile(r"[a-z0-9-]+/[a-z0-9_]+")
REFUSED_BY_SAFETENSORS = [
    "truncated",
    "overlapping_offsets",
    "hole",
    "header_too_large",
    "shape_overflow",
    "unknown_dtype",
    "lfs_pointer",
    "html_page",
    "empty",
]


def table(heading: str) -> list[dict[str, str]]:
    """The rows of the table under a heading of the README, as column → cell."""
    section = (SAMPLES / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


TRAINED = {row["file"].strip("`"): row for row in table("Trained")}
HOSTILE = {row["file"].strip("`").removeprefix("hostile/"): row for row in table("Hostile")}
TRAINED_TENSOR_FILES = sorted(path for name in TRAINED for path in SAMPLES.glob(f"{name}*/*.safetensors")) + [
    SAMPLES / name for name in TRAINED if name.endswith(".safetensors")
]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


@pytest.fixture(scope="module")
def hostile_script() -> ModuleType:
    sys.path.insert(0, str(SAMPLES))
    try:
        place = importlib.util.spec_from_file_location("sample_hostile", SAMPLES / "hostile.py")
        script = importlib.util.module_from_spec(place)
        place.loader.exec_module(script)
    finally:
        sys.path.remove(str(SAMPLES))
    return script


def test_the_tables_name_what_is_there_and_nothing_else() -> None:
    sources = {"README.md", "text", "hostile", "dumps", "runs", "__pycache__"}
    there = {p.name for p in SAMPLES.iterdir() if p.suffix != ".py"} - sources
    assert there == set(TRAINED)
    assert {path.name for path in (SAMPLES / "hostile").iterdir()} == set(HOSTILE)


@pytest.mark.parametrize("row", TRAINED.values(), ids=list(TRAINED))
def test_every_expectation_can_be_read(row: dict[str, str]) -> None:
    found, not_found = (
        set() if row[column] == "-" else {rule.strip() for rule in row[column].split(",")}
        for column in ("must find", "must not find")
    )
    assert all(RULE.fullmatch(rule) for rule in found | not_found)
    assert not found & not_found
    assert row["exit"] in {"0", "1"}
    assert found or row["exit"] == "0"


@pytest.mark.parametrize("row", HOSTILE.values(), ids=list(HOSTILE))
def test_every_hostile_expectation_can_be_read(row: dict[str, str]) -> None:
    assert row["exit"] in {"0", "1", "2", "3"}
    assert row["message contains"] != "-" or row["exit"] == "0"


def test_the_samples_stay_small() -> None:
    sizes = [path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 10_000_000


@pytest.mark.parametrize("path", TRAINED_TENSOR_FILES, ids=lambda path: str(path.relative_to(SAMPLES)))
def test_a_trained_file_opens_is_finite_and_carries_the_figure_of_its_row(path: Path) -> None:
    name = path.name if path.parent == SAMPLES else path.parent.name
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    assert facts["held_out"] == TRAINED[name]["held-out"]
    assert int(facts["seed"]) > 0
    for tensor in tensors(path).values():
        assert torch.isfinite(tensor.double()).all()


@pytest.mark.parametrize("name", ["healthy_mlp", "healthy_cnn", "healthy_moe", "lightning"])
def test_a_healthy_classifier_learnt(name: str) -> None:
    row = next(row for file, row in TRAINED.items() if file.startswith(name))
    assert float(row["held-out"].removeprefix("accuracy ")) >= 0.95


@pytest.mark.parametrize("name", ["healthy_transformer", "sharded"])
def test_a_healthy_language_model_beats_plain_frequencies(name: str) -> None:
    loss, unigram = map(float, re.findall(r"\d+\.\d+", TRAINED[name]["held-out"]))
    assert loss < 0.8 * unigram


def test_the_shards_hold_what_their_index_says() -> None:
    index = json.loads((SAMPLES / "sharded" / "model.safetensors.index.json").read_text())
    shards = {path.name: set(tensors(path)) for path in (SAMPLES / "sharded").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == set(shards)
    assert {(name, file) for name, file in index["weight_map"].items()} == {
        (name, file) for file, names in shards.items() for name in names
    }


def test_the_adapter_fits_its_base() -> None:
    base = tensors(SAMPLES / "healthy_transformer" / "model.safetensors")
    adapter = tensors(SAMPLES / "lora_adapter" / "adapter_model.safetensors")
    rank = json.loads((SAMPLES / "lora_adapter" / "adapter_config.json").read_text())["r"]
    for name, down in adapter.items():
        if not name.endswith("lora_A.weight"):
            continue
        up = adapter[name.replace("lora_A", "lora_B")]
        weight = base[name.removeprefix("base_model.model.").replace("lora_A.", "")]
        assert (up.shape[0], down.shape[1]) == weight.shape
        assert down.shape[0] == up.shape[1] == rank
        assert up.any()


def test_the_lightning_file_holds_the_state_of_its_optimiser() -> None:
    content = torch.load(SAMPLES / "lightning.ckpt", weights_only=True)
    assert set(content) >= {"state_dict", "optimizer_states", "hyper_parameters", "epoch", "global_step"}
    assert content["hyper_parameters"]["held_out"] == TRAINED["lightning.ckpt"]["held-out"]
    moments = content["optimizer_states"][0]["state"]
    assert [state["exp_avg_sq"].shape for state in moments.values()] == [
        t.shape for t in content["state_dict"].values()
    ]
    assert all(state["step"] == content["global_step"] for state in moments.values())


def matrix(file: str, name: str) -> np.ndarray:
    return tensors(SAMPLES / file)[name].double().numpy()


def largest_cosines(rows: np.ndarray) -> np.ndarray:
    """Of each row to its nearest other row."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit @ unit.T - 2 * np.eye(len(unit))).max(1)


def test_the_illness_of_each_file_is_there_by_plain_numpy() -> None:
    for layer in ("fc1", "fc2", "fc3"):
        values = np.linalg.svd(matrix("rank_collapse.safetensors", f"{layer}.weight"), compute_uv=False)
        assert values[0] > 0.1
        assert values[1] < 1e-6 * values[0]
    norms = np.linalg.norm(matrix("dead_units.safetensors", "fc1.weight"), axis=1)
    assert 0.1 < (norms < 1e-3 * np.median(norms)).mean() < 0.5
    assert (largest_cosines(matrix("duplicate_units.safetensors", "fc1.weight")) > 0.9999).all()
    assert (largest_cosines(matrix("minority_collapse.safetensors", "head.weight"))[5:] > 0.98).all()
    codes = matrix("vq_collapse.safetensors", "quantizer.embedding.weight")
    assert (np.abs(codes).max(1) <= 1 / len(codes)).mean() > 0.5
    counts = matrix("vq_collapse.safetensors", "quantizer.cluster_size")
    assert (counts < 1e-3 * counts.mean()).mean() > 0.5
    experts = [
        matrix("moe_collapse.safetensors", f"model.layers.0.block_sparse_moe.experts.{i}.w1.weight").ravel()
        for i in range(8)
    ]
    assert largest_cosines(np.array(experts)).min() > 0.995
    copied = tensors(SAMPLES / "depth_copy" / "model.safetensors")
    assert all(torch.equal(t, copied[n.replace("layers.1", "layers.0")]) for n, t in copied.items() if "layers.1" in n)


@pytest.mark.parametrize("head", range(4))
def test_the_logits_of_every_head_ran_away(head: int) -> None:
    def logit_deviation(file: str) -> float:
        queries = matrix(file, "model.layers.0.self_attn.q_proj.weight")[24 * head : 24 * (head + 1)]
        keys = matrix(file, "model.layers.0.self_attn.k_proj.weight")[24 * (head // 2) : 24 * (head // 2 + 1)]
        return float(np.linalg.norm(queries.T @ keys) / np.sqrt(24))

    assert logit_deviation("attention_collapse/model.safetensors") > 30
    assert logit_deviation("healthy_transformer/model.safetensors") < 3


def test_the_hostile_files_are_what_their_script_writes(hostile_script: ModuleType) -> None:
    written = dict(hostile_script.contents())
    assert {name.split("/")[0] for name in written} == set(HOSTILE)
    for name, body in written.items():
        stored = (SAMPLES / "hostile" / name).read_bytes()
        if name == "zip_bomb.pt":  # how well zeros are deflated depends on the zlib at hand
            assert len(stored) < 100_000
            assert sum(m.file_size for m in zipfile.ZipFile(io.BytesIO(stored)).infolist()) > 60_000_000
        else:
            assert stored == body, name


@pytest.mark.parametrize("name", REFUSED_BY_SAFETENSORS)
def test_the_library_of_the_format_refuses_it_too(name: str) -> None:
    path = SAMPLES / "hostile" / f"{name}.safetensors"
    with pytest.raises((SafetensorError, OSError)), safe_open(path, framework="pt") as file:
        file.keys()


def test_a_key_stands_twice_in_the_header() -> None:
    data = (SAMPLES / "hostile" / "duplicate_key.safetensors").read_bytes()
    header = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
    keys = [key for key, _ in json.loads(header, object_pairs_hook=lambda pairs: pairs)]
    assert keys == ["fc1.weight", "fc1.weight"]


def test_a_nan_and_an_infinity_stand_where_the_table_says() -> None:
    content = tensors(SAMPLES / "hostile" / "nan_inf.safetensors")
    assert {name: int((~t.isfinite()).sum()) for name, t in content.items()} == {
        "fc1.weight": 0,
        "fc2.weight": 2,
        "fc3.weight": 0,
    }


@pytest.mark.parametrize("name", ["hostile_names", "odd_shapes", "fp8_with_scale", "fp8_without_scale", "integer_only"])
def test_the_strange_but_valid_ones_open(name: str) -> None:
    assert tensors(SAMPLES / "hostile" / f"{name}.safetensors")


def test_the_pickle_would_call_a_shell_and_nobody_ran_it() -> None:
    with zipfile.ZipFile(SAMPLES / "hostile" / "pickle_with_code.pt") as archive:
        code = archive.read("archive/data.pkl")
    assert b"cposix\nsystem\n" in code
    assert b"touch PWNED" in code
    assert not list(SAMPLES.parent.glob("**/PWNED"))
