"""Distribution distance: how far generated data are from real ones, and whether place or spread is off."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.bures import Gaussian
    from collapse_cli.kernels.views import Activations

#: Rows of each set from which anything is said, and from which the kernel distance is taken.
FEWEST_ROWS, FEW_ROWS = 20, 100
SAME = "as many Gaussian rows with the covariance of the reference, to first order"

FRECHET = Metric(
    "frechet",
    "1",
    "The squared Wasserstein distance between Gaussians with the means and covariances of the two sets.",
    better="lower",
    null=SAME,
)
FRECHET_EXCESS = Metric(
    "frechet_excess",
    "1",
    "The Fréchet distance less what two sets of these sizes have by chance.",
    better="lower",
    null="0",
)
KID = Metric(
    "kid",
    "1",
    "The unbiased squared kernel distance (maximum mean discrepancy) with the kernel (xᵀy/D + 1)³.",
    better="lower",
    null="0: the estimate is unbiased and may be negative",
)
VARIANCE_RATIO = Metric(
    "variance_ratio",
    "1",
    "The total variance of the samples over that of the reference.",
    warn=Limit(
        "below",
        0.2,
        "zoo: less than half the spread of real data; healthy 0.9 to 1.2, half the modes 0.4",
    ),
    error=Limit("below", 0.1, "zoo: a third of the spread of real data; collapsed on one or two modes 0.03 to 0.08"),
    null="1",
    message="The samples have {value:.3g} times the variance of the reference.",
)
SHIFT_SHARE = Metric("shift_share", "1", "The share of the Fréchet distance that lies between the means.", null=SAME)


def healthy() -> Example:
    """Samples and real data from one Gaussian."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({name: torch.randn(400, 16, generator=generator) for name in ("samples", "reference")}, metadata={})


def collapsed() -> Example:
    """Samples that hardly leave one real row."""
    import torch

    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(400, 16, generator=generator)
    return Example(
        {"samples": reference[:1] + 0.01 * torch.randn(400, 16, generator=generator), "reference": reference},
        metadata={},
    )


