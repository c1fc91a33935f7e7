"""Sharded checkpoints: set arithmetic on hand-written indices."""

import json

import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.shard_index import read_index
from collapse_cli.sources.sharded import open_sharded

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
HELD = {FIRST: {"a": [1.0, 2.0], "b": [3.0]}, SECOND: {"c": [4.0], "d": [5.0, 6.0]}}


def build(folder, *, held=None, index=None, total_size=24):
    folder.mkdir(parents=True, exist_ok=True)
    held = HELD if held is None else held
    for file, tensors in held.items():
        save_file({name: torch.tensor(values) for name, values in tensors.items()}, folder / file)
    index = {name: file for file, tensors in held.items() for name in tensors} if index is None else index
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": total_size}, "weight_map": index}))
    return path


def names(checkpoint):
    return [site.name for site in checkpoint.sites()]


def test_whole(tmp_path):
    path = build(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.format == "sharded"
    assert names(checkpoint) == ["a", "b", "c", "d"]
    assert checkpoint.read("d").tolist() == [5, 6]
    assert checkpoint.config == {"model_type": "gpt2"}
    assert checkpoint.files == (str(tmp_path / FIRST), str(tmp_path / SECOND))
    assert checkpoint.nbytes == sum((tmp_path / file).stat().st_size for file in HELD)
    assert checkpoint.origin("c").path == str(tmp_path / SECOND)
    layout = checkpoint.layout
    assert layout.index == {"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND}
    assert {file: set(held) for file, held in layout.shards.items()} == {FIRST: {"a", "b"}, SECOND: {"c", "d"}}
    assert (layout.absent, layout.stray, layout.conflicting, checkpoint.unreadable) == ((), (), (), ())
    assert (layout.total_size, layout.actual_size) == (24, 24)
    checkpoint.close()
    with pytest.raises(UnreadableCheckpoint, match="closed"):
        checkpoint.read("a")


def test_a_missing_shard_is_a_fact_and_a_skip(tmp_path):
    path = build(tmp_path)
    (tmp_path / SECOND).unlink()
    checkpoint = open_sharded(path)
    assert names(checkpoint) == ["a", "b"]
    assert checkpoint.layout.absent == (SECOND,)
    assert list(checkpoint.layout.shards) == [FIRST]
    assert {skip.site: skip.reason for skip in checkpoint.unreadable} == dict.fromkeys(
        "cd", f'its shard "{SECOND}" is missing'
    )


def test_all_shards_missing_is_still_a_report(tmp_path):
    path = build(tmp_path, held={}, index={"a": FIRST})
    assert open_sharded(path).sites() == ()


def test_an_unreadable_shard_is_there_and_holds_nothing(tmp_path):
    path = build(tmp_path)
    (tmp_path / SECOND).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    checkpoint = open_sharded(path)
    assert names(checkpoint) == ["a", "b"]
    assert checkpoint.layout.shards[SECOND] == ()
    assert checkpoint.layout.absent == ()
    assert "is a Git LFS pointer" in checkpoint.unreadable[0].reason


def test_index_and_headers_differ(tmp_path):
    index = {"a": FIRST, "c": SECOND, "d": SECOND, "gone": SECOND}
    (tmp_path / "x").mkdir()
    checkpoint = open_sharded(build(tmp_path / "x", index=index))
    assert names(checkpoint) == ["a", "b", "c", "d"]
    assert checkpoint.layout.index == index
    assert [(skip.site, skip.reason) for skip in checkpoint.unreadable] == [
        ("gone", f'its shard "{SECOND}" does not hold it')
    ]


def test_stray_weight_files(tmp_path):
    path = build(tmp_path)
    for stray in ("model.safetensors", "adapter_model.safetensors", "vae-1.safetensors"):
        save_file({"a": torch.ones(1)}, tmp_path / stray)
    (tmp_path / "pytorch_model.bin").write_bytes(b"another format")
    (tmp_path / "optimizer.pt").write_bytes(b"no model")
    (tmp_path / "vae.index.json").write_text(json.dumps({"weight_map": {"v": "vae-1.safetensors"}}))
    (tmp_path / "broken.index.json").write_text("{")
    assert open_sharded(path).layout.stray == ("model.safetensors",)


@pytest.mark.parametrize(
    ("other", "is_conflict"),
    [
        pytest.param([1.0, 2.0], False, id="the same bytes"),
        pytest.param([1.0, 2.5], True, id="other bytes"),
        pytest.param([1.0, 2.0, 3.0], True, id="another shape"),
    ],
)
def test_a_tensor_in_two_shards(tmp_path, other, is_conflict):
    held = {FIRST: {"a": [1.0, 2.0]}, SECOND: {"a": other, "b": [9.0]}}
    checkpoint = open_sharded(build(tmp_path, held=held, index={"x": FIRST, "a": SECOND, "b": SECOND}))
    assert checkpoint.layout.conflicting == (("a",) if is_conflict else ())
    # the index decides which of the two is the tensor
    assert checkpoint.read("a").tolist() == other
    assert names(checkpoint) == sorted(["a", "b"], key=lambda name: checkpoint.origin(name).begin)


def test_comparing_is_bounded(tmp_path, monkeypatch):
    from collapse_cli.sources import sharded

    monkeypatch.setattr(sharded, "_COMPARED", 6)
    held = {FIRST: {"a": [1.0, 2.0]}, SECOND: {"a": [1.0, 9.0]}}
    checkpoint = open_sharded(build(tmp_path, held=held, index={"a": FIRST, "b": SECOND}))
    assert checkpoint.notices == ("2 bytes of tensors that stand in two shards were not compared",)


def test_prefixes_go_from_index_and_headers_alike(tmp_path):
    held = {FIRST: {"module.a": [1.0]}, SECOND: {"module._orig_mod.b": [2.0]}}
    checkpoint = open_sharded(build(tmp_path, held=held))
    assert names(checkpoint) == ["a", "b"]
    assert checkpoint.layout.index == {"a": FIRST, "b": SECOND}
    assert checkpoint.layout.shards == {FIRST: ("a",), SECOND: ("b",)}
    assert checkpoint.read("b").tolist() == [2]


def test_torch_shards(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00001.bin")
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}))
    checkpoint = open_checkpoint(path)
    assert names(checkpoint) == ["a"]
    assert checkpoint.read("a").tolist() == [1, 1]


