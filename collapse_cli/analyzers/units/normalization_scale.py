"""Normalisation layers whose gains are off or whose statistics were never taken."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block

#: ε of a batch norm whose configuration does not say (PyTorch, Keras-compatible exports: 1e-5 and larger).
_VARIANCE_EPS = 1e-5

DEAD_GAIN_SHARE = Metric(
    "dead_gain_share",
    "1",
    "Share of channels whose gain is below a thousandth of the median gain; 1 if all gains are zero.",
    "lower",
    Limit(
        "above",
        0.25,
        "zoo: 0.45 to 0.6 where four of ten channels became superfluous, 0 in healthy models; image classifiers in use "
        "have a tenth of the gains of a first layer at zero",
    ),
    Limit("above", 0.5, "zoo: 0.75 and more where a quarter of the channels is still needed, 0 in healthy models"),
    "0 at initialisation",
    "{dead} of {channels} channels are switched off by their gain",
)
GAIN_MAX_RATIO = Metric(
    "gain_max_ratio",
    "1",
    "Largest gain over the median gain, both absolute.",
    "lower",
    Limit(
        "above",
        1000.0,
        "zoo: beyond every healthy model; gains of trained language models spread over one to two decades",
    ),
    null="1 at initialisation",
    message="channel {channel} has a gain {value:.3g} times the median ({median:.3g})",
)
CONSTANT_CHANNEL_SHARE = Metric(
    "constant_channel_share",
    "1",
    "Share of channels whose running variance does not exceed ε: their input is a constant.",
    "lower",
    Limit("above", 0.25, "zoo: beyond every healthy model; classifiers in use have a few in their first layer"),
    None,
    "0 at initialisation",
    "{constant} of {channels} channels have a running variance of at most {eps:.3g}: their input does not vary",
)
VARIANCE_SPREAD = Metric(
    "variance_spread",
    "dex",
    "log10 of the 99th over the 1st percentile of the running variance; zeros count as the smallest normal float.",
    "lower",
    null="0 at initialisation",
)
UNUSED_STATISTICS = Metric(
    "unused_statistics",
    "1",
    "1 if running mean and variance are exactly 0 and 1 although gain or shift have moved; else 0.",
    "lower",
    Limit("above", 1.0, "definition: evaluation mode then normalises by nothing", inclusive=True),
    null="0",
    message="trained, but running statistics were never taken ({reason}): evaluation mode normalises by nothing",
)


def _batch_norm(*, dead: int, counted: bool) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    gain = torch.ones(64)
    variance = 0.5 + 1.5 * torch.rand(64, generator=generator)
    gain[:dead], variance[:dead] = 1e-6, 0.0
    tensors = {
        "layer1.0.conv1.weight": torch.randn(64, 16, 3, 3, generator=generator) * 0.1,
        "layer1.0.bn1.weight": gain,
        "layer1.0.bn1.bias": torch.zeros(64),
        "layer1.0.bn1.running_mean": torch.randn(64, generator=generator) * 0.1,
        "layer1.0.bn1.running_var": variance,
        "layer1.0.bn1.num_batches_tracked": torch.tensor(1000 if counted else 0),
    }
    return Example(tensors, {})


def healthy() -> Example:
    """A batch norm with unit gains and variances between ½ and 2."""
    return _batch_norm(dead=0, counted=True)


def collapsed() -> Example:
    """The same with 40 of 64 channels off and constant."""
    return _batch_norm(dead=40, counted=True)


@block_analyzer(
    name="normalization-scale",
    family="units",
    title="Normalisation gains and statistics",
    metrics=(DEAD_GAIN_SHARE, GAIN_MAX_RATIO, CONSTANT_CHANNEL_SHARE, VARIANCE_SPREAD, UNUSED_STATISTICS),
    accepts=on.block("norm", says="normalisation layers with at least 16 channels"),
    remedy=(
        "Take the statistics again on data of the kind the model will see (a forward pass in training mode without "
        "steps); if batches were too small or not alike, replace batch statistics by layer, group or unified "
        "normalisation. Exempt gains from weight decay. Channels with dead gain can be pruned."
    ),
    references=(
        Reference(
            "Ioffe & Szegedy. Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate "
            "Shift. 2015",
            "https://arxiv.org/abs/1502.03167",
        ),
        Reference(
            "Yang et al. Unified Normalization for Accelerating and Stabilizing Transformers. 2022",
            "https://arxiv.org/abs/2208.01313",
        ),
        Reference(
            "Burchi & Timofte. MuDreamer: Learning Predictive World Models without Reconstruction. 2024",
            "https://arxiv.org/abs/2405.15083",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("rows_permuted",),
)
def normalization_scale(block: "Block") -> Iterator[Measurement | Skip]:
    """Have normalisation layers switched channels off or lost their statistics?

    ## Why it matters
    A gain of zero removes a channel as surely as a dead unit does, and no gradient from behind brings it back. Running
    statistics that were never taken make a model that trained well useless in evaluation mode, silently.

    ## How to read it
    `dead_gain_share` counts gains below a thousandth of the median of those that are not negligible; for norms that
    store the gain minus one, the one is added first. `gain_max_ratio` finds the single channel that carries a layer, or
    a layer most of which is off. `constant_channel_share` counts batch-norm channels whose input did not vary; with a
    large gain such a channel amplifies noise 300 times. `unused_statistics` is 1 when the running statistics are
    exactly as initialised while the gain or the shift are not: of a layer that is all as initialised nothing is said,
    it was never trained, and a counter of 0 beside statistics in use is what conversions leave.

    ## Limits
    A spread of gains over a decade is normal and is what channel slimming wants. A frozen batch norm that was folded to
    mean 0 and variance 1 is a design and looks like unused statistics. Gains that are all zero while nothing else of
    the layer has moved are taken for a zero-initialised residual branch and skipped, as are layer scales. Whether a
    small gain is compensated by the next layer is not seen.
    """
    name = block.site.name
    reason = _not_applicable(block)
    if reason:
        yield skip(name, reason)
        return
    gain = _values(block, Role.NORM_GAIN)
    if gain is not None:
        gain = gain + float(block.facts.get("norm_offset", 0.0))
        if not bool(gain.any()) and not _has_moved(block):
            yield skip(name, "design: zero-initialised gain, nothing else of the layer has moved")
        else:
            yield from _gains(name, gain.abs())
    variance = _values(block, Role.NORM_VAR)
    if variance is not None:
        eps = float(block.facts.get("eps", _VARIANCE_EPS))
        yield from _variances(name, variance, eps=eps)
        yield _statistics(block, gain, variance)


def _not_applicable(block: "Block") -> str:
    """Why the block is not measured; empty if it is."""
    if "skip" in block.facts:
        return str(block.facts["skip"])
    known = [found for role in (Role.NORM_GAIN, Role.NORM_VAR) if (found := _values(block, role)) is not None]
    if not known:
        is_layer_scale = block.one(Role.LAYER_SCALE) is not None
        return "design: layer scale" if is_layer_scale else "companion tensor missing: norm.gain"
    channels = known[0].numel()
    return f"{channels} channels < 16" if channels < 16 else ""


def _values(block: "Block", role: Role) -> "Tensor | None":
    weight = block.one(role)
    return None if weight is None else weight.tensor.reshape(-1).double().cpu()


def _has_moved(block: "Block") -> bool:
    """Whether anything of the layer but its gain is not as initialised."""
    bias, mean, variance = (_values(block, role) for role in (Role.NORM_BIAS, Role.NORM_MEAN, Role.NORM_VAR))
    moved = [found for found in (bias, mean) if found is not None and bool(found.any())]
    return bool(moved) or (variance is not None and bool((variance != 1.0).any()))


def _gains(name: str, gain: "Tensor") -> Iterator[Measurement]:
    dead, median = kernels.strength.is_dead(gain), kernels.strength.alive_median(gain)
    count, top = int(dead.sum()), int(gain.argmax())
    first = [int(channel) for channel in dead.nonzero().flatten()[:8]]
    yield DEAD_GAIN_SHARE.at(
        name, count / gain.numel(), 0.0, dead=count, channels=gain.numel(), median=median, first=first
    )
    ratio = float(gain[top]) / median if median > 0.0 else 1.0
    yield GAIN_MAX_RATIO.at(name, ratio, 1.0, channel=top, median=median)


def _variances(name: str, variance: "Tensor", *, eps: float) -> Iterator[Measurement]:
    constant = variance <= eps
    count = int(constant.sum())
    first = [int(channel) for channel in constant.nonzero().flatten()[:8]]
    yield CONSTANT_CHANNEL_SHARE.at(
        name, count / variance.numel(), 0.0, constant=count, channels=variance.numel(), eps=eps, first=first
    )
    # zeros would make the ratio infinite: 2⁻¹²⁶ is the smallest normal float32
    low, high = (float(variance.clamp_min(2.0**-126).quantile(share)) for share in (0.01, 0.99))
    yield VARIANCE_SPREAD.at(name, math.log10(high / low), 0.0, p1=low, p99=high)


def _statistics(block: "Block", gain: "Tensor | None", variance: "Tensor") -> Measurement | Skip:
    counter, mean, bias = (_values(block, role) for role in (Role.NORM_COUNT, Role.NORM_MEAN, Role.NORM_BIAS))
    is_uncounted = counter is not None and counter.numel() == 1 and float(counter[0]) == 0.0
    if bool((variance != 1.0).any()) or (mean is not None and bool(mean.any())) or (mean is None and not is_uncounted):
        return UNUSED_STATISTICS.at(block.site.name, 0.0, 0.0, reason="in use")
    # a gain of zero is how residual branches begin
    is_gain_moved = gain is not None and bool((gain != 1.0).any()) and bool(gain.any())
    if not is_gain_moved and (bias is None or not bool(bias.any())):
        return skip(block.site.name, "unused_statistics: the whole layer is as initialised")
    reason = "no batch was counted" if is_uncounted else "mean 0, variance 1"
    return UNUSED_STATISTICS.at(block.site.name, 1.0, 0.0, reason=reason)
