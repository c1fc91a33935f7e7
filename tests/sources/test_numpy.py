"""NumPy files, against what numpy itself reads."""

import io
import struct
import zipfile
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.errors import UnreadableCheckpoint, UnsafeCheckpoint
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.numpy import open_npy, open_npz, parse_array_header

GENERATOR = np.random.default_rng(1)
ARRAYS = {
    "f8": GENERATOR.normal(size=(3, 4)),
    "big": GENERATOR.normal(size=(3, 4)).astype(">f4"),
    "columns": np.asfortranarray(GENERATOR.normal(size=(2, 3, 4))),
    "big_columns": np.asfortranarray(GENERATOR.integers(0, 9, (3, 4))).astype(">i2", order="F"),
    "half": GENERATOR.normal(size=5).astype(np.float16),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 3)),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j], ">c8"),
    "u8": np.array([2**64 - 1], np.uint64),
    "layer/0/weight": np.arange(100_000, dtype=np.int32),
}


def same(read, array):
    assert read.shape == array.shape
    assert read.is_contiguous()
    assert read.numpy().dtype == array.dtype.newbyteorder("=")
    assert read.numpy().tolist() == array.tolist()


@pytest.mark.parametrize("name", ARRAYS)
def test_npy(tmp_path, name):
    path = tmp_path / "head.weight.npy"
    np.save(path, ARRAYS[name])
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.format == "numpy"
    assert [site.name for site in checkpoint.sites()] == ["head.weight"]
    same(checkpoint.read("head.weight"), ARRAYS[name])


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path, write):
    write(tmp_path / "m.npz", **ARRAYS)
    checkpoint = open_checkpoint(tmp_path / "m.npz")
    assert [site.name for site in checkpoint.sites()] == list(ARRAYS)
    assert checkpoint.sites()[1] == Site("big", (3, 4), "F32")
    for name, array in ARRAYS.items():
        same(checkpoint.read(name), np.asarray(array))


def test_origin_is_the_place_in_the_archive(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.zeros(3), b=np.arange(5.0))
    checkpoint = open_npz(tmp_path / "m.npz")
    origin = checkpoint.origin("b")
    content = (tmp_path / "m.npz").read_bytes()
    assert content[origin.begin : origin.end] == np.arange(5.0).tobytes()


def test_objects_are_refused_and_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.zeros(1), y=np.array([{}], object))
    np.save(tmp_path / "c.npy", np.zeros(1, [("a", "O"), ("b", "f4")]), allow_pickle=True)
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(UnsafeCheckpoint, match="holds Python objects; nothing was executed"):
            open_checkpoint(tmp_path / name)


def test_what_is_no_number_is_listed(tmp_path):
    np.savez(
        tmp_path / "m.npz", w=np.zeros(1), s=np.array(["abc"]), d=np.zeros(1, "M8[s]"), r=np.zeros(2, [("a", "f4")])
    )
    checkpoint = open_npz(tmp_path / "m.npz")
    assert [site.name for site in checkpoint.sites()] == ["w"]
    assert checkpoint.unreadable[0] == Skip(None, "s", "<U3 is no dtype of numbers that is read")
    assert [skip.site for skip in checkpoint.unreadable] == ["s", "d", "r"]


