"""The dtypes a checkpoint can hold, by their safetensors names; torch is imported only when one is asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["BITS", "NOT_DEQUANTISED", "dtype_name", "torch_dtype"]

#: Bits per entry of every dtype of the format (safetensors 0.8, `Dtype::bitsize`).
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

#: Dtypes narrower than a byte: known, sized and listed, but their values are not read.
NOT_DEQUANTISED = frozenset({"F4", "F6_E2M3", "F6_E3M2"})

#: torch's own names. `F6_*` have no torch dtype; `C128` is no dtype of the format, but torch and numpy save it.
_TORCH_NAMES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "C128": "complex128",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_NAMES = {torch_name: name for name, torch_name in _TORCH_NAMES.items()}


def torch_dtype(name: str) -> "torch.dtype":
    """The torch dtype of a safetensors dtype name.

    Raises:
        KeyError: torch has no such dtype (`F6_E2M3`, `F6_E3M2`, or `F4` and `F8_E8M0` before torch 2.8).
    """
    import torch

    found = getattr(torch, _TORCH_NAMES[name], None)
    if not isinstance(found, torch.dtype):
        raise KeyError(name)
    return found


def dtype_name(dtype: "torch.dtype") -> str:
    """The safetensors name of a torch dtype.

    Raises:
        KeyError: the dtype has no name in the format (`qint8`, `complex32`, bit types).
    """
    return _NAMES[str(dtype).removeprefix("torch.")]
