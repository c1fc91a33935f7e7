import collections
import contextlib
import enum
import io
import os
import pathlib
import pickle
import pickletools
import struct
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_cli.errors import UnreadableCheckpoint, UnsafeCheckpoint
from collapse_cli.sources.pickled import GlobalName, Opaque, TensorRef, UnreadableTensor, refusal
from collapse_cli.sources.unpickler import Limits, unpickled

PROTOCOLS = range(6)


def read(data, **limits):
    return unpickled(data, where="x.bin", limits=Limits(**limits)).tree


def data_pkl(value, protocol=2):
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


class Colour(enum.Enum):
    RED = 1


class Custom:
    def __init__(self):
        self.depth = 12


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


PLAIN = {
    "a": [1, -1, 255, 65_536, -(2**31), 2**80, 1.5, float("inf"), None, True, False],
    "b": ("x", "ü", "x" * 300, b"bytes", b"y" * 300, bytearray(b"z")),
    "c": {1: {2, 3}, (1, "t"): frozenset({4}), None: complex(1, 2)},
    "d": collections.OrderedDict([("k", ()), ("l", (1,)), ("m", (1, 2, 3, 4, 5))]),
    "e": collections.defaultdict(list, {"f": [1]}),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back_as_python_itself_reads_them(protocol):
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_that_hold_themselves_keep_their_shape(protocol):
    circle = []
    circle.append(circle)
    found = read(pickle.dumps(circle, protocol))
    assert found[0] is found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-7), np.float64(0.1), np.bool_(True)], ids=repr)
def test_numpy_scalars_become_numbers(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value.item()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [Custom(), pathlib.PurePosixPath("/a/b"), types.SimpleNamespace(x=1), np.arange(3)],
    ids=["custom", "path", "namespace", "array"],
)
def test_unknown_classes_become_inert_records(value, protocol):
    found = read(pickle.dumps({"before": 1, "it": value, "after": [2]}, protocol))
    assert (found["before"], found["after"]) == (1, [2])
    assert isinstance(found["it"], Opaque)


def test_the_attributes_of_an_unknown_class_are_kept():
    found = read(pickle.dumps(Custom(), 2))
    assert found.name == f"{Custom.__module__}.Custom"
    assert found.state == {"depth": 12}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_become_references(protocol):
    whole = torch.arange(12.0).reshape(3, 4)
    found = read(data_pkl({"view": whole[1:, ::2], "p": torch.nn.Parameter(whole.half())}, protocol))
    assert found["view"] == TensorRef("0", "F32", 4, (2, 2), (4, 2))
    assert found["p"] == TensorRef("1", "F16", 0, (3, 4), (4, 1))


def test_tensors_whose_entries_are_not_plain_are_told():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.eye(2).to_sparse()
        quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    tree = {
        "s": sparse,
        "q": quantised,
        "m": torch.empty(2, device="meta"),
        "c": torch.ones(2, dtype=torch.cfloat).conj(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read(data_pkl(tree))
    reasons = {name: leaf.reason for name, leaf in found.items() if isinstance(leaf, UnreadableTensor)}
    assert set(reasons) == {"s", "q", "m", "c"}
    assert "sparse" in reasons["s"]
    assert "quantised" in reasons["q"]
    assert "meta" in reasons["m"]


# --- hostile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "function",
    [os.system, eval, exec, open, __import__, getattr, pickle.loads, torch.load],
    ids=lambda function: function.__qualname__,
)
def test_dangerous_calls_are_refused_and_not_made(function, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {os.system: "touch canary", open: "canary"}.get(function, "open('canary', 'w')")
    data = pickle.dumps({"hyper_parameters": [Calls(function, arguments)]}, protocol)
    before = set(sys.modules)
    with pytest.raises(UnsafeCheckpoint):
        read(data)
    assert list(tmp_path.iterdir()) == []
    # text of protocol 0 is decoded by a codec that Python loads when it is first needed
    assert set(sys.modules) - before <= {"encodings.raw_unicode_escape"}


def test_the_message_says_what_it_calls():
    with pytest.raises(UnsafeCheckpoint) as caught:
        unpickled(pickle.dumps(Calls(os.system, "true")), where="runs/7/pytorch_model.bin")
    assert str(caught.value) == (
        f"runs/7/pytorch_model.bin: unsafe pickle: it calls {os.name}.system. Nothing was executed"
    )


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("torch.serialization", "os.system"),
        ("collections", "abc.sys.modules"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("torch", "hub.load"),
        ("torch.hub", "load"),
        ("numpy.f2py.crackfortran", "getlincoef"),
        ("importlib.util", "find_spec"),
        ("operator", "attrgetter"),
    ],
)
def test_names_put_together_on_the_stack_are_judged_too(module, name):
    with pytest.raises(UnsafeCheckpoint):
        read(b"\x80\x04" + text(module) + text(name) + b"\x93)R.")
    with pytest.raises(UnsafeCheckpoint):  # taken out of the memo, long after it was put there
        read(b"\x80\x04" + text(module) + b"\x94" + text(name) + b"\x9400h\x00h\x01\x93.")


@pytest.mark.parametrize(
    "data", [b"cos\nsystem\n(S'true'\ntR.", b"(S'true'\nios\nsystem\n.", b"(cos\nsystem\nS'true'\no."]
)
def test_the_oldest_ways_to_call_are_judged_too(data):
    with pytest.raises(UnsafeCheckpoint):
        read(data)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("omegaconf.dictconfig", "DictConfig"),
        ("argparse", "Namespace"),
        ("pathlib", "PosixPath"),
        ("functools", "partial"),
    ],
)
def test_harmless_names_are_not_refused(module, name):
    assert refusal(module, name) is None


