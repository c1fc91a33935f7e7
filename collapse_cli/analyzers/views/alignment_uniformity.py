"""Alignment and uniformity: are two views of a sample close, and do all samples spread over the sphere."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Below it the mean over pairs is as uncertain as the differences one looks for.
MIN_ROWS = 1000
#: Views nearer than this teach an encoder nothing.
UNINFORMATIVE_COSINE = 0.99

ALIGNMENT = Metric(
    "alignment",
    "1",
    "Mean squared distance of the directions of the two views of a sample, 2 − 2·cos.",
    better="lower",
    null="views of unrelated samples in random directions",
)
UNIFORMITY = Metric(
    "uniformity",
    "nats",
    "ln of the mean of exp(−2d²) over pairs of different samples, d the distance of their directions; 0 = one point.",
    better="lower",
    warn=Limit(
        "above",
        -2e-3,
        "zoo: −2.2 or less in sound dumps, −2e-5 and more in collapsed ones; −0.04 at a mean cosine of 0.99, where "
        "the last layer of GPT-2 works (Ethayarajh 2019)",
    ),
    error=Limit("above", -2e-4, "zoo: −2e-5 and more where bfloat16 loses the neighbours, −2.2 or less in sound ones"),
    null="uniform directions in as many dimensions",
    message="All samples point the same way: uniformity {value:.3g}, uniform directions have {null:.3g}.",
)
UNIFORMITY_EXCESS = Metric(
    "uniformity_excess",
    "nats",
    "Uniformity above that of uniform directions in as many dimensions; 0 = evenly spread.",
    better="lower",
    null="uniform directions",
)
TOLERANCE = Metric(
    "tolerance",
    "1",
    "Mean cosine of two different samples of one class.",
    null="mean cosine of any two labelled samples",
)
ALIGNED_SHARE = Metric(
    "aligned_share",
    "1",
    "Share of samples whose two views have a cosine above 0.99: views that teach nothing.",
    better="lower",
)


def healthy() -> Example:
    """Gaussian samples of ten classes and two noisy views of each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1024, 32, generator=generator)
    noise = torch.randn(2, 1024, 32, generator=generator)
    return Example(
        {
            "projector/view_a": rows + 0.3 * noise[0],
            "projector/view_b": rows + 0.3 * noise[1],
            "projector/labels": torch.arange(1024) % 10,
        },
        metadata={},
    )


def collapsed() -> Example:
    """Both views of every sample are the same vector."""
    import torch

    row = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    return Example(
        {
            "projector/view_a": row.repeat(1024, 1),
            "projector/view_b": row.repeat(1024, 1),
            "projector/labels": torch.arange(1024) % 10,
        },
        metadata={},
    )


