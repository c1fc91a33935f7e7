import argparse
import json
import os
import pickle
import subprocess
import sys
import textwrap
import types
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Role
from collapse_cli.errors import UnreadableCheckpoint, UnsafeCheckpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.torch_zip import open_torch_zip


def saved(tmp_path, value, protocol=2, name="x.pt"):
    path = tmp_path / name
    torch.save(value, path, pickle_protocol=protocol)
    return path


def bits(tensor):
    return tensor.shape, tensor.dtype, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


BASE = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
F8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
PLAIN = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64]
OTHERS = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128]
TENSORS = {
    str(dtype): (BASE * 50).to(dtype) for dtype in (*PLAIN, *F8, torch.bool, torch.complex64, torch.complex128)
} | {str(dtype): (BASE * 50).abs().to(dtype) for dtype in OTHERS[:4]}
VIEWS = {
    "whole": BASE,
    "tied": BASE,
    "transposed": BASE.t(),
    "row": BASE[3],
    "column": BASE[:, 5],
    "steps": BASE[1::2, 2::3],
    "expanded": BASE[:, :1].expand(6, 5),
    "scalar": BASE[2, 2],
    "empty": BASE[:0],
    "empty_side": torch.empty(3, 0, 2),
    "zero_dims": torch.tensor(3),
    "parameter": torch.nn.Parameter(BASE.clone()),
    "diagonal": BASE.diagonal(),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("tensors", [TENSORS, VIEWS], ids=["dtypes", "views"])
def test_tensors_are_read_to_the_bit(tensors, protocol, tmp_path):
    # torch's own restricted reader knows protocol 2 only
    expected = torch.load(saved(tmp_path, tensors, 2, "expected.pt"), weights_only=True)
    checkpoint = open_torch_zip(saved(tmp_path, tensors, protocol))
    for site in checkpoint.sites():
        assert bits(checkpoint.read(site.name)) == bits(expected[site.name].detach()), site.name
        assert site.shape == tuple(expected[site.name].shape)
    assert isinstance(checkpoint, Checkpoint)
    assert [site.name for site in checkpoint.sites()] == list(tensors)
    assert checkpoint.unreadable == ()
    assert checkpoint.format == "torch-zip"


def test_tied_tensors_are_two_sites_with_memory_of_their_own(tmp_path):
    checkpoint = open_torch_zip(saved(tmp_path, VIEWS))
    first, second = checkpoint.read("whole"), checkpoint.read("tied")
    first.zero_()
    assert torch.equal(second, BASE)
    assert checkpoint.origin("whole") == checkpoint.origin("tied")


def test_an_origin_is_where_the_bytes_lie(tmp_path):
    path = saved(tmp_path, VIEWS)
    origin = open_torch_zip(path).origin("row")
    assert path.read_bytes()[origin.begin : origin.end] == BASE[3].numpy().tobytes()


def test_a_closed_checkpoint_reads_no_more(tmp_path):
    checkpoint = open_torch_zip(saved(tmp_path, VIEWS))
    checkpoint.close()
    with pytest.raises(UnreadableCheckpoint):
        checkpoint.read("whole")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.blocks = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))

    def forward(self, features):
        return self.blocks(self.norm(self.first(features)))


class Foreign:
    """A class of a library that is not here: its pickle names it, nothing loads it."""

    def __init__(self):
        self.alpha = 0.5


def stepped():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def lightning(model, optimizer, **others):
    hyper_parameters = {
        "num_heads": 3,
        "alpha": np.float32(0.5),
        "args": argparse.Namespace(depth=12),
        "foreign": Foreign(),
        "root": PurePosixPath("/data"),
    }
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": hyper_parameters,
        "callbacks": {"best": torch.tensor(0.25)},
        **others,
    }


def test_a_lightning_checkpoint_with_adam(tmp_path):
    model, optimizer = stepped()
    path = saved(tmp_path, lightning(model, optimizer), name="last.ckpt")
    checkpoint = open_torch_zip(path)
    for name, tensor in model.state_dict().items():
        assert bits(checkpoint.read(name)) == bits(tensor)
    parameters = dict(model.named_parameters())
    assert [group.parameter for group in checkpoint.optimizer] == list(parameters)
    for group in checkpoint.optimizer:
        kept = optimizer.state[parameters[group.parameter]]
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert bits(checkpoint.read(group.moments[key])) == bits(kept[key])
        assert (group.settings["lr"], group.settings["betas"]) == (0.01, [0.9, 0.999])
    roles = {site.name: site.role for site in checkpoint.sites()}
    assert roles["optimizer_states.0.state.3.exp_avg_sq"] == Role.OPTIMIZER_V
    assert "callbacks.best" not in {site.name for site in checkpoint.sites()}
    assert checkpoint.config["num_heads"] == 3
    assert checkpoint.config["alpha"] == 0.5
    assert checkpoint.config["args"] == {"depth": 12}


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_whole_module_is_read_without_its_class(protocol, tmp_path):
    model = Net()
    checkpoint = open_torch_zip(saved(tmp_path, model, protocol))
    assert [site.name for site in checkpoint.sites()] == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert bits(checkpoint.read(name)) == bits(tensor)


