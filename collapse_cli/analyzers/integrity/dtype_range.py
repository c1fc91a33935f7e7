"""Numbers at the ends of what their stored dtype can hold."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, on, skip, stored_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Stored
    from collapse_cli.kernels.words import WordRange

#: Zeros that are this many times more than a Gaussian of the same rms has below the smallest normal number were not
#: made by rounding, not even where subnormal numbers are flushed: trained weights are denser at zero than a Gaussian,
#: a Laplace density 1.8 times.
_EXPLAINED = 10.0

SATURATED_SHARE = Metric(
    "saturated_share",
    "1",
    "Share of the entries whose magnitude is the largest that the dtype can hold.",
    better="lower",
    warn=Limit("above", 0.0, "definition: clipped by a cast"),
    null="0",
    message="{saturated} of {entries} entries stand at {largest_finite:.6g}, the largest that {dtype} can hold: they "
    "were clipped.",
)
SUBNORMAL_SHARE = Metric(
    "subnormal_share",
    "1",
    "Share of the entries of a matrix that are smaller than the smallest number with all digits, and not zero.",
    better="lower",
    warn=Limit(
        "above",
        0.75,
        "zoo: beyond every healthy model; weights of rms 0.02 have 0.0024 in fp16 and 0.56 in an unscaled e4m3. Lost "
        "digits alone cost no accuracy, so that there is no error",
    ),
    null="a Gaussian of the same root mean square, rounded to the dtype",
    message="{value:.3g} of its entries are below {smallest_normal:.2g}, where {dtype} loses digits (rms {rms:.2g}).",
)
UNDERFLOW_SHARE = Metric(
    "underflow_share",
    "1",
    "Share of the entries of a matrix that are zero, where rounding or flushing to zero can have made them so.",
    better="lower",
    warn=Limit("above", 0.5, "zoo: 0.52 to 0.96 where the cast cost accuracy, 0.02 and less in sound casts"),
    error=Limit("above", 0.9, "zoo: 0.96 and more where the cast left chance, 0.02 and less in sound casts"),
    null="a Gaussian of the same root mean square, rounded to the dtype",
    message="{zeros} of {entries} entries are zero in {dtype}, too small to be stored (rms {rms:.2g}).",
)
MANTISSA_BITS = Metric(
    "mantissa_bits",
    "bits",
    "Binary digits after the first that the entries really use.",
    null="digits of the stored dtype",
)
HEADROOM_BITS = Metric(
    "headroom_bits",
    "bits",
    "How many times the largest entry could be doubled before it overflows.",
    better="higher",
    warn=Limit("below", 1.0, "zoo: beyond every healthy model; trained fp16 weights commonly have ten bits"),
    message="Its largest entry, {largest:.4g}, is {value:.2g} doublings from overflow in {dtype}.",
)


def _half_precision(scale: float) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    tensor = (scale * torch.randn(64, 256, generator=generator, dtype=torch.float64)).to(torch.float16)
    return Example({"encoder.layer.0.output.dense.weight": tensor}, {"model_type": "bert"})


def healthy() -> Example:
    """Weights of rms 0.02 in fp16."""
    return _half_precision(0.02)


def collapsed() -> Example:
    """Weights of rms 1.5e-8 in fp16, where what is below 3e-8 is zero: nineteen of twenty."""
    return _half_precision(1.5e-8)


@stored_analyzer(
    name="dtype-range",
    family="integrity",
    title="Range of the dtype",
    metrics=(SATURATED_SHARE, SUBNORMAL_SHARE, UNDERFLOW_SHARE, MANTISSA_BITS, HEADROOM_BITS),
    accepts=on.floating(min_entries=257),
    remedy="Export again from fp32 master weights; scale per channel or per block before casting to fp8 or fp16, or "
    "use bf16; scale the loss so that gradients do not underflow; raise the rate or the precision where updates are "
    "smaller than one step of the dtype.",
    references=(
        Reference(
            "Prieto et al. Grokking at the Edge of Numerical Stability. 2025", "https://arxiv.org/abs/2501.04697"
        ),
        Reference("Micikevicius et al. FP8 Formats for Deep Learning. 2022", "https://arxiv.org/abs/2209.05433"),
        Reference(
            "Ding et al. Dissecting Bit-Level Scaling Laws in Quantizing Vision Generative Models. 2025",
            "https://arxiv.org/abs/2501.06218",
        ),
        Reference("Micikevicius et al. Mixed Precision Training. 2017", "https://arxiv.org/abs/1710.03740"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("transposed", "rows_permuted"),
    reads_non_finite=True,
)
def dtype_range(stored: "Stored") -> Iterator[Measurement | Skip]:
    """Does the stored dtype clip, flush or coarsen the values?

    ## Why it matters
    A dtype has a largest number, a smallest one, and a zone above the smallest where digits are lost. A cast clips what
    is too large and flushes what is too small without a word, and the model that is loaded is not the one that was
    trained. fp16 ends at 65504 and loses digits below 6e-5; e4m3 ends at 448 and loses them below 0.016.

    ## How to read it
    `saturated_share` above zero means that a cast clipped. `subnormal_share` and `underflow_share` stand beside what a
    Gaussian of the same rms would have in this dtype: near the null means that the weights as a whole are too small
    for it. Zeros far beyond what rounding explains are a pattern (pruning, padding), are left to `sparsity` and counted
    here as `zeros` in the evidence only. `mantissa_bits` tells what precision was really used: 7 in an fp32 file is a
    bf16 model. `headroom_bits` says how far the largest entry is from overflow.

    ## Limits
    Values are as stored, before any scale is applied. In scaled fp8 one entry of every block stands at the largest
    number by construction (a share of 1/block size), so that `saturated_share` and `headroom_bits` are given for
    unscaled tensors only; a scale under a name that is not known makes a tensor look unscaled. Subnormal numbers and
    zeros are judged in matrices only: biases that start at zero and stay there, decayed key biases and optimizer state
    have them in good health. Masks and buffers are skipped. A few entries that were flushed cannot be told from zeros
    that were meant.
    """
    name, known = stored.site.name, kernels.words
    if not known.is_readable(stored):
        yield skip(name, f"quantised format not read: {stored.site.dtype}")
        return
    if stored.site.role in (Role.MASK, Role.BUFFER):
        yield skip(name, "a mask or buffer: its extreme numbers are meant")
        return
    found = stored.get(known.word_range)
    if found.finite == 0:
        yield skip(name, "not finite")
        return
    if found.saturated and found.saturated + found.zeros == found.finite:
        yield skip(name, "a mask: nothing but zeros and the largest number")
        return
    facts = {
        "dtype": stored.site.dtype,
        "entries": found.finite,
        "zeros": found.zeros,
        "subnormal": found.subnormal,
        "saturated": found.saturated,
        "largest": found.largest,
        "rms": found.root_mean_square,
    }
    bits = kernels.precision
    yield MANTISSA_BITS.at(name, stored.get(bits.mantissa_bits), bits.stored_mantissa_bits(stored), **facts)
    yield from _upper_end(stored, found, facts)
    yield from _lower_end(stored, found, facts)


def _upper_end(stored: "Stored", found: "WordRange", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name = stored.site.name
    if stored.scale_block is not None:
        reason = f"one entry in {stored.scale_block} stands at the largest number by construction"
        yield skip(name, f"saturated_share, headroom_bits: scaled, {reason}")
        return
    largest_finite = kernels.words.largest_finite(stored)
    yield SATURATED_SHARE.at(name, found.saturated / found.finite, 0.0, largest_finite=largest_finite, **facts)
    if found.largest == 0.0:
        yield skip(name, "headroom_bits: every entry is zero")
        return
    yield HEADROOM_BITS.at(name, math.log2(largest_finite) - math.log2(found.largest), **facts)


def _lower_end(stored: "Stored", found: "WordRange", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, known, rms = stored.site.name, kernels.words, found.root_mean_square
    if len(stored.site.shape) < 2 or stored.site.role.kind in ("optimizer", "scale"):
        what = "a vector" if len(stored.site.shape) < 2 else "optimizer state or a scale"
        yield skip(name, f"subnormal_share, underflow_share: {what}, where tiny numbers and zeros are common")
        return
    normal, half_smallest = known.smallest_normal(stored), known.smallest_subnormal(stored) / 2
    below_normal, below_all = known.gaussian_below(normal, rms), known.gaussian_below(half_smallest, rms)
    facts = facts | {"smallest_normal": normal, "smallest": 2 * half_smallest}
    yield SUBNORMAL_SHARE.at(name, found.subnormal / found.finite, below_normal - below_all, **facts)
    if found.largest == 0.0:
        yield skip(name, "underflow_share: every entry is zero, which sparsity reports")
        return
    is_rounding = found.zeros <= _EXPLAINED * below_normal * found.finite
    share = found.zeros / found.finite if is_rounding else 0.0
    yield UNDERFLOW_SHARE.at(name, share, below_all, is_pattern=not is_rounding, **facts)
