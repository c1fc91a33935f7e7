"""Folders as checkpoints, and the subjects of a tree."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.folder import open_folder, subjects


def weights(path, value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.full((2,), value)}, path)


def text(path, content="{}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def below(root):
    return [path.relative_to(root).as_posix() for path in subjects(root)]


def test_a_hub_folder_is_one_checkpoint_under_its_own_path(tmp_path):
    weights(tmp_path / "model.safetensors")
    text(tmp_path / "config.json", '{"n_head": 2}')
    text(tmp_path / "pytorch_model.bin", "the same model in another format")
    checkpoint = open_checkpoint(tmp_path)
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.path, checkpoint.format) == (str(tmp_path), "safetensors")
    assert checkpoint.files == (str(tmp_path / "model.safetensors"),)
    assert checkpoint.config == {"n_head": 2}
    assert checkpoint.read("a").tolist() == [1, 1]
    assert subjects(tmp_path) == [tmp_path]


def test_the_index_is_preferred_then_the_plain_file(tmp_path):
    weights(tmp_path / "model-00001-of-00001.safetensors", 2.0)
    weights(tmp_path / "model.safetensors", 1.0)
    assert open_folder(tmp_path).read("a").tolist() == [1, 1]
    shard = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    text(tmp_path / "model.safetensors.index.json", json.dumps(shard))
    checkpoint = open_folder(tmp_path)
    assert checkpoint.read("a").tolist() == [2, 2]
    assert checkpoint.layout.stray == ("model.safetensors",)
    assert subjects(tmp_path) == [tmp_path]


def test_an_adapter_folder(tmp_path):
    weights(tmp_path / "adapter_model.safetensors")
    text(tmp_path / "adapter_config.json", '{"r": 8}')
    assert open_folder(tmp_path).adapter == {"r": 8}
    assert subjects(tmp_path) == [tmp_path]


def test_a_variant_of_an_index_is_found(tmp_path):
    weights(tmp_path / "x-1.safetensors")
    for name in ("pytorch_x.bin.index.json", "x.safetensors.index.fp16.json"):
        text(tmp_path / name, json.dumps({"weight_map": {"a": "x-1.safetensors"}}))
    assert open_folder(tmp_path).format == "sharded"


def test_a_folder_of_several_is_undecided(tmp_path):
    for step in (1000, 900):
        weights(tmp_path / f"step-{step}.safetensors")
    text(tmp_path / "config.json")
    with pytest.raises(UnreadableCheckpoint, match=r'2 weight files and no index.*"step-900.safetensors", "step-1000'):
        open_checkpoint(tmp_path)
    assert below(tmp_path) == ["step-900.safetensors", "step-1000.safetensors"]


def test_folders_without_a_checkpoint(tmp_path):
    with pytest.raises(UnreadableCheckpoint, match="holds no checkpoint"):
        open_checkpoint(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(UnreadableCheckpoint, match="torch distributed checkpoint"):
        open_checkpoint(tmp_path)
    (tmp_path / ".metadata").unlink()
    weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    text(tmp_path / "unet" / "config.json")
    with pytest.raises(UnreadableCheckpoint, match="no weights itself, 1 below it do"):
        open_checkpoint(tmp_path)
    with pytest.raises(UnreadableCheckpoint, match="no such file"):
        subjects(tmp_path / "nothing")


def test_a_tree_of_runs_in_natural_order(tmp_path):
    for step in (1000, 900):
        folder = tmp_path / "run" / f"ckpt-{step}"
        weights(folder / "model.safetensors")
        text(folder / "config.json")
        for state in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "optimizer.bin"):
            text(folder / state)
    weights(tmp_path / "run" / "model.safetensors")
    text(tmp_path / "run" / "config.json")
    weights(tmp_path / ".cache" / "model.safetensors")
    weights(tmp_path / "run" / ".hidden.safetensors")
    text(tmp_path / "run" / "README.md", "not a checkpoint")
    assert below(tmp_path) == ["run", "run/ckpt-900", "run/ckpt-1000"]


def test_a_pipeline_gives_a_subject_per_part(tmp_path):
    text(tmp_path / "model_index.json")
    for part in ("vae", "unet", "text_encoder"):
        weights(tmp_path / part / "diffusion_pytorch_model.safetensors")
        text(tmp_path / part / "config.json")
    text(tmp_path / "tokenizer" / "vocab.json")
    assert below(tmp_path) == ["text_encoder", "unet", "vae"]


def test_loose_files_by_content_and_by_suffix(tmp_path):
    weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").rename(tmp_path / "named_after_nothing")
    torch.save({"a": torch.ones(1)}, tmp_path / "b.pt")
    # what should be weights and is not must not pass silently
    text(tmp_path / "pointer.safetensors", "version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "dangling.pth").symlink_to("nowhere")
    text(tmp_path / "notes")
    text(tmp_path / "optimizer.pt")
    assert below(tmp_path) == ["b.pt", "dangling.pth", "named_after_nothing", "pointer.safetensors"]
    assert subjects(tmp_path / "b.pt") == [tmp_path / "b.pt"]


def test_trainer_state_alone_is_a_subject(tmp_path):
    text(tmp_path / "optimizer.pt")
    assert below(tmp_path) == ["optimizer.pt"]


def test_links_in_a_circle_end(tmp_path):
    weights(tmp_path / "x" / "w.safetensors")
    (tmp_path / "x" / "again").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "x")
    assert len(subjects(tmp_path)) == 1


def test_the_hub_cache_is_seen_once(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "1"
    weights(tmp_path / "models--x" / "blobs" / "abc")
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    text(snapshot / "config.json")
    assert below(tmp_path) == ["models--x/snapshots/1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_closed_folder_is_a_subject_that_will_fail(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert below(tmp_path) == ["closed"]