def test_shards_keep_their_stored_names(tmp_path):
    path = saved(tmp_path, {"module.a": BASE})
    assert [site.name for site in open_torch_zip(path).sites()] == ["a"]
    assert [site.name for site in open_torch_zip(path, is_stripped=False).sites()] == ["module.a"]


def test_the_configuration_beside_the_file_wins(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 8}))
    path = saved(
        tmp_path, {"state_dict": {"a": BASE}, "hyper_parameters": {"num_heads": 3, "x": 1}}, name="pytorch_model.bin"
    )
    assert open_torch_zip(path).config == {"num_heads": 8, "x": 1}


def test_what_is_no_plain_tensor_is_skipped_with_a_reason(tmp_path):
    tree = {"meta": torch.empty(2, device="meta"), "a": BASE, "vast": torch.ones(1).expand(1 << 20, 1 << 20)}
    checkpoint = open_torch_zip(saved(tmp_path, tree))
    assert [site.name for site in checkpoint.sites()] == ["a"]
    assert {skip.site: skip.reason for skip in checkpoint.unreadable} == {
        "meta": "a meta tensor: saved without its entries",
        "vast": f"it is expanded to {1 << 42:,} bytes from fewer in its storage",
    }


def test_sites_need_no_torch(tmp_path):
    path = saved(tmp_path, {"state_dict": {"a": BASE}})
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.modules["torch"] = None
        sys.modules["numpy"] = None
        from collapse_cli.sources.torch_zip import open_torch_zip
        print([site.name for site in open_torch_zip(Path({str(path)!r})).sites()])
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['a']\n"


# --- rewritten archives ----------------------------------------------------------------------------------------------


def rewritten(path, *, drop=(), change=None, rename=None, compressed=(), more=None):
    """The same archive with some records changed, written by zipfile."""
    target = path.with_name("rewritten.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for item in source.infolist():
            short = item.filename.partition("/")[2]
            if short in drop:
                continue
            data = (change or {}).get(short, source.read(item))
            name = (rename or {}).get(short, item.filename)
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if short in compressed else zipfile.ZIP_STORED)
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return target


@pytest.fixture
def path(tmp_path):
    return saved(tmp_path, {"a": BASE, "b": BASE.to(torch.complex64), "c": BASE > 0})


def test_an_archive_rewritten_by_another_tool_is_read(path):
    again = rewritten(path, compressed=["data.pkl"])
    assert bits(open_torch_zip(again).read("a")) == bits(BASE)


