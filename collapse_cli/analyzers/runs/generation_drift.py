"""What happens to generated data when each generation is trained on the output of the one before."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import (
    Example,
    Limit,
    Measurement,
    Metric,
    Reference,
    Skip,
    activation_series_analyzer,
    on,
    skip,
)

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.comparisons import ActivationSeries
    from collapse_cli.kernels.generations import Generation, Origin

__all__ = ["generation_drift"]

#: Members of a run, the real data among them, from which anything is said; generations from which a law is fitted.
MIN_GENERATIONS, LAW_GENERATIONS = 3, 5
#: Rows of half the real data and of every generation: a tail of one in a hundred is then half a row.
MIN_ROWS = 50

VARIANCE_RATIO = Metric(
    "variance_ratio",
    "1",
    "The total variance of the last generation over that of the real data.",
    warn=Limit("below", 0.5, "zoo: data accumulated 0.85 to 1.1, a share of them real 0.25 to 0.35"),
    error=Limit("below", 0.1, "zoo: data replaced by sharpened samples, eight generations: 0.01"),
    null="1; the evidence says what two halves of the real data and refitting a Gaussian give",
    message="Generation {generation} keeps {value:.3g} of the variance of the real data.",
)
DISTANCE_TO_ORIGIN = Metric(
    "distance_to_origin",
    "1",
    "The squared Fréchet distance of the last generation from real data, less that of two halves of real data.",
    better="lower",
    null="0: as far as two halves of the real data",
)
TAIL_SHARE = Metric(
    "tail_share",
    "1",
    "The share of the last generation that lies where the outermost hundredth of real data lies.",
    null="0.01: the radius is that of 99 % of real rows",
)
RECALL = Metric(
    "recall",
    "1",
    "The share of real rows inside the ball of a row of the last generation that reaches to its fifth neighbour.",
    better="higher",
    warn=Limit("below", 0.25, "zoo: data accumulated 0.9 and more, a share of them real 0.3 to 0.65", of="null"),
    error=Limit("below", 0.05, "zoo: data replaced by sharpened samples, eight generations: 0 to 0.01", of="null"),
    null="two halves of the real data",
    message="Generation {generation} reaches {value:.3g} of the real data, one half of them reaches {null:.3g} of the "
    "other.",
)
GROWTH_LAW = Metric(
    "growth_law",
    "AICc",
    "AICc of growth in proportion to generations less that of growth towards a bound; ≤ −4 reads: without bound.",
    better="higher",
    null="0: both laws fit alike",
)
GROWTH_RATE = Metric(
    "growth_rate",
    "per generation",
    "The Theil–Sen slope of the distance from real data.",
    better="lower",
    null="0: nothing grows",
)


def _run(scales: "Sequence[float]") -> Example:
    """Generations of a Gaussian with those spreads."""
    import torch

    generator = torch.Generator().manual_seed(0)
    members = [{"samples": scale * torch.randn(400, 4, generator=generator)} for scale in scales]
    return Example(members[0], metadata={}, others=tuple(members[1:]), steps=tuple(map(float, range(len(scales)))))


def healthy() -> Example:
    """Seven generations from one distribution."""
    return _run([1.0] * 7)


def collapsed() -> Example:
    """Every generation has half the spread of the one before."""
    return _run([0.5**generation for generation in range(7)])


@activation_series_analyzer(
    name="generation-drift",
    family="runs",
    title="Drift over generations",
    metrics=(VARIANCE_RATIO, DISTANCE_TO_ORIGIN, TAIL_SHARE, RECALL, GROWTH_LAW, GROWTH_RATE),
    accepts=on.points("samples", says="hook points with samples, in a run of dumps of which the first is real"),
    remedy="Accumulate the data of all generations instead of replacing them, keep a fixed share of real data, filter "
    "by a verifier, draw more rows per generation, and sample at temperature 1.",
    references=(
        Reference(
            "Gerstgrasser et al. Is Model Collapse Inevitable? Breaking the Curse of Recursion by Accumulating Real "
            "and Synthetic Data. 2024",
            "https://arxiv.org/abs/2404.01413",
        ),
        Reference(
            "Shumailov et al. The Curse of Recursion: Training on Generated Data Makes Models Forget. 2023",
            "https://arxiv.org/abs/2305.17493",
        ),
        Reference(
            "Aithal et al. Understanding Hallucinations in Diffusion Models through Mode Interpolation. 2024",
            "https://arxiv.org/abs/2406.09358",
        ),
        Reference(
            "Kynkäänniemi et al. Improved Precision and Recall Metric for Assessing Generative Models. 2019",
            "https://arxiv.org/abs/1904.06991",
        ),
        Reference(
            "Ledoit & Wolf. A well-conditioned estimator for large-dimensional covariance matrices. 2004",
            "https://doi.org/10.1016/S0047-259X(03)00096-4",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("sample(samples)", "sample(reference)"),
    unmoved_by=("features_rotated", "shifted"),
)
def generation_drift(series: "ActivationSeries") -> Iterator[Measurement | Skip]:
    """Does training on own output collapse over generations, and is the damage bounded?

    ## Why it matters
    A generator that is trained on what its predecessor generated loses tails first, then variance, then whole modes.
    Whether the loss ends depends on the data: replaced by each generation it grows without bound, accumulated it does
    not.

    ## How to read it
    Every metric is that of the last generation; the values of all stand in the evidence as a curve. The real data are
    the `reference` rows of the first member that has any, else the first member. Half of them is the origin, the other
    half says what chance gives. `tail_share` falls long before `variance_ratio` does. `growth_law` at −4 or below: the
    distance grows in proportion to generations; at 4 or above: it approaches a bound. `growth_rate` is its slope.

    ## Limits
    Three members are needed, and five generations for the law; 100 real rows, 50 of each generation, all cut to the
    same number by a fixed seed, at most 10,000. The distance takes more rows than features. Only variance and recall
    are judged, of the last generation alone: samples that were sharpened on purpose lose variance as well. Refitting a
    Gaussian to few rows shrinks the *median* of its variance even where the mean does not, so read the curve.
    Embeddings saturate, and one fixed encoder must have made all members. Generations that mix in fresh real data
    follow neither law. What is cut to singular covariances, as after a projection, is compared in the directions in
    which real rows vary.
    """
    name, count = series.site.name, len(series.members)
    sets = kernels.generated_sets
    if count < MIN_GENERATIONS:
        yield skip(name, f"run too short: {count} of {MIN_GENERATIONS}")
        return
    real, first = _real(series)
    generations = [sets.kept(member, "samples") for member in series.members[first:]]
    widths = {rows.shape[1] for rows in (real, *generations)}
    if len(widths) > 1:
        yield skip(name, f"members of different widths: {', '.join(str(width) for width in sorted(widths))} features")
        return
    fewest = min(real.shape[0] // 2, *(rows.shape[0] for rows in generations))
    if fewest < MIN_ROWS:
        yield skip(name, f"{fewest} rows of half the real data or of a generation: fewer than {MIN_ROWS}")
        return
    origin = kernels.generations.origin(real, generations)
    if origin.variance <= 0.0:
        yield skip(name, "the real data are constant")
        return
    numbers = _numbers(series, first)
    found = [origin.compared(rows) for rows in generations]
    facts: dict[str, Any] = {
        "generation": numbers[-1],
        "N": origin.size,
        "D": widths.pop(),
        "real": "reference" if first == 0 else series.labels[0],
    }
    yield from _last(name, origin, found, numbers, facts)
    yield from _growth(name, origin, found, numbers, facts)


def _real(series: "ActivationSeries") -> "tuple[Tensor, int]":
    """The real rows, and the place of the first member that is a generation."""
    for member in series.members:
        if member.has("sample(reference)") and member.read("sample(reference)").count:
            return kernels.generated_sets.kept(member, "reference"), 0
    return kernels.generated_sets.kept(series.members[0], "samples"), 1


def _numbers(series: "ActivationSeries", first: int) -> list[int]:
    """Which generation every member after the real data is: as its metadata says, else counted from 1."""
    said = [member.metadata.get("generation", "").strip() for member in series.members[first:]]
    numbers = [int(text) for text in said if text.isdecimal()]
    if len(numbers) == len(said) and all(b > a for a, b in zip([0, *numbers], numbers, strict=False)):
        return numbers
    return list(range(1, len(said) + 1))


def _last(
    name: str, origin: "Origin", found: "Sequence[Generation]", numbers: list[int], facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    chance, last = origin.chance, found[-1]

    def curve(values: list[float]) -> dict[str, Any]:
        found = kernels.run_series.curve(numbers, values)
        return {**facts, "generations": found["step"], "by_generation": found["value"]}

    ratios = [one.variance / origin.variance for one in found]
    refit = (1.0 - 1.0 / origin.size) ** numbers[-1]
    halves = chance.variance / origin.variance
    yield VARIANCE_RATIO.at(name, ratios[-1], 1.0, **curve(ratios), of_halves=halves, of_refitting=refit)
    yield TAIL_SHARE.at(name, last.tail, 0.01, **curve([one.tail for one in found]))
    yield RECALL.at(name, last.recall, chance.recall, **curve([one.recall for one in found]))


def _growth(
    name: str, origin: "Origin", found: "Sequence[Generation]", numbers: list[int], facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    chance = origin.chance.distance
    distances = [one.distance - chance for one in found if one.distance is not None and chance is not None]
    if chance is None or not distances:
        reason = f"{facts['N']:,} rows of {facts['D']:,} features, a covariance is singular"
        yield skip(name, f"distance_to_origin, growth_rate, growth_law: {reason}")
        return
    curve = kernels.run_series.curve(numbers, distances)
    evidence = {**facts, "generations": curve["step"], "by_generation": curve["value"], "of_halves": chance}
    yield DISTANCE_TO_ORIGIN.at(name, max(0.0, distances[-1]), 0.0, **evidence, not_clipped=distances[-1])
    yield GROWTH_RATE.at(name, kernels.trends.slope(numbers, distances), 0.0, **facts)
    if len(numbers) < LAW_GENERATIONS:
        yield skip(name, f"growth_law: run too short: {len(numbers)} of {LAW_GENERATIONS} generations")
        return
    advantage, slopes = kernels.generations.law_advantage(numbers, distances)
    reads = "linear, unbounded" if advantage <= -4 else "bounded" if advantage >= 4 else "undecided"
    yield GROWTH_LAW.at(name, advantage, 0.0, **facts, **slopes, reads=reads)