def test_truncated_and_lengthened(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(100))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-1])
    with pytest.raises(UnreadableCheckpoint, match="the array should end at byte 928, the file ends at 927"):
        open_npy(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(content + b"123")
    assert open_npy(tmp_path / "a.npy").notices == ("the 3 bytes after the array were not read",)
    np.savez(tmp_path / "b.npz", a=np.zeros(100))
    content = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(content[:-30])
    with pytest.raises(UnreadableCheckpoint, match="table of contents"):
        open_checkpoint(tmp_path / "b.npz")


def npy(array):
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def archive(path, members, *, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in members:
            target.writestr(name, content)
    return path


def patched(path, field, value):
    """The archive with one 4-byte field of its only entry in the table of contents overwritten."""
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + {"crc": 16, "packed": 20, "size": 24, "offset": 42}[field]
    content[place : place + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


def test_a_member_of_another_size_than_its_array(tmp_path):
    path = archive(tmp_path / "m.npz", [("a.npy", npy(np.zeros(10)) + b"more")])
    with pytest.raises(
        UnreadableCheckpoint, match='array "a" should have 208 bytes by its own header, the archive says 212'
    ):
        open_npz(path)


def test_a_bomb_is_measured_before_it_goes_off(tmp_path):
    # the size claimed is more than deflate can make of these bytes
    path = archive(tmp_path / "m.npz", [("a.npy", npy(np.zeros(10)))])
    with pytest.raises(UnreadableCheckpoint, match=r"claims 4,294,967,294 bytes, which \d+ cannot become"):
        open_npz(patched(path, "size", 2**32 - 2))


def test_a_bomb_that_lies_about_its_size(tmp_path):
    # 200 kB come out of the stream, the header and the table of contents agree on 208 bytes
    path = archive(tmp_path / "m.npz", [("a.npy", npy(np.zeros(10)) + bytes(200_000))])
    checkpoint = open_npz(patched(path, "size", 208))
    with pytest.raises(UnreadableCheckpoint, match="becomes more than the 208 bytes that it claims"):
        checkpoint.read("a")


def test_a_stream_that_ends_early(tmp_path):
    whole = npy(np.arange(1000.0))
    path = archive(tmp_path / "m.npz", [("a.npy", whole[:-8])])
    checkpoint = open_npz(patched(path, "size", len(whole)))
    with pytest.raises(UnreadableCheckpoint, match="becomes fewer"):
        checkpoint.read("a")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_checksum_is_checked(tmp_path, compression):
    path = archive(tmp_path / "m.npz", [("a.npy", npy(np.zeros(10)))], compression=compression)
    checkpoint = open_npz(patched(path, "crc", zlib.crc32(b"another")))
    with pytest.raises(UnreadableCheckpoint, match="does not have the checksum"):
        checkpoint.read("a")


def test_other_damage_of_archives(tmp_path):
    for compression, field, value, words in (
        (zipfile.ZIP_STORED, "packed", 10, "cannot become"),
        (zipfile.ZIP_STORED, "packed", 10**6, "outside the file|table of contents"),
        (zipfile.ZIP_STORED, "offset", 10, "no local header|table of contents"),
        (zipfile.ZIP_BZIP2, "crc", 0, "another way than stored or deflated"),
    ):
        path = archive(tmp_path / "m.npz", [("a.npy", npy(np.zeros(10)))], compression=compression)
        with pytest.raises(UnreadableCheckpoint, match=words):
            open_npz(patched(path, field, value))
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "m.npz", [("a.npy", npy(np.zeros(1)))] * 2)
    with pytest.raises(UnreadableCheckpoint, match="stands in it twice"):
        open_npz(path)


def headed(text, *, version=1):
    text = text.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x93NUMPX" + bytes(20), "magic bytes"),
        (headed("{}", version=1)[:6] + b"\7\0" + bytes(20), "version 1, 2 or 3, it has 7"),
        (headed("{}" + " " * 20_000), "at most 10,000 bytes"),
        (headed("{'descr': '<f4'}"), "descr, fortran_order and shape"),
        (headed("__import__('os').system('false')"), "descr, fortran_order and shape"),
        (headed("(" * 5000), "descr, fortran_order and shape"),
        (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "whole numbers from 0"),
        (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "whole numbers from 0"),
        (headed("{'descr': '<f4', 'fortran_order': False, 'shape': 3}"), "whole numbers from 0"),
        (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2**62, 4)}"), "descr, fortran_order and shape"),
        (headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, {2**62})}}"), "overflows"),
        (headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 65}}}"), "overflows"),
    ],
)
def test_each_fault_of_an_array_has_its_sentence(content, words):
    with pytest.raises(UnreadableCheckpoint, match=words):
        parse_array_header(content, "a.npy", "a")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_never_raises_anything_else(places):
    content = bytearray(npy(np.zeros((2, 3), order="F")))
    for place, value in places:
        content[place] = value
    try:
        header = parse_array_header(bytes(content), "a.npy", "a")
    except (UnreadableCheckpoint, UnsafeCheckpoint):
        return
    assert header.nbytes >= 0


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_never_raise_anything_else(tmp_path, write, data):
    target = io.BytesIO()
    write(target, a=np.arange(4.0), b=np.zeros(2, np.int8))
    content = bytearray(target.getvalue())
    place = st.integers(0, len(content) - 1) | st.integers(len(content) - 200, len(content) - 1)
    for where, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=3)):
        content[where] = value
    (tmp_path / "m.npz").write_bytes(content)
    try:
        checkpoint = open_npz(tmp_path / "m.npz")
        for site in checkpoint.sites():
            checkpoint.read(site.name)
    except (UnreadableCheckpoint, UnsafeCheckpoint):
        return
    checkpoint.close()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(tmp_path, version):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(3.0), version=version)
    assert open_npy(tmp_path / "a.npy").read("a").tolist() == [0, 1, 2]