def test_big_endian_bytes_are_turned(path):
    swapped = {
        "data/0": BASE.numpy().byteswap().tobytes(),
        "data/1": BASE.to(torch.complex64).numpy().byteswap().tobytes(),
    }
    found = open_torch_zip(rewritten(path, change={"byteorder": b"big"} | swapped))
    assert bits(found.read("a")) == bits(BASE)
    assert bits(found.read("b")) == bits(BASE.to(torch.complex64))
    assert bits(found.read("c")) == bits(BASE > 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": ["data.pkl"]}, "should have one record data.pkl, it has none"),
        ({"more": {"other/data.pkl": b"N."}}, "one record data.pkl, it has 2"),
        ({"drop": ["data/0"]}, 'storage "0", which the archive lacks'),
        ({"change": {"data/0": b"x" * 191}}, "should have 192 bytes, its record has 191"),
        ({"compressed": ["data/0"]}, 'storage "0" is compressed'),
        ({"change": {"data/0": b"\0" * 10_000_000}, "compressed": ["data/0"]}, 'storage "0" is compressed'),
        ({"change": {"byteorder": b"middle"}}, "should say little or big"),
        ({"change": {"data.pkl": b"not a pickle"}}, "it is not a pickle"),
        ({"change": {"data.pkl": b""}}, "it is not a pickle"),
        ({"more": {"x/constants.pkl": b"N.", "x/code/a.py": b""}}, "it is a TorchScript archive"),
        ({"more": {"../../etc/passwd": b""}}, "points outside the archive"),
        ({"more": {"/etc/passwd": b""}}, "points outside the archive"),
        ({"more": {"x/..\\y": b""}}, "points outside the archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_archives_that_lie_are_refused(changes, said, path):
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_torch_zip(rewritten(path, **changes))
    assert said in str(caught.value)
    assert "rewritten.pt" in str(caught.value)


def test_a_pickle_that_inflates_beyond_its_bound_is_refused(path, monkeypatch):
    monkeypatch.setattr("collapse_cli.sources.torch_zip.LONGEST_PICKLE", 1_000)
    bomb = rewritten(path, change={"data.pkl": b"N" * 1_001}, compressed=["data.pkl"])
    with pytest.raises(UnreadableCheckpoint, match="more than 1,000"):
        open_torch_zip(bomb)


def test_records_upon_each_other_are_refused(path):
    data = bytearray(path.read_bytes())
    # the table of contents makes the first storage reach into the second (PKWARE APPNOTE 4.3.12: sizes at 20 and 24)
    entry = data.rindex(b"x/data/0") - 46
    for place in (entry + 20, entry + 24):
        assert int.from_bytes(data[place : place + 4], "little") == BASE.nbytes
        data[place : place + 4] = (BASE.nbytes + 200).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match='"x/data/1" lies upon the one before it'):
        open_torch_zip(path)


def test_a_record_with_another_name_in_its_own_header_is_refused(path):
    data = bytearray(path.read_bytes())
    place = data.index(b"x/data/1")
    data[place : place + 8] = b"x/data/9"
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match="another name in its own header"):
        open_torch_zip(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(share, path):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableCheckpoint):
        open_torch_zip(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for place in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UnreadableCheckpoint):
            open_torch_zip(place)


def patched_pickle(path, old, new):
    with zipfile.ZipFile(path) as archive:
        data = archive.read("x/data.pkl")
    assert old in data
    return rewritten(path, change={"data.pkl": data.replace(old, new, 1)})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"K\x06K\x08", b"K\x07K\x08", 'tensor "a" should end at byte 224 of its storage, that has 192'),
        (b"K\x08K\x01", b"K\x09K\x01", "should end at byte 212"),
        (b"K\x30t", b"K\x31t", "should have 196 bytes, its record has 192"),
        (b"K\x08K\x01", b"J\xff\xff\xff\xffK\x01", "is not a tuple of sizes"),
        (b"K\x06K\x08\x86", b"K\x06K\x08K\x01\x87", "fewer strides than sides"),
    ],
)
def test_shapes_and_strides_outside_the_storage_are_refused(old, new, said, path):
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_torch_zip(patched_pickle(path, old, new))
    assert said in str(caught.value)


class Calls:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "bury",
    [
        lambda call: call,
        lambda call: {"state_dict": {"a": BASE}, "hyper_parameters": {"deep": [(call,)]}},
        lambda call: {"a": BASE, call: 1},
        lambda call: types.SimpleNamespace(state=call),
    ],
    ids=["alone", "hyper-parameters", "key", "attribute"],
)
def test_a_call_is_refused_and_not_made(bury, protocol, tmp_path):
    canary = tmp_path / "canary"
    path = saved(tmp_path, bury(Calls(os.system, f"touch {canary}")), protocol, name="evil.bin")
    with pytest.raises(UnsafeCheckpoint) as caught:
        open_torch_zip(path)
    assert not canary.exists()
    assert str(caught.value) == f"{path}: unsafe pickle: it calls {os.name}.system. Nothing was executed"


def test_a_call_inside_a_storage_is_refused(path, tmp_path):
    canary = tmp_path / "canary"
    call = pickle.dumps(Calls(os.system, f"touch {canary}"), 2)[2:-1]
    with pytest.raises(UnsafeCheckpoint):
        open_torch_zip(patched_pickle(path, b"X\x03\x00\x00\x00cpu", call))
    assert not canary.exists()


def test_every_changed_byte_is_refused_or_read(path):
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(data), 300):
        changed = bytearray(data)
        changed[place] ^= int(generator.integers(1, 256))
        Path(path).write_bytes(changed)
        try:
            checkpoint = open_torch_zip(path)
            for site in checkpoint.sites():
                checkpoint.read(site.name)
            checkpoint.close()
        except (UnreadableCheckpoint, UnsafeCheckpoint):
            continue
