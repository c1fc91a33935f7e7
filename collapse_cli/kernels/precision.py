"""How exactly the numbers of a tensor are stored: mantissa bits really used, and the rounding step that follows."""

import torch
from torch import Tensor

from collapse_cli.kernels.views import Stored, Weight

__all__ = ["STORED_MANTISSA_BITS", "mantissa_bits", "rounding_step", "stored_mantissa_bits"]

#: Explicit mantissa bits of each floating dtype, by its safetensors name (IEEE 754; OCP OFP8 and MX, 2023).
STORED_MANTISSA_BITS = {
    "F64": 52,
    "F32": 23,
    "BF16": 7,
    "F16": 10,
    "F8_E4M3": 3,
    "F8_E4M3FNUZ": 3,
    "F8_E5M2": 2,
    "F8_E5M2FNUZ": 2,
    "F8_E8M0": 0,
    "F6_E2M3": 3,
    "F6_E3M2": 2,
    "F4": 1,
}

#: Entries looked at first: nearly every fp32 tensor shows all its bits there.
_GLANCE = 1 << 12
#: Entries looked at per further step: a working set that stays in the cache and bounds memory.
_CHUNK = 1 << 20


def used_mantissa_bits(tensor: Tensor) -> int:
    """23 minus the trailing zero bits common to all words of an fp32 tensor: 7 for bf16 upcast to fp32, 0 for zeros."""
    words = tensor.contiguous().view(torch.int32).reshape(-1)
    union = 0
    starts = [0, *range(_GLANCE, words.numel(), _CHUNK)]
    for start, end in zip(starts, [*starts[1:], words.numel()], strict=True):
        folded = words[start:end]
        while folded.numel() > 1:
            half = folded.numel() // 2
            odd = folded[2 * half :]
            folded = torch.cat((folded[:half] | folded[half : 2 * half], odd))
        union |= int(folded[0]) & 0x7FFFFF if folded.numel() else 0
        if union & 1:
            return 23
    return 23 - (((union & -union).bit_length() - 1) if union else 23)


def stored_mantissa_bits(view: Stored | Weight) -> int:
    """Mantissa bits of the stored dtype."""
    return STORED_MANTISSA_BITS.get(view.site.dtype, 23)


def mantissa_bits(view: Stored | Weight) -> int:
    """Mantissa bits really used: the coarser of the stored dtype and what the words show."""
    bits = stored_mantissa_bits(view)
    if view.tensor.dtype is not torch.float32 or view.tensor.numel() == 0 or bits != 23:
        return bits
    # a handful of entries (a scale, a constant gain) shows few bits by accident, not by rounding
    if view.tensor.numel() < 256:
        return bits
    return max(used_mantissa_bits(view.tensor), 1)


def rounding_step(view: Stored | Weight) -> float:
    """The relative step `eps` of the effective dtype: bf16 2⁻⁷, fp16 2⁻¹⁰, fp32 2⁻²³, e4m3 2⁻³, e5m2 2⁻²."""
    return 2.0 ** -view.get(mantissa_bits)
