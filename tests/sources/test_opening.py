"""Opening by content: every file is named for what it is, and torch waits until a tensor is read."""

import gzip
import io
import pickle
import subprocess
import sys
import tarfile
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from collapse_cli.errors import InputError, UnreadableCheckpoint
from collapse_cli.sources import open_checkpoint, sniff

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def zipped(*names):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return target.getvalue()


def tarred():
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return target.getvalue()


def legacy():
    target = io.BytesIO()
    torch.save({"a": torch.ones(2)}, target, _use_new_zipfile_serialization=False)
    return target.getvalue()


FOREIGN = {
    "empty": (b"", "is empty"),
    "Git LFS": (POINTER, f"is a Git LFS pointer ({len(POINTER)} bytes), not a checkpoint"),
    "HTML": (b"\n<!DOCTYPE html><html><body>404", "is an HTML page, not a checkpoint"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is XML, not a checkpoint; it begins "),
    "JSON": (b'{"error": "Repository not found"}', r'is JSON, not a checkpoint; it begins "{"error"'),
    "text": ("Entrée introuvable".encode(), 'is plain text, not a checkpoint; it begins "Entrée introuvable"'),
    "text in braces": (b"let a = {1}; // this is a program", "is plain text, not a checkpoint"),
    "zeros": (bytes(100_000), "begins with 65,536 zero bytes"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(range(200)), "is a GGUF file, which is not read yet"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(range(100)), "is an HDF5 file (Keras), which is not read yet"),
    "gzip": (gzip.compress(b"weights"), "is compressed with gzip"),
    "tar": (tarred(), "is a tar archive"),
    "legacy torch": (legacy(), "is a legacy pickle (torch.save before 1.6), which is not supported"),
    "raw pickle": (pickle.dumps({"a": 1}), "is a raw pickle, not a torch.save zip; legacy pickle"),
    "Keras archive": (zipped("config.json", "model.weights.h5"), "is a Keras archive, which is not read yet"),
    "another zip": (zipped("word/document.xml"), "is a zip archive with neither"),
    "cut zip": (zipped("archive/data.pkl")[:30], "is a zip archive without a whole table of contents"),
    "noise": (bytes(range(255, 100, -1)), "is not a checkpoint of a known format"),
}


@pytest.mark.parametrize(("content", "sentence"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_named(tmp_path, content, sentence):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert sniff(path) is None
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"cannot read {path}: {sentence}")
    assert str(caught.value).isprintable()
    assert caught.value.hint


@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "noise"])
def test_a_suffix_does_not_change_what_it_is(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FOREIGN[name][0])
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"cannot read {path}: {FOREIGN[name][1]}")


def test_the_pointer_says_what_to_do(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(POINTER)
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_checkpoint(path)
    assert caught.value.hint == f"git lfs pull --include {path}"


def test_noise_named_safetensors_breaks_a_rule_of_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((20).to_bytes(8, "little") + b"\xff" * 20)
    with pytest.raises(UnreadableCheckpoint, match=r"the header should begin with `\{`"):
        open_checkpoint(path)


def test_a_pickle_with_code_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UnreadableCheckpoint, match="raw pickle"):
        open_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "canary").exists()


def test_every_format_is_found_whatever_it_is_called(tmp_path):
    tensors = {"a": torch.arange(4.0).reshape(2, 2)}
    save_file(tensors, tmp_path / "1")
    torch.save(tensors, tmp_path / "2")
    with (tmp_path / "3").open("wb") as file:
        np.savez(file, a=tensors["a"].numpy())
    with (tmp_path / "4").open("wb") as file:
        np.save(file, tensors["a"].numpy())
    (tmp_path / "5").write_text('{"weight_map": {"a": "1"}}')
    for name, found in (("1", "safetensors"), ("2", "torch-zip"), ("3", "numpy"), ("4", "numpy"), ("5", "sharded")):
        assert sniff(tmp_path / name) == found
        checkpoint = open_checkpoint(str(tmp_path / name))
        assert checkpoint.format == found
        (site,) = checkpoint.sites()
        assert torch.equal(checkpoint.read(site.name), tensors["a"])
        checkpoint.close()


def test_the_configuration_reaches_torch_checkpoints(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"n_head": 2}')
    assert open_checkpoint(tmp_path / "pytorch_model.bin").config == {"n_head": 2}
    assert open_checkpoint(tmp_path).config == {"n_head": 2}


BEGINNINGS = [
    b"",
    b"PK\3\4",
    b"\x93NUMPY\1\0",
    b"GGUF",
    b"{",
    b'{"weight_map": ',
    b"<",
    b"\x80\2",
    bytes(7),
    b"\x02" + bytes(7) + b"{}",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    beginning=st.sampled_from(BEGINNINGS), rest=st.binary(max_size=300), suffix=st.sampled_from([".pt", ".safetensors"])
)
def test_no_file_raises_anything_but_an_input_error(tmp_path, beginning, rest, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(beginning + rest)
    try:
        checkpoint = open_checkpoint(path)
        for site in checkpoint.sites():
            checkpoint.read(site.name)
        checkpoint.close()
    except InputError as error:
        assert str(error).isprintable()  # noqa: PT017 - whether it is raised is not the question


def test_nothing_there(tmp_path):
    for path in ("x" * 5000, "a\0b"):
        with pytest.raises(UnreadableCheckpoint, match="operating system"):
            open_checkpoint(path)
    with pytest.raises(UnreadableCheckpoint, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "nothing")
    assert sniff(tmp_path / "nothing") is None
    assert sniff(tmp_path) is None


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.digest import digest
from collapse_cli.sources.folder import subjects
for path in subjects(Path(sys.argv[1])):
    checkpoint = open_checkpoint(path)
    print(path.name, checkpoint.format, [(site.name, site.shape, site.dtype) for site in checkpoint.sites()])
    digest(checkpoint.files)
"""


def test_headers_are_read_without_torch(tmp_path):
    tensors = {"a": torch.zeros(2, 3, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "1.safetensors")
    torch.save(tensors, tmp_path / "2.pt")
    np.savez(tmp_path / "3.npz", a=np.zeros(3))
    save_file(tensors, (tmp_path / "4").mkdir() or tmp_path / "4" / "x-1.safetensors")
    (tmp_path / "4" / "x.safetensors.index.json").write_text('{"weight_map": {"a": "x-1.safetensors"}}')
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "1.safetensors safetensors [('a', (2, 3), 'BF16')]",
        "2.pt torch-zip [('a', (2, 3), 'BF16')]",
        "3.npz numpy [('a', (3,), 'F64')]",
        "4 sharded [('a', (2, 3), 'BF16')]",
    ]