@pytest.mark.parametrize(
    "file", ["../m.safetensors", "/etc/passwd", "a/../../m", "C:\\m", "\\\\host\\m", "..\\m", "", "a\0b"]
)
def test_escaping_shard_paths_are_refused(tmp_path, file):
    with pytest.raises(UnreadableCheckpoint, match="is not inside the checkpoint's folder"):
        open_sharded(build(tmp_path / "x", held={}, index={"a": file}))


def test_escaping_links_are_refused_but_those_of_the_hub_cache_are_not(tmp_path):
    build(tmp_path / "real")
    linked = tmp_path / "linked"
    build(linked, held={}, index={"a": FIRST})
    (linked / FIRST).symlink_to(tmp_path / "real" / FIRST)
    with pytest.raises(UnreadableCheckpoint, match="is a link that leaves the checkpoint's folder"):
        open_sharded(linked / "model.safetensors.index.json")

    snapshot = tmp_path / "models--x" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--x" / "blobs"
    for number, file in enumerate([FIRST, SECOND, "model.safetensors.index.json"]):
        blobs.mkdir(exist_ok=True)
        (tmp_path / "real" / file).rename(blobs / str(number))
        (snapshot / file).symlink_to(f"../../blobs/{number}")
    assert names(open_sharded(snapshot / "model.safetensors.index.json")) == ["a", "b", "c", "d"]


def test_links_in_a_circle_are_a_missing_shard(tmp_path):
    path = build(tmp_path, held={}, index={"a": FIRST})
    (tmp_path / FIRST).symlink_to(FIRST)
    assert open_sharded(path).layout.absent == (FIRST,)


def test_a_name_too_long_for_a_file_is_a_missing_shard(tmp_path):
    assert open_sharded(build(tmp_path, held={}, index={"a": "x" * 5000})).layout.absent == ("x" * 5000,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{nope", "the index should be JSON"),
        ("[" * 100_000, "the index should be JSON"),
        ("[]", "should have a weight_map"),
        ('{"metadata": {}}', "should have a weight_map"),
        ('{"weight_map": {"a": 3}}', "should have a weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', 'each key once, "a" stands in it twice'),
        ('{"weight_map": {"a\\ud800": "x"}}', "half a character"),
    ],
)
def test_each_fault_of_an_index_has_its_sentence(tmp_path, text, words):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(UnreadableCheckpoint, match=words):
        read_index(path)


def test_an_index_is_bounded(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    with path.open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(UnreadableCheckpoint, match="at most 100,000,000 bytes, it has 100,000,001"):
        read_index(path)


@pytest.mark.parametrize(("written", "read"), [(5, 5), (5.0, 5), (5.5, None), ("5", None), (True, None), (None, None)])
def test_the_total_size_is_believed_when_it_is_one(tmp_path, written, read):
    assert read_index(build(tmp_path, held={}, index={}, total_size=written)).total_size == read
