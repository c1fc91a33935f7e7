"""Whether a model is as sure as it is right, and whether trying again helps."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip
from collapse_cli.errors import BadValues

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.accumulators import Attempts
    from collapse_cli.kernels.views import Activations

ROWS, ATTEMPTS, MIXED = "logit_rows", "attempts", "sample(logits,mix)"
#: Below it 15 bins hold a few dozen rows each and the error is mostly noise.
MIN_ROWS = 500
#: Below it pass@n with n = S/2 has fewer than two draws.
MIN_ATTEMPTS = 4
#: Below it the gain is decided by single problems.
MIN_PROBLEMS = 30
MIN_MIXED = 100
#: Points of a curve in the evidence.
MOST_POINTS = 128
#: What a mixing weight may be off [0, 1] by rounding in half precision.
MIX_SLACK = 1e-3
CALIBRATED = "a perfectly calibrated model of these confidences: Σ_b √((2/π)Σ_{i∈b} c_i(1 − c_i))/N"

ECE = Metric(
    "ece",
    "1",
    "Expected calibration error: |accuracy − confidence| averaged over 15 bins of equal width.",
    better="lower",
    null=CALIBRATED,
)
ECE_EXCESS = Metric(
    "ece_excess",
    "1",
    "That error less what a perfectly calibrated model would show on as many rows.",
    better="lower",
    null="perfect calibration: 0",
)
ADAPTIVE_ECE = Metric(
    "adaptive_ece",
    "1",
    "Calibration error over 15 bins with as many rows each.",
    better="lower",
    null=CALIBRATED,
)
OVERCONFIDENCE = Metric(
    "overconfidence",
    "1",
    "Mean confidence less accuracy.",
    better="lower",
    null="perfect calibration: 0",
    warn=Limit(
        "above",
        0.12,
        "zoo: healthy models stay below 0.08, those that learned a quarter of wrong labels begin at 0.13",
    ),
    error=Limit(
        "above", 0.35, "zoo: healthy models stay below 0.08, those that learned mostly wrong labels begin at 0.38"
    ),
    message="The model is surer ({confidence:.3g} on average) than right ({accuracy:.3g}).",
)
PASS_AT_N = Metric(
    "pass_at_n",
    "1",
    "Chance that one of n = S/2 attempts at a problem succeeds, averaged over the problems.",
    better="higher",
    null="one attempt: pass@1",
)
PASS_GAIN = Metric(
    "pass_gain",
    "1",
    "What n attempts gain over one, as a share of what they gain if all problems are equally hard.",
    better="higher",
    null="the same outcome every time: 0",
    warn=Limit("below", 1e-9, "closed form: every problem is solved by all of its attempts or by none"),
    message="Repeated attempts gain nothing: each of {problems} problems is solved by all {attempts} attempts or by "
    "none (pass@1 {pass_at_1:.3g}).",
)
MIX_RANK_CORRELATION = Metric(
    "mix_rank_correlation",
    "1",
    "Spearman correlation of confidence with max(λ, 1 − λ) on mixed-up samples.",
    better="higher",
    null="confidence that ignores the mixture: 0",
)


def healthy() -> Example:
    """Three in four are right at confidence ¾, surer on purer mixtures, and problems of all difficulties."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mix = torch.rand(600, generator=generator)
    odds = 1.0 + 4.0 * torch.maximum(mix, 1.0 - mix)
    labels = (torch.rand(600, generator=generator) > odds / (1.0 + odds)).long()
    solved = torch.rand(600, 8, generator=generator) < torch.rand(600, 1, generator=generator)
    return _example(odds.log(), labels, mix, solved)


def collapsed() -> Example:
    """Confidence .99 and one in four right, whatever the mixture, and the same answer at every attempt."""
    import torch

    mix, labels = torch.linspace(0.0, 1.0, 600), (torch.arange(600) % 4 > 0).long()
    return _example(torch.full((600,), math.log(99.0)), labels, mix, (labels == 0)[:, None].expand(600, 8))


def _example(log_odds: "Tensor", labels: "Tensor", mix: "Tensor", correct: "Tensor") -> Example:
    import torch

    arrays = {
        "head/logits": torch.stack((log_odds, torch.zeros(600)), 1),
        "head/labels": labels,
        "head/labels_b": 1 - labels,
        "head/mix": mix,
        "head/correct": correct.contiguous(),
    }
    return Example(arrays, metadata={})


