"""Safetensors: what the official writer writes is read to the bit, everything else has its own sentence."""

import json
import math
import struct

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.dtypes import BITS, NOT_DEQUANTISED, torch_dtype
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.safetensors import open_safetensors, safetensors_checkpoint, whole_tensors
from collapse_cli.sources.safetensors_header import parse_header


def written(header, values=b"", *, length=None):
    """A file with exactly this header: a dict or the text itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def entry(begin, end, *, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def refusal(content):
    with pytest.raises(UnreadableCheckpoint) as caught:
        parse_header(content, len(content), "m.safetensors")
    assert caught.value.hint
    assert str(caught.value).startswith("cannot read m.safetensors: ")
    return str(caught.value).removeprefix("cannot read m.safetensors: ")


class CountingBytes:
    """Bytes in memory that remember which ranges of them were wanted."""

    def __init__(self, content, size=None):
        self.where, self.content, self.size = "m.safetensors", content, size or len(content)
        self.ranges = []

    def read(self, begin, end):
        self.ranges.append((begin, end))
        return self.content[begin:end]

    def read_into(self, offset, buffer):
        self.ranges.append((offset, offset + buffer.nbytes))
        piece = self.content[offset : offset + buffer.nbytes]
        buffer[: len(piece)] = piece

    def close(self):
        pass


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(1)
    result = {}
    for name in sorted(BITS.keys() - NOT_DEQUANTISED - {"BOOL", "F8_E8M0"}):
        raw = torch.randint(0, 256, (12 * BITS[name] // 8,), dtype=torch.uint8, generator=generator)
        result[f"layer.{name}"] = raw.view(torch_dtype(name)).reshape(3, 4)
    result["flag"] = torch.tensor([True, False])
    result["scalar"] = torch.tensor(2.5)
    result["nothing"] = torch.zeros(0, 7, dtype=torch.bfloat16)
    return result


def test_every_dtype_to_the_bit(tmp_path, tensors):
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    checkpoint = open_safetensors(path)
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.path, checkpoint.format, checkpoint.nbytes) == (str(path), "safetensors", path.stat().st_size)
    sites = checkpoint.sites()
    assert {site.name for site in sites} == set(tensors)
    begins = [checkpoint.origin(site.name).begin for site in sites]
    assert begins == sorted(begins)
    with safe_open(path, "pt") as reference:
        for site in sites:
            read = checkpoint.read(site.name)
            assert site == Site(site.name, tuple(reference.get_slice(site.name).get_shape()), site.dtype)
            assert reference.get_slice(site.name).get_dtype() == site.dtype
            assert (read.dtype, read.shape) == (tensors[site.name].dtype, tensors[site.name].shape)
            if read.numel():
                same = read.reshape(-1).view(torch.uint8)
                assert torch.equal(same, tensors[site.name].reshape(-1).view(torch.uint8))


def test_only_the_header_then_only_the_wanted_range():
    # 200 MB are claimed; nothing but the header is there to be read
    big = 200_000_000
    content = written(
        {"a": entry(0, big), "b": entry(big, big + 8, dtype="F32", shape=[2]), "c": entry(big + 8, big + 9)}
    )
    source = CountingBytes(content, len(content) + big + 9)
    checkpoint = safetensors_checkpoint(source)
    assert [site.name for site in checkpoint.sites()] == ["a", "b", "c"]
    assert source.ranges == [(0, 8), (8, len(content))]
    source.ranges.clear()
    checkpoint.read("b")
    assert source.ranges == [(len(content) + big, len(content) + big + 8)]


def test_narrow_floats_are_listed_as_unreadable():
    content = written({"a": entry(0, 2, dtype="F4", shape=[4]), "b": entry(2, 5, dtype="F6_E2M3", shape=[4])}, bytes(5))
    checkpoint = safetensors_checkpoint(CountingBytes(content))
    assert checkpoint.sites() == ()
    assert checkpoint.unreadable == (
        Skip(None, "a", "F4 is not dequantised"),
        Skip(None, "b", "F6_E2M3 is not dequantised"),
    )


def test_wrapper_prefixes_are_stripped(tmp_path):
    save_file({"module.a": torch.ones(1), "module._orig_mod.b": torch.ones(2)}, tmp_path / "m.safetensors")
    checkpoint = open_safetensors(tmp_path / "m.safetensors")
    assert {site.name for site in checkpoint.sites()} == {"a", "b"}
    assert checkpoint.read("b").shape == (2,)


def test_a_truncated_file_says_which_tensor_and_lists_the_whole_ones(tmp_path):
    path = tmp_path / "m.safetensors"
    content = written({"layers.2.w": entry(0, 1000), "layers.3.w": entry(1000, 4000)})
    path.write_bytes(content + bytes(3000))
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_safetensors(path)
    begin = len(content)
    assert str(caught.value) == (
        f'cannot read {path}: tensor "layers.3.w" should end at byte {begin + 4000:,}, '
        f"the file ends at {begin + 3000:,}"
    )
    assert (
        caught.value.hint == "the file is truncated; copy it again. `collapse inspect` lists the tensors that are whole"
    )
    assert whole_tensors(path) == (Site("layers.2.w", (1000,), "U8"),)


def test_a_file_that_shrinks_later_is_an_error(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    checkpoint = open_safetensors(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UnreadableCheckpoint, match="the file ends at 1,000"):
        checkpoint.read("a")


HOSTILE = {
    "too short": (b"\1\2\3", "a safetensors file should have at least 8 bytes, this one has 3"),
    "header of 2^63 bytes": (
        written(b"{", length=2**63),
        "the header should have at most 100,000,000 bytes, its first eight bytes claim 9,223,372,036,854,775,808",
    ),
    "header cut": (written(b'{"a"', length=50), "the header should end at byte 58, the file ends at 12"),
    "no header": (written(b""), "the header should begin with `{`, it is empty"),
    "header with a blank": (written(b" {}"), "the header should begin with `{`, it begins with b' {}'"),
    "not JSON": (written(b"{nope}"), "the header should be JSON, at character 1: "),
    "not UTF-8": (written(b'{"\xff": 1}'), "the header should be UTF-8, its byte 2 is not"),
    "too deep": (written(b'{"a":' + b"[" * 100_000), "the header should have three levels, "),
    "NaN": (written(b'{"a": NaN}'), "the header should be JSON, which has no NaN"),
    "number without end": (written(b'{"a": ' + b"9" * 5000 + b"}"), "the header should hold sizes of at most 63 bits"),
    "name twice": (written(b'{"a":{},"a":{}}'), 'the header should have each key once, "a" stands in it twice'),
    "key twice below": (
        written(b'{"a":{"dtype":1,"dtype":2}}'),
        'the header should have each key once, "dtype" stands',
    ),
    "half a character": (written(b'{"a\\ud800":{}}'), "the name of tensor "),
    "metadata of numbers": (written({"__metadata__": {"a": 1}}), '"__metadata__" should map strings to strings'),
    "metadata a list": (written({"__metadata__": []}), '"__metadata__" should map strings to strings'),
    "no object": (written({"a": 3}), 'tensor "a" should have dtype, shape and data_offsets'),
    "no shape": (written({"a": {"dtype": "U8", "data_offsets": [0, 0]}}), 'tensor "a" should have dtype, shape and'),
    "unknown dtype": (written({"a": entry(0, 1, dtype="F7")}, b"1"), 'tensor "a" should have a dtype of the format'),
    "negative axis": (written({"a": entry(0, 1, shape=[-1])}, b"1"), 'tensor "a" should have a shape of whole numbers'),
    "axis is true": (
        written({"a": entry(0, 1, shape=[True])}, b"1"),
        'tensor "a" should have a shape of whole numbers',
    ),
    "axis is 1.0": (written({"a": entry(0, 1, shape=[1.0])}, b"1"), 'tensor "a" should have a shape of whole numbers'),
    "shape overflows": (
        written({"a": entry(0, 0, dtype="F32", shape=[2**32, 2**32])}),
        'tensor "a" should have a size that fits in 63 bits, its shape overflows',
    ),
    "shape overflows before a zero": (
        written({"a": entry(0, 0, shape=[2**62, 2**62, 0])}),
        'tensor "a" should have a size that fits in 63 bits, its shape overflows',
    ),
    "shape overflows behind a zero": (
        written({"a": entry(0, 0, shape=[0, 2**62, 2**62])}),
        'tensor "a" should have a size that fits in 63 bits, its shape overflows',
    ),
    "half a byte": (
        written({"a": entry(0, 2, dtype="F4", shape=[3])}, b"12"),
        'tensor "a" should fill whole bytes, 3 entr',
    ),
    "size and range differ": (
        written({"a": entry(0, 8, dtype="F32", shape=[3])}, bytes(8)),
        'tensor "a" should have 12 bytes for F32 [3], its range has 8',
    ),
    "range backwards": (written({"a": entry(1, 0, shape=[1])}), 'tensor "a" should have two data_offsets in order'),
    "three offsets": (
        written({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"1"),
        'tensor "a" should have two data_offsets in order',
    ),
    "overlap": (written({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), 'tensor "b" overlaps what stands before it'),
    "hole": (written({"a": entry(0, 4), "b": entry(5, 6)}, bytes(6)), 'tensor "b" leaves a hole before it'),
    "hole at first": (written({"a": entry(4, 8)}, bytes(8)), 'tensor "a" leaves a hole before it'),
    "something behind": (written({"a": entry(0, 4)}, bytes(5)), "the file should end at byte "),
    "terminal escape in a name": (written({"\x1b[2J\n": 3}), r'tensor "\x1b[2J\n" should have dtype'),
}


@pytest.mark.parametrize(("content", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_each_fault_has_its_sentence(content, sentence):
    assert refusal(content).startswith(sentence)


def test_no_name_reaches_a_terminal_unescaped():
    assert refusal(written({"\x1b[2J\r\u202e": 3})).isprintable()
    assert len(refusal(written({"x" * 65536: 3}))) < 300
    assert quoted("=cmd()<script>::error::") == '"=cmd()<script>::error::"'


#: What the official reader lets pass: its own README forbids the first three, torch cannot hold the last.
OFFICIALLY_BORNE = {"header with a blank", "name twice", "key twice below", "shape overflows behind a zero"}


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - OFFICIALLY_BORNE))
def test_the_official_reader_refuses_it_as_well(tmp_path, name):
    path = tmp_path / "m.safetensors"
    path.write_bytes(HOSTILE[name][0])
    with pytest.raises((SafetensorError, OSError)), safe_open(path, "np"):
        pass


DTYPES = {
    "uint8": "U8",
    "int16": "I16",
    "float32": "F32",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float64": "F64",
}
shapes = st.lists(st.integers(0, 5), max_size=4)
files = st.dictionaries(st.text(max_size=8), st.tuples(st.sampled_from(sorted(DTYPES)), shapes), max_size=6)


def officially_written(described):
    wanted = {}
    for name, (dtype, shape) in described.items():
        size = math.prod(shape) * BITS[DTYPES[dtype]] // 8
        values = (torch.arange(size) % 256).to(torch.uint8)
        wanted[name] = values.view(getattr(torch, dtype)).reshape(shape)
    return save(wanted)


@settings(max_examples=100, deadline=None)
@given(files)
def test_whatever_is_written_is_accepted(described):
    described.pop("__metadata__", None)
    content = officially_written(described)
    header = parse_header(content, len(content), "m")
    assert {found.name: (found.dtype, list(found.shape)) for found in header.entries} == {
        name: (DTYPES[dtype], shape) for name, (dtype, shape) in described.items()
    }
    for found in header.entries:
        assert content[found.begin : found.end] == bytes(index % 256 for index in range(found.end - found.begin))


VALID = save({"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.int8)}, {"format": "pt"})
damage = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damage, st.integers(0, len(VALID)), st.binary(max_size=4))
def test_damage_is_refused_or_still_valid_and_never_anything_else(places, end, tail):
    content = bytearray(VALID)
    for place, value in places:
        content[place] = value
    for damaged in (bytes(content), bytes(content[:end]) + tail):
        try:
            header = parse_header(damaged, len(damaged), "m")
        except UnreadableCheckpoint as error:
            assert str(error).isprintable()  # noqa: PT017 - whether it is raised is not the question
        else:
            assert header.end == len(damaged)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_other_json_is_refused_with_one_of_ours(value):
    content = written({"a": value, "b": {"dtype": "U8", "shape": value, "data_offsets": value}})
    with pytest.raises(UnreadableCheckpoint):
        parse_header(content, len(content), "m")


def test_configuration_beside_a_hub_file(tmp_path):
    for name in ("model.safetensors", "other.safetensors"):
        save_file({"a": torch.ones(1)}, tmp_path / name)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    (tmp_path / "adapter_config.json").write_text("[broken")
    checkpoint = open_safetensors(tmp_path / "model.safetensors")
    assert checkpoint.config == {"num_attention_heads": 4}
    assert checkpoint.adapter == {}
    assert checkpoint.notices == ("adapter_config.json was ignored: it is not JSON",)
    # a configuration lying about is not taken for that of any file
    assert open_safetensors(tmp_path / "other.safetensors").config == {}
    (tmp_path / "model.safetensors").unlink()
    assert open_safetensors(tmp_path / "other.safetensors").config == {"num_attention_heads": 4}


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        pytest.param("[1]", "it is not a JSON object", id="a list"),
        pytest.param("[" * 200_000, "it is not JSON", id="too deep"),
        pytest.param(
            '{"a": "' + "x" * 10_000_000 + '"}', "it has 10,000,009 bytes, more than 10,000,000", id="too long"
        ),
    ],
)
def test_a_broken_configuration_is_a_notice(tmp_path, text, notice):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    checkpoint = open_safetensors(tmp_path / "model.safetensors")
    assert checkpoint.config == {}
    assert checkpoint.notices == (f"config.json was ignored: {notice}",)