@activation_analyzer(
    name="alignment-uniformity",
    family="views",
    title="Alignment and uniformity",
    metrics=(ALIGNMENT, UNIFORMITY, UNIFORMITY_EXCESS, TOLERANCE, ALIGNED_SHARE),
    accepts=on.points(says="hook points with two views, or with features for uniformity alone"),
    remedy="If all samples share a direction, check that what keeps them apart works: negatives and their number, stop-"
    "gradient and predictor, the variance term. If only uniformity is high, lower the temperature, which costs "
    "tolerance; if aligned_share is high, augment more strongly.",
    references=(
        Reference(
            "Wang & Isola. Understanding Contrastive Representation Learning through Alignment and Uniformity on the "
            "Hypersphere. 2020",
            "https://arxiv.org/abs/2005.10242",
        ),
        Reference(
            "Wang & Liu. Understanding the Behaviour of Contrastive Loss. 2020", "https://arxiv.org/abs/2012.09740"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "features_rotated", "scaled"),
    needs=(
        "cross_moments(view_a,view_b)",
        "sample(view_a,view_b)",
        "sample(features)",
        "class_moments(view_a,labels)",
        "class_moments(features,labels)",
    ),
)
def alignment_uniformity(point: "Activations") -> Iterator[Measurement | Skip]:
    """Are two views of a sample close together, and are the samples spread over the sphere?

    ## Why it matters
    Self-supervised training pulls the views of a sample together. Nothing is easier than to do so by giving every
    sample the same vector: the loss term of alignment is then perfect and the encoder is worthless. Only together with
    a spread over the sphere does alignment mean that something was learnt.

    ## How to read it
    `uniformity` is 0 when all samples point the same way, and cannot fall below that of uniform directions, its null:
    −1.58 in 2 dimensions, −3.08 in 8, −3.98 in 512. `uniformity_excess` is the distance to that floor and is comparable
    between widths. `alignment` is 0 for equal views and 2 for unrelated ones. `tolerance` is the mean cosine within a
    class; a low temperature buys uniformity with it. A high `aligned_share` says that the augmentations change nothing.

    ## Limits
    Perfect alignment is also what collapse gives: read it beside uniformity. Lengths are not seen, so a collapse to
    tiny vectors of random directions is not found. A common mean that is longer than the spread reads as collapse
    although centring would undo it: hidden states of language models stand near 0.99 of a mean cosine, and the limits
    are set beyond. Samples that lie in a few dimensions still read well below 0: their rank is seen by `rankme` and
    `cross-correlation`. Duplicated samples raise uniformity. Beyond 4,096 samples the pairs of an even selection are
    taken. Of a stack of views only the first two are compared; `multi-view` takes all. Zero rows stay at the origin.
    """
    has_views = point.has("sample(view_a,view_b)")
    if not has_views and not point.has("sample(features)"):
        yield skip(point.site.name, "neither two views nor features")
        return
    if point.finite_rows < MIN_ROWS:
        yield skip(point.site.name, f"finite rows {point.finite_rows} < {MIN_ROWS:,}")
        return
    if has_views:
        yield from _pairs(point)
    else:
        yield skip(point.site.name, "alignment, aligned_share: one view")
    yield from _spread(point, ("view_a", "view_b") if has_views else ("features",))
    yield from _tolerance(point, "view_a" if has_views else "features")


def _pairs(point: "Activations") -> Iterator[Measurement | Skip]:
    name, pairs, facts = point.site.name, point.read("cross_moments(view_a,view_b)"), kernels.feature_spectrum.facts
    left, right = point.shapes["view_a"][-1], point.shapes["view_b"][-1]
    if left != right:
        yield skip(name, f"alignment, aligned_share: views of widths {left} and {right}")
        return
    if pairs.cosine_count == 0:
        yield skip(name, "alignment, aligned_share: every pair has a zero row")
        return
    distance = 2.0 - 2.0 * pairs.cosine_sum / pairs.cosine_count
    evidence = facts(point, "view_a") | {"pairs": pairs.cosine_count}
    yield ALIGNMENT.at(name, max(distance, 0.0), 2.0, **evidence)
    sample = point.read("sample(view_a,view_b)")
    first, second = (kernels.hypersphere.unit_rows(sample.rows(role)) for role in ("view_a", "view_b"))
    cosines = (first * second).sum(1)[sample.is_uniform]
    share = float((cosines > UNINFORMATIVE_COSINE).double().mean())
    yield ALIGNED_SHARE.at(name, share, rows=cosines.numel(), exact=sample.is_exact)


def _spread(point: "Activations", roles: tuple[str, ...]) -> Iterator[Measurement]:
    """Uniformity, for two views the mean of theirs."""
    sample = point.read(f"sample({','.join(roles)})")
    is_uniform = sample.is_uniform.nonzero().flatten()
    chosen = is_uniform[kernels.hypersphere.evenly_spaced(is_uniform.numel(), kernels.hypersphere.MAX_ROWS)]
    found, zero_rows = [], 0
    for role in roles:
        units = kernels.hypersphere.unit_rows(sample.rows(role)[chosen])
        zero_rows += int((units == 0.0).all(1).sum())
        found.append(kernels.hypersphere.pair_potential(units))
    potentials = [potential for potential in found if potential is not None]
    value = sum(potential.value for potential in potentials) / len(potentials)
    error = max(potential.error for potential in potentials)
    width = max(1, units.shape[1])
    ideal = kernels.hypersphere.uniformity_ideal(width)
    evidence = kernels.feature_spectrum.facts(point, roles[0]) | {
        "roles": list(roles),
        "paired_rows": chosen.numel(),
        "exact": chosen.numel() == point.finite_rows,
        "standard_error": error,
        "zero_rows": zero_rows,
    }
    yield UNIFORMITY.at(point.site.name, value, ideal, **evidence)
    yield UNIFORMITY_EXCESS.at(point.site.name, value - ideal, 0.0, width=width, ideal=ideal)


def _tolerance(point: "Activations", role: str) -> Iterator[Measurement | Skip]:
    name, need = point.site.name, f"class_moments({role},labels)"
    if not point.has(need):
        yield skip(name, "tolerance: no labels")
        return
    classes = point.read(need)
    counts, sums = classes.unit_counts, classes.unit_sums
    within = kernels.class_geometry.within_class_cosine(sums, counts)
    overall = kernels.isotropy.mean_cosine(sums.sum(0), int(counts.sum()))
    if within is None or overall is None:
        yield skip(name, "tolerance: no class with two labelled rows that are not zero")
        return
    yield TOLERANCE.at(name, within, overall, role=role, classes=counts.numel(), rows=int(counts.sum()))