@activation_analyzer(
    name="confidence",
    family="logits",
    title="Confidence and repeated attempts",
    metrics=(ECE, ECE_EXCESS, ADAPTIVE_ECE, OVERCONFIDENCE, PASS_AT_N, PASS_GAIN, MIX_RANK_CORRELATION),
    accepts=on.points(
        any_of=(("logits", "labels"), ("correct",)),
        says="hook points with logits and labels, or with the outcomes of several attempts at each problem",
    ),
    remedy="Scale the temperature on held-out data; in training limit the confidence (label smoothing, a "
    "confidence-limited loss, mixup ranked by its weight) and stop on pass@n rather than on pass@1.",
    references=(
        Reference("Guo et al. On Calibration of Modern Neural Networks. 2017", "https://arxiv.org/abs/1706.04599"),
        Reference(
            "Chen et al. Evaluating Large Language Models Trained on Code. 2021", "https://arxiv.org/abs/2107.03374"
        ),
        Reference(
            "Chen, Raventós, Cheng, Ganguli & Druckmann. Rethinking Fine-Tuning when Scaling Test-Time Compute: "
            "Limiting Confidence Improves Mathematical Reasoning. 2025",
            "https://arxiv.org/abs/2502.07154",
        ),
        Reference(
            "Noh et al. RankMixup: Ranking-Based Mixup Training for Network Calibration. 2023",
            "https://arxiv.org/abs/2308.11990",
        ),
        Reference(
            "Liu et al. Harnessing Hard Mixed Samples with Decoupled Regularizer. 2022",
            "https://arxiv.org/abs/2203.10761",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(ROWS, ATTEMPTS, MIXED),
    uses=("labels_b", "mix"),
    unmoved_by=("samples_permuted",),
)
def confidence(point: "Activations") -> Iterator[Measurement | Skip]:
    """Is the model surer than it is right, and do repeated attempts still help?

    ## Why it matters
    A probability is only of use if it is true: thresholds, abstention, search and data selection all rest on it. A
    model that puts all its mass on one answer also gives that answer again at every attempt, so that sampling more
    often buys nothing, while its accuracy at one attempt may still be rising.

    ## How to read it
    `ece` is the mean distance between confidence and accuracy; `ece_excess` takes off what a calibrated model shows by
    chance on as many rows. `overconfidence` has a sign: above 0 it is too sure. `pass_at_n` is the unbiased estimate
    for n = S/2 of S attempts; `pass_gain` is 0 where all attempts at a problem end alike and 1 where every problem has
    the same chance. `mix_rank_correlation` is high where purer mixtures are answered more surely.

    ## Limits
    The error of a calibrated model is not 0. Bins see the largest probability only: errors of single classes that
    cancel stay hidden, most of all with few classes. Bins are (lo, hi]; programs with [lo, hi) differ for confidences
    on an edge. pass@n needs at least 2n attempts, and attempts that were really sampled: greedy decoding repeats itself
    by definition. Underconfidence is not judged: similarities without their temperature are unsure and right. Problems
    that are all trivial or all impossible leave no gain to measure. A randomly initialised head with large weights is
    sure and wrong as well. Mixtures are judged on at most 8,192 rows.
    """
    site = point.site.name
    if point.has(ROWS):
        yield from _calibration(point)
    else:
        yield skip(site, "ece, ece_excess, adaptive_ece, overconfidence: no logits")
    if point.has(ATTEMPTS):
        yield from _attempts(site, point.read(ATTEMPTS))
    else:
        yield skip(site, "pass_at_n, pass_gain: no correct")
    yield _mixed(point)


def _calibration(point: "Activations") -> Iterator[Measurement | Skip]:
    site, found = point.site.name, point.read(ROWS)
    if found.impossible_labels:
        raise _not_classes("labels", found.impossible_labels, found.width)
    if found.labelled < MIN_ROWS:
        reason = f"{found.labelled:,} labelled rows < {MIN_ROWS}" if "labels" in point.shapes else "no labels"
        yield skip(site, f"ece, ece_excess, adaptive_ece, overconfidence: {reason}")
        return
    error, noise = kernels.calibration.calibration_error, kernels.calibration.calibration_noise
    wide, even = found.bins.equal_width, found.bins.equal_count
    rows, sure, right, _ = (float(total) for total in wide.sum(0))
    facts: dict[str, Any] = {
        "rows": found.labelled,
        "classes": found.width,
        "dtype": point.dtypes["logits"],
        "confidence": sure / rows,
        "accuracy": right / rows,
    }
    by_bin = {
        "bin_rows": [int(count) for count in wide[:, 0]],
        "bin_confidence": (wide[:, 1] / wide[:, 0].clamp_min(1.0)).tolist(),
        "bin_accuracy": (wide[:, 2] / wide[:, 0].clamp_min(1.0)).tolist(),
    }
    yield ECE.at(site, error(wide), noise(wide), **facts, **by_bin)
    yield ECE_EXCESS.at(site, error(wide) - noise(wide), 0.0, **facts)
    yield ADAPTIVE_ECE.at(site, error(even), noise(even), **facts)
    yield OVERCONFIDENCE.at(site, (sure - right) / rows, 0.0, **facts)


def _not_classes(role: str, count: int, classes: int) -> BadValues:
    return BadValues(
        role,
        expected=f"should be classes of the logits (0 to {classes - 1}), or -1 or -100 for no class",
        got=f"{count:,} are neither",
        hint="labels count from 0 in the order of the logits",
    )


def _attempts(site: str, found: "Attempts") -> Iterator[Measurement | Skip]:
    if found.impossible:
        raise BadValues(
            "correct",
            expected="should be 0 or 1",
            got=f"{found.impossible:,} outcomes are neither",
            hint="leave out attempts that were not made",
        )
    if found.attempts < MIN_ATTEMPTS or found.problems == 0:
        yield skip(site, f"pass_at_n, pass_gain: {found.attempts} attempts < {MIN_ATTEMPTS}, or no problem")
        return
    pass_at, draws = kernels.attempts.pass_at, found.attempts // 2
    one, several = pass_at(found.counts, 1), pass_at(found.counts, draws)
    step = max(1, math.ceil(found.attempts / MOST_POINTS))
    prefix = list(range(1, found.attempts + 1, step))
    facts: dict[str, Any] = {
        "problems": found.problems,
        "attempts": found.attempts,
        "draws": draws,
        "pass_at_1": one,
    }
    curve = {"prefix": prefix, "by_prefix": [pass_at(found.counts, length) for length in prefix]}
    yield PASS_AT_N.at(site, several, one, **facts, **curve)
    if found.problems < MIN_PROBLEMS:
        yield skip(site, f"pass_gain: {found.problems} problems < {MIN_PROBLEMS}")
        return
    most = 1.0 - (1.0 - one) ** draws
    if most - one < 1e-12:
        yield skip(site, f"pass_gain: pass@1 is {one:.3g}, nothing is left to gain")
        return
    yield PASS_GAIN.at(site, (several - one) / (most - one), 0.0, **facts)


def _mixed(point: "Activations") -> Measurement | Skip:
    site, name = point.site.name, MIX_RANK_CORRELATION.name
    if not point.has(MIXED):
        return skip(site, f"{name}: no mix" if "logits" in point.shapes else f"{name}: no logits")
    sample = point.read(MIXED)
    if sample.indices.numel() < MIN_MIXED:
        return skip(site, f"{name}: {sample.indices.numel()} mixed rows < {MIN_MIXED}")
    drawn = sample.is_uniform
    logits, mix = sample.rows("logits")[drawn], sample.rows("mix")[drawn].double()
    if float(mix.min()) < -MIX_SLACK or float(mix.max()) > 1.0 + MIX_SLACK:
        raise BadValues(
            "mix",
            expected="should lie between 0 and 1",
            got=f"it goes from {float(mix.min()):.4g} to {float(mix.max()):.4g}",
            hint="mix is the weight of the first class",
        )
    first, second = (sample.rows(role)[drawn] if role in point.shapes else None for role in ("labels", "labels_b"))
    found = kernels.mixed_rows.mixed_rows(logits, mix.clamp(0.0, 1.0), first=first, second=second)
    if found.impossible:
        raise _not_classes("labels_b", found.impossible, logits.shape[1])
    if found.correlation is None or found.rows < MIN_MIXED:
        return skip(site, f"{name}: confidence or mixture is the same in all of {found.rows:,} rows")
    facts: dict[str, Any] = {
        "rows": found.rows,
        "exact": sample.is_exact,
        "standard_error": 1.0 / math.sqrt(found.rows),
        "pairs": found.pairs,
        "pair_mass": found.mass,
        "decoupled_probability": found.decoupled,
    }
    return MIX_RANK_CORRELATION.at(site, found.correlation, 0.0, **facts)
