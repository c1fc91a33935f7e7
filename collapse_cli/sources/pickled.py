"""What a pickle can name: refused, rebuilt by our own functions, or kept as an inert record. Nothing is imported."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from collapse_cli.sources.dtypes import BITS, NOT_DEQUANTISED

__all__ = ["ITEM_BYTES", "REBUILT", "GlobalName", "Opaque", "StorageRef", "TensorRef", "UnreadableTensor", "refusal"]

#: Bytes per entry; `C128` is no dtype of the safetensors format, but torch saves it.
ITEM_BYTES: Final = {name: bits // 8 for name, bits in BITS.items() if name not in NOT_DEQUANTISED} | {"C128": 16}


@final
@dataclass(frozen=True, slots=True)
class GlobalName:
    """A global by its dotted name; never looked up."""

    name: str


@final
@dataclass(eq=False, slots=True)
class Opaque:
    """An object of a class that is not rebuilt: what the pickle says about it, and no behaviour."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class StorageRef:
    """A run of bytes under `data/<key>`; `dtype` is None where its entries have no safetensors name."""

    key: str
    dtype: str | None
    numel: int
    location: str

    @property
    def nbytes(self) -> int | None:
        """Bytes the storage must have, where that is known."""
        return None if self.dtype is None else self.numel * ITEM_BYTES[self.dtype]