def test_a_module_that_exists_nowhere_is_not_looked_for(tmp_path, monkeypatch):
    (tmp_path / "canary_module.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\ndef f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = read(b"\x80\x04" + text("canary_module") + text("f") + b"\x93)R.")
    assert found.name == "canary_module.f"
    assert "canary_module" not in sys.modules
    assert not (tmp_path / "canary").exists()


LAUGHS = b"\x80\x02]q\x00" + b"".join(b"(" + b"h\x00" * 10 + b"lq\x00" for _ in range(500)) + b"."
DEEP_KEY = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s."
WIDE_KEY = b"\x80\x02})" + b"2\x86" * 64 + b"K\x01s."


@pytest.mark.parametrize(
    ("data", "limits", "number"),
    [
        (b"\x80\x02" + b"N" * 200 + b".", {"opcodes": 100}, "100 operations"),
        (b"\x80\x02" + b"N" * 200 + b".", {"stack": 100}, "100 values"),
        (b"\x80\x02" + b"(" * 200 + b".", {"marks": 100}, "100 nested marks"),
        (b"\x80\x04N" + b"\x94" * 200 + b".", {"memo": 100}, "100 remembered"),
        (pickle.dumps("x" * 200), {"text": 100}, "100 characters"),
        (pickle.dumps(1 << 900), {"integer": 100}, "800 bits"),
        (
            b"\x80\x02cbuiltins\nlist\n" + b"(" + b"N" * 60 + b"t\x85q\x00R" + b"cbuiltins\nlist\nh\x00R.",
            {"copied": 100},
            "100 copied",
        ),
        (DEEP_KEY, {}, "64 parts"),
        (WIDE_KEY, {}, "64 parts"),
    ],
    ids=["opcodes", "stack", "marks", "memo", "text", "integer", "copies", "deep key", "wide key"],
)
def test_every_bound_ends_in_an_error_with_its_number(data, limits, number):
    with pytest.raises(UnreadableCheckpoint, match=number):
        read(data, **limits)


def test_a_billion_laughs_cost_what_their_bytes_cost():
    assert len(read(LAUGHS)) == 10


def test_bytearray_of_a_size_does_not_take_that_memory():
    with pytest.raises(UnreadableCheckpoint):
        read(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + struct.pack("<q", 10**11)[:5] + b"\x85R.")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02h\x05.",
        b"\x80\x09N.",
        b"\x80\x02N",
        b"\x80\x02t.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02]]K\x01s.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04K\x01K\x02\x93.",
        b"Pabc\n.",
        b"S'\\d'\n",
    ],
    ids=repr,
)
def test_broken_pickles_are_unreadable(data):
    with pytest.raises(UnreadableCheckpoint):
        read(data)


REAL = data_pkl({"state_dict": {"a": torch.ones(2, 3), "b": torch.nn.Parameter(torch.ones(2))}, "x": Custom(), **PLAIN})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(data):
    try_reading(b"\x80\x02" + data + b".")
    try_reading(data)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutations_of_a_real_pickle_are_refused_or_read(changes):
    data = bytearray(REAL)
    for place, value in changes:
        data[place] = value
    try_reading(bytes(data))


OPCODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from([*OPCODES, b"K\x01", b"h\x00", b"q\x00", b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n"])
    )
)
def test_random_operations_are_refused_or_read(operations):
    try_reading(b"".join(operations) + b".")


def try_reading(data):
    with contextlib.suppress(UnreadableCheckpoint, UnsafeCheckpoint):
        read(data)


def test_a_global_alone_is_its_name():
    assert read(pickle.dumps(Colour, 2)) == GlobalName(f"{Colour.__module__}.Colour")