@activation_analyzer(
    name="distribution-distance",
    family="samples",
    title="Distribution distance",
    metrics=(FRECHET, FRECHET_EXCESS, KID, VARIANCE_RATIO, SHIFT_SHARE),
    accepts=on.points(
        any_of=(("samples", "reference"), ("features", "groups")),
        says="hook points with samples and a reference, or features in two groups",
    ),
    remedy="A shift calls for calibration of the generator's mean (normalisation, bias, colour). Too little variance "
    "calls for the remedies of lost diversity: an entropy term, lower guidance or truncation.",
    references=(
        Reference(
            "Heusel et al. GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium. 2017",
            "https://arxiv.org/abs/1706.08500",
        ),
        Reference("Bińkowski et al. Demystifying MMD GANs. 2018", "https://arxiv.org/abs/1801.01401"),
        Reference(
            "Yin et al. Improved Distribution Matching Distillation for Fast Image Synthesis. 2024",
            "https://arxiv.org/abs/2405.14867",
        ),
        Reference(
            "Gerstgrasser et al. Is Model Collapse Inevitable? Breaking the Curse of Recursion by Accumulating Real "
            "and Synthetic Data. 2024",
            "https://arxiv.org/abs/2404.01413",
        ),
        Reference(
            "Shen et al. Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models. 2024",
            "https://arxiv.org/abs/2404.00506",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("features_rotated", "samples_permuted"),
    needs=("moments(samples)", "moments(reference)", "sample(samples)", "sample(reference)", "sample"),
    uses=("groups",),
)
def distribution_distance(point: "Activations") -> Iterator[Measurement | Skip]:
    """How far is the generated distribution, and is it place or spread that is off?

    ## Why it matters
    One number for the distance is what generators are compared by, and it hides what happened: samples in the right
    place with half the spread and samples of full spread in the wrong place can be equally far. Trained on its own
    output, a generator loses variance first.

    ## How to read it
    Compare `frechet` with its null: two sets of real data of these sizes are not at 0. `frechet_excess` is what is
    left. `shift_share` near 1 says that the means differ, near 0 that the covariances do; `variance_ratio` below 1 says
    that the samples are too alike. `kid` is unbiased, so 0 is expected at any size; its standard deviation over subsets
    is in the evidence. In a dump of features with two groups, the group of the higher number takes the place of the
    samples.

    ## Limits
    Only `variance_ratio` is judged: distances depend on the embedding, the number of rows and the number of features,
    and values at different sizes do not compare. Nothing is said below 20 rows. `frechet` takes more rows than features
    in both sets, since the covariances are singular otherwise. The null is that of Gaussian rows; heavy tails lie above
    it. `kid` takes 100 rows, at most 1,000 in each of 100 seeded subsets of at most 50,000 rows. Groups are compared on
    sampled rows, 8,192 of both together.
    """
    name, bures = point.site.name, kernels.bures
    if point.has("moments(samples)") and point.has("moments(reference)"):
        kernels.generated_sets.same_width(point)
        made, real = (bures.Gaussian.of(point.read(f"moments({role})")) for role in ("samples", "reference"))
        rows = [kernels.generated_sets.kept(point, role) for role in ("samples", "reference")]
        facts = point.get(kernels.generated_sets.facts) | {"compared": "samples with reference"}
    else:
        groups = kernels.nearest_rows.uniform_rows(point.read("sample"), "groups").reshape(-1)
        found = sorted(set(groups.tolist()) - set(kernels.accumulators.UNLABELLED))
        if len(found) != 2:
            yield skip(name, f"{len(found)} groups: it takes samples and a reference, or two groups")
            return
        features = kernels.nearest_rows.uniform_rows(point.read("sample"), "features").flatten(1)
        rows = [features[groups == group] for group in reversed(found)]
        made, real = map(bures.gaussian_of_rows, rows)
        facts = point.get(kernels.feature_spectrum.facts) | {"compared": f"group {found[1]} with {found[0]}"}
    facts = facts | {"rows": [made.count, real.count]}
    if min(made.count, real.count) < FEWEST_ROWS:
        yield skip(name, f"{made.count:,} and {real.count:,} rows: fewer than {FEWEST_ROWS}")
        return
    yield from _frechet(name, made, real, facts)
    yield from _kernel(point, rows, facts)


def _frechet(name: str, made: "Gaussian", real: "Gaussian", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    traces = {"sample_variance": made.trace, "reference_variance": real.trace}
    if real.trace > 0.0:
        yield VARIANCE_RATIO.at(name, made.trace / real.trace, 1.0, **facts, **traces)
    else:
        yield skip(name, "variance_ratio: the reference is constant")
    width, fewer = made.mean.numel(), min(made.count, real.count)
    if fewer <= width:
        yield skip(
            name,
            f"frechet, frechet_excess, shift_share: {fewer:,} rows of {width:,} features, a covariance is singular",
        )
        return
    shift, distance = kernels.bures.squared_distance(made, real)
    shift_null, null = kernels.bures.frechet_null(real, made.count)
    facts = facts | {"squared_shift": shift} | traces
    yield FRECHET.at(name, distance, null, **facts)
    yield FRECHET_EXCESS.at(name, distance - null, 0.0, **facts, expected=null)
    if distance > 0.0:
        yield SHIFT_SHARE.at(name, shift / distance, shift_null / null if null > 0.0 else None, **facts)
    else:
        yield skip(name, "shift_share: the distributions are equal")


def _kernel(point: "Activations", rows: "list[Tensor]", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, fewer = point.site.name, min(side.shape[0] for side in rows)
    if fewer < FEW_ROWS:
        yield skip(name, f"kid: {fewer:,} rows, fewer than {FEW_ROWS}")
        return
    found = kernels.bures.kernel_distance(rows[0], rows[1], point.generator())
    if found is None:
        yield skip(name, "kid: the kernel overflows")
        return
    value, deviation, subsets = found
    subset_rows = min(fewer, kernels.bures.SUBSET_ROWS)
    error = deviation / math.sqrt(subsets)
    yield KID.at(name, value, 0.0, **facts, deviation=deviation, error=error, subsets=subsets, subset_rows=subset_rows)