@final
@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as a window on a storage: `offset` and `stride` in entries."""

    storage_key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class UnreadableTensor:
    """A tensor that exists and whose entries are not plain numbers in a storage."""

    reason: str


# --- refused ---------------------------------------------------------------------------------------------------------

#: Modules that run code, load more of it, unpickle again, or reach files, processes and the network.
DANGEROUS_MODULES: Final = frozenset(
    """
    __builtins__ _aix_support _osx_support _pickle _posixsubprocess _pyrepl _socket _thread _winreg aiohttp asyncio
    atexit bdb cPickle cProfile cgi cloudpickle code codeop commands concurrent ctypes dbm dill distutils doctest
    ensurepip faulthandler ftplib gc http httplib idlelib imaplib imp importlib jsonpickle lib2to3 linecache marshal
    mmap multiprocessing nt ntpath os pdb pickle pip pkg_resources pkgutil popen2 posix posixpath profile pty pydoc
    requests runpy sched setuptools shelve shutil signal site smtplib socket socketserver sqlite3 ssl subprocess sys
    tempfile threading timeit trace urllib urllib2 venv webbrowser winreg xmlrpc zipimport
    """.split()  # noqa: SIM905  (one module a line would be ninety lines)
)
#: Functions and submodules of otherwise harmless modules that do the same.
DANGEROUS_NAMES: Final = frozenset(
    f"{module}.{name}"
    for module, names in {
        "builtins": "__import__ apply breakpoint compile delattr dir eval exec execfile exit "
        "file getattr globals help input locals open quit raw_input setattr vars",
        "operator": "attrgetter itemgetter methodcaller",
        "_operator": "attrgetter itemgetter methodcaller",
        "io": "FileIO open open_code",
        "_io": "FileIO open open_code",
        "codecs": "lookup open",
        "_codecs": "lookup",
        "functools": "reduce",
        "joblib": "load",
        "logging": "config",
        "platform": "popen",
        "types": "CodeType FunctionType LambdaType MethodType ModuleType",
        "uuid": "_get_command_stdout",
        "numpy": "distutils f2py fromfile genfromtxt load loadtxt memmap save savetxt testing",
        "pandas": "eval read_pickle",
        "torch": "_dynamo _inductor _utils_internal classes compile hub jit load multiprocessing ops package save",
        "torch.distributed": "launcher rpc run",
        "torch.fx": "_symbolic_trace",
        "torch.serialization": "load save",
        "torch.storage": "_load_from_bytes",
        "torch.utils": "_config_module bottleneck collect_env cpp_extension",
    }.items()
    for name in names.split()
)
#: Modules by the names Python 2 gave them (PEP 3108), as protocols 0 to 2 write them.
OLD_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg", "cPickle": "pickle", "UserDict": "collections"}


def refusal(module: str, name: str) -> str | None:
    """The dotted name to refuse, or None. A dotted `name` walks attributes, so that each step is judged."""
    module = OLD_MODULES.get(module, module)
    full = f"{module}.{name}"
    steps = full.split(".")
    walks = name.split(".")
    dunder = any(step.startswith("__") for step in walks)
    is_dangerous = (
        steps[0] in DANGEROUS_MODULES
        or (len(walks) > 1 and (dunder or not DANGEROUS_MODULES.isdisjoint(walks)))
        or (dunder and module != "copyreg")
        or any(".".join(steps[:end]) in DANGEROUS_NAMES for end in range(2, len(steps) + 1))
        # a module reached through another one: `from torch import os`
        or (len(walks) == 1 and walks[0] in DANGEROUS_MODULES and steps[0] in ("torch", "numpy", "builtins"))
    )
    return full if is_dangerous else None


# --- rebuilt ---------------------------------------------------------------------------------------------------------

_STORAGE_DTYPES: Final = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ComplexDoubleStorage": "C128",
    "ComplexFloatStorage": "C64",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
    "UntypedStorage": "U8",
}
_TORCH_DTYPES: Final = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    "complex128": "C128",
    "complex64": "C64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
}
_NUMPY_STRUCT: Final = dict(
    zip("b1 f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split(), "?efdbhiqBHIQ", strict=True)  # noqa: SIM905  (a table in one line)
)
#: torch counts sizes, strides and offsets in int64; it has at most 64 dimensions.
LARGEST: Final = 2**63 - 1
MOST_AXES: Final = 64


def storage(persistent_id: object) -> StorageRef:
    """The storage a persistent id of `torch.save` names: `("storage", type, key, location, numel)`.

    Raises:
        ValueError: it is something else.
    """
    match persistent_id:
        case ("storage", GlobalName(name), str(key), str(location), int(numel)) if 0 <= numel <= LARGEST:
            module, _, kind = name.rpartition(".")
            dtype = _STORAGE_DTYPES.get(kind) if module.split(".")[0] == "torch" else None
            return StorageRef(key, dtype, numel, location)
    raise ValueError("a persistent id is not a storage of torch.save")


def _sides(value: object) -> tuple[int, ...]:
    match value:
        case tuple() | list() if len(value) <= MOST_AXES and all(type(n) is int and 0 <= n <= LARGEST for n in value):
            return tuple(value)
    raise ValueError("a shape or stride of a tensor is not a tuple of sizes")


def _window(
    place: object, offset: object, size: object, stride: object, dtype: str | None
) -> TensorRef | UnreadableTensor:
    shape, steps = _sides(size), _sides(stride)
    if not isinstance(place, StorageRef):
        raise ValueError("a tensor stands on something that is no storage")  # noqa: TRY004  (bad bytes, not a bad call)
    if type(offset) is not int or not 0 <= offset <= LARGEST or len(shape) != len(steps):
        raise ValueError("a tensor has no valid offset, or fewer strides than sides")
    if place.location == "meta":
        return UnreadableTensor("a meta tensor: saved without its entries")
    if dtype is None:
        return UnreadableTensor("its entries have a dtype that is not read")
    return TensorRef(place.key, dtype, offset, shape, steps)


def _tensor(place: object, offset: object, size: object, stride: object) -> TensorRef | UnreadableTensor:
    return _window(place, offset, size, stride, place.dtype if isinstance(place, StorageRef) else None)


def _tensor_v2(place: object, offset: object, size: object, stride: object, *rest: object) -> object:
    metadata = rest[2] if len(rest) > 2 else None
    return _lazy(metadata) or _tensor(place, offset, size, stride)


def _tensor_v3(place: object, offset: object, size: object, stride: object, *rest: object) -> object:
    dtype, metadata = rest[2], rest[3] if len(rest) > 3 else None
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, GlobalName) else ""
    return _lazy(metadata) or _window(place, offset, size, stride, _TORCH_DTYPES.get(name))


def _lazy(metadata: object) -> UnreadableTensor | None:
    if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
        return UnreadableTensor("a conjugated or negated view, not resolved before saving")
    return None


def _parameter(tensor: object, *_: object) -> object:
    return tensor


def _typed(function: object, _kind: object, args: object, *_state: object) -> object:
    if isinstance(function, GlobalName) and isinstance(args, tuple) and function.name in TENSORS:
        return TENSORS[function.name](*args)
    return UnreadableTensor("a tensor subclass of its own making")


def _unreadable(reason: str) -> Callable[..., UnreadableTensor]:
    return lambda *_: UnreadableTensor(reason)


TENSORS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch._utils._rebuild_qtensor": _unreadable("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a meta tensor: saved without its entries"),
    "torch._utils._rebuild_wrapper_subclass": _unreadable("a wrapper subclass of a tensor"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unreadable("a device tensor saved through numpy"),
    "torch._utils._rebuild_xla_tensor": _unreadable("a device tensor saved through numpy"),
    "torch.distributed.tensor.DTensor": _unreadable("a distributed tensor: one shard of it"),
}


def _numpy_scalar(dtype: object, raw: object) -> object:
    match dtype, raw:
        case Opaque("numpy.dtype", (str(code), *_), state), bytes():
            order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in (">", "<") else "<"
            form = _NUMPY_STRUCT.get(code.lstrip("<>=|"))
            if form and struct.calcsize(f"{order}{form}") == len(raw):
                return struct.unpack(f"{order}{form}", raw)[0]
    return Opaque("numpy.scalar", (dtype, raw))


def _encoded(text: object, codec: object = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise ValueError("bytes are encoded in an unknown way")
    return text.encode("latin-1")


def _size(sides: object = ()) -> tuple[int, ...]:
    return _sides(sides)


def _bytes(value: object = b"", codec: object = None) -> bytes:
    if isinstance(value, str):
        return _encoded(value, codec)
    if not isinstance(value, bytes | bytearray):
        raise ValueError("bytes are made of something else")  # noqa: TRY004  (bad bytes, not a bad call)
    return bytes(value)


def _complex(real: object = 0.0, imaginary: object = 0.0) -> complex:
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise ValueError("a complex number is not made of two numbers")  # noqa: TRY004  (bad bytes, not a bad call)
    return complex(real, imaginary)


#: What is rebuilt beside containers (those need the interpreter's own checks of keys and sizes).
REBUILT: Final[Mapping[str, Callable[..., Any]]] = {
    **TENSORS,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch._tensor._rebuild_from_type": lambda function, kind, args, state=None: _typed(function, kind, args, state),
    "torch.Size": _size,
    "torch.device": lambda kind="cpu", index=None: kind if index is None else f"{kind}:{index}",
    "_codecs.encode": _encoded,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "copyreg._reconstructor": lambda kind, *_: Opaque(kind.name if isinstance(kind, GlobalName) else "object"),
}
