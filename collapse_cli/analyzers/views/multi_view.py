"""Several views of every sample: are they close, does each spread, and are samples still told apart."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Below it what is compared with chance is as uncertain as the differences one looks for.
MIN_ROWS = 1000
#: Samples whose views are all held in float64, and the entries that they may take together: 256 MiB.
MAX_ROWS, MAX_ENTRIES = 4096, 1 << 25
#: Samples all pairs of which are compared in every view, and of which the order of pairs is taken.
PAIRED_ROWS, ORDERED_ROWS = 2048, 1024
UNRELATED = "views of one sample unrelated"

MULTI_ALIGNMENT = Metric(
    "multi_alignment",
    "1",
    "Mean squared distance of the directions of two views of a sample, over all pairs of views.",
    better="lower",
    null="views of unrelated samples in random directions",
)
VIEW_UNIFORMITY = Metric(
    "view_uniformity",
    "nats",
    "Mean over views of ln mean exp(−2d²) over pairs of samples within the view, positives left out; 0 = one point.",
    better="lower",
    warn=Limit(
        "above",
        -2e-3,
        "zoo: −2.2 or less in sound dumps, −2e-5 and more in collapsed ones; −0.04 at a mean cosine of 0.99, where "
        "the last layer of GPT-2 works (Ethayarajh 2019)",
    ),
    null="uniform directions in as many dimensions",
    message="All samples point the same way in every view: {value:.3g}, uniform directions have {null:.3g}.",
)
RANK_UTILISATION = Metric(
    "rank_utilisation",
    "1",
    "RankMe of all views together over that of as many Gaussian samples as wide.",
    better="higher",
    warn=Limit("below", 0.05, "zoo: 0.28 in sound embeddings, 0.03 to 0.05 where directions and neighbours are lost"),
    null="isotropic Gaussian samples",
    message="All views together use {rank:.3g} directions, {value:.2g} of what Gaussian samples of this width use.",
)
BETWEEN_SHARE = Metric(
    "between_share",
    "1",
    "Share of the variance that lies between the means of samples, the rest between views of a sample.",
    better="higher",
    null=UNRELATED,
)
BETWEEN_SHARE_Z = Metric(
    "between_share_z",
    "standard errors",
    "The between share less that of unrelated views, over its standard error.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not told from unrelated views by three standard errors", inclusive=True),
    null=UNRELATED,
    message="Views of one sample differ as much as views of any two: {share:.3g} of the variance lies between samples, "
    "chance gives {chance:.3g}. Do the views of a row belong to one sample?",
)
MISORDERED_SHARE = Metric(
    "misordered_share",
    "1",
    "Share of negatives that are nearer to the anchor than its positive is, ties counting half.",
    better="lower",
    null=UNRELATED,
)
MISORDERED_SHARE_Z = Metric(
    "misordered_share_z",
    "standard errors",
    "The misordered share less one half, over its standard error for unrelated views.",
    better="lower",
    warn=Limit("above", -3.0, "definition: not told from one half by three standard errors", inclusive=True),
    null=UNRELATED,
    message="Samples are not ordered before other samples: {share:.2g} of the negatives are nearer than the positive.",
)


def healthy() -> Example:
    """Four noisy views of Gaussian samples."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1024, 1, 16, generator=generator)
    return Example({"projector/views": rows + 0.5 * torch.randn(1024, 4, 16, generator=generator)}, metadata={})


def collapsed() -> Example:
    """Every view of every sample is the same vector."""
    import torch

    row = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))
    return Example({"projector/views": row.repeat(1024, 4, 1)}, metadata={})


@activation_analyzer(
    name="multi-view",
    family="views",
    title="Several views",
    metrics=(
        MULTI_ALIGNMENT,
        VIEW_UNIFORMITY,
        RANK_UTILISATION,
        BETWEEN_SHARE,
        BETWEEN_SHARE_Z,
        MISORDERED_SHARE,
        MISORDERED_SHARE_Z,
    ),
    accepts=on.points("view_a", "view_b", says="hook points with a stack of views, or with two views"),
    remedy="Train with more views, five or so, and a loss that takes uniformity within each view and not over "
    "positives; or order groups of positives before negatives. If views are unrelated, check how the stack was made.",
    references=(
        Reference(
            "Koromilas et al. Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning: From InfoNCE to "
            "Kernel-Based Losses. 2024",
            "https://arxiv.org/abs/2405.18045",
        ),
        Reference(
            "Shvetsova et al. Learning by Sorting: Self-supervised Learning with Group Ordering Constraints. 2023",
            "https://arxiv.org/abs/2301.02009",
        ),
        Reference(
            "Garrido et al. RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised "
            "Representations by Their Rank. 2022",
            "https://arxiv.org/abs/2210.02885",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    confidence="experimental",
    unmoved_by=("samples_permuted", "scaled"),
    needs=("sample(view_a,view_b)",),
    uses=("views",),
)
def multi_view(point: "Activations") -> Iterator[Measurement | Skip]:
    """With several views of every sample, is the width used, and are samples still told apart?

    ## Why it matters
    More views give a steadier idea of what an encoder ignores and what it keeps. What it should ignore is the view,
    what it should keep is the sample: if views of one sample are no closer than those of any two, nothing was learnt,
    and if all are the same, everything was lost.

    ## How to read it
    `multi_alignment` falls from 2 to 0 as views of a sample agree. `view_uniformity` says of each view by itself how
    evenly samples spread, without the positives that plain uniformity takes along; 0 is one point. `between_share` is
    1/V for unrelated views and 1 for equal ones. `misordered_share` is the chance that some other sample is nearer than
    the sample's own next view: 0 is perfect, one half is chance. `rank_utilisation` compares the number of directions
    with that of Gaussian samples.

    ## Limits
    Weak augmentations inflate `between_share` and lower `misordered_share` without any merit of the encoder. More views
    are not more samples: the null of the rank counts samples, so that unrelated views can exceed it a little. In few
    dimensions `rank_utilisation` cannot be small: one direction of 8 is an eighth. Two views are enough and say less.
    Above 4,096 samples an even selection is taken (fewer where the stack is wide), 2,048 for uniformity and 1,024 for
    the order of pairs. The standard error of `between_share` is that of Gaussian variables.
    """
    name = point.site.name
    widths = [point.shapes[role][-1] for role in ("view_a", "view_b")]
    if widths[0] != widths[1] or widths[0] == 0:
        yield skip(name, f"views of widths {widths[0]} and {widths[1]}" if widths[0] else "no dimensions")
        return
    if point.finite_rows < MIN_ROWS:
        yield skip(name, f"finite rows {point.finite_rows} < {MIN_ROWS:,}")
        return
    stack = _chosen(point)
    samples, views, width = stack.shape
    units = kernels.hypersphere.unit_rows(stack.reshape(-1, width)).reshape(stack.shape)
    evidence = kernels.feature_spectrum.facts(point, "views" if "views" in point.shapes else "view_a") | {
        "views": views,
        "width": width,
        "samples": samples,
        "exact": samples == point.finite_rows,
    }
    yield MULTI_ALIGNMENT.at(name, kernels.view_stack.multi_alignment(units), 2.0, **evidence)
    yield _uniformity(name, units, evidence)
    rank = kernels.feature_spectrum.rankme(kernels.view_stack.singular_values(stack.reshape(-1, width)))
    null = kernels.feature_spectrum.rankme_null(samples, width)
    yield RANK_UTILISATION.at(name, rank / null, 1.0, rank=rank, rankme_null=null, **evidence)
    yield from _between(name, stack, evidence)
    yield from _order(name, units, evidence)


def _chosen(point: "Activations") -> "Tensor":
    """An even selection of the sampled rows as samples × views × features, in float64."""
    import torch

    sample = point.read("sample(view_a,view_b)")
    uniform = sample.is_uniform.nonzero().flatten()
    roles = ("views",) if "views" in point.shapes else ("view_a", "view_b")
    entries = sum(sample.rows(role)[:1].numel() for role in roles)
    wanted = max(MIN_ROWS, min(MAX_ROWS, MAX_ENTRIES // entries))
    places = uniform[kernels.hypersphere.evenly_spaced(uniform.numel(), wanted)]
    parts = [sample.rows(role)[places].double() for role in roles]
    return parts[0] if len(parts) == 1 else torch.stack(parts, 1)


def _uniformity(name: str, units: "Tensor", evidence: dict[str, object]) -> Measurement:
    places = kernels.hypersphere.evenly_spaced(units.shape[0], PAIRED_ROWS)
    found = [kernels.hypersphere.pair_potential(units[places, view]) for view in range(units.shape[1])]
    potentials = [potential for potential in found if potential is not None]
    value = sum(potential.value for potential in potentials) / len(potentials)
    return VIEW_UNIFORMITY.at(
        name,
        value,
        kernels.hypersphere.uniformity_ideal(units.shape[2]),
        standard_error=max(potential.error for potential in potentials),
        paired_rows=places.numel(),
        **evidence,
    )


def _between(name: str, stack: "Tensor", evidence: dict[str, object]) -> Iterator[Measurement | Skip]:
    found = kernels.view_stack.between_share(stack)
    if found is None:
        yield skip(name, "between_share, between_share_z: nothing varies")
        return
    share, directions = found
    chance, error = kernels.view_stack.between_share_null(stack.shape[0], stack.shape[1], directions)
    yield BETWEEN_SHARE.at(name, share, chance, directions=directions, standard_error=error, **evidence)
    yield BETWEEN_SHARE_Z.at(name, (share - chance) / error, 0.0, share=share, chance=chance, **evidence)


def _order(name: str, units: "Tensor", evidence: dict[str, object]) -> Iterator[Measurement]:
    chosen = units[kernels.hypersphere.evenly_spaced(units.shape[0], ORDERED_ROWS)]
    share = kernels.view_stack.misordered_share(chosen)
    # the place of the positive among the negatives is uniform by chance: a standard deviation of 1/√12 a sample
    error = (12.0 * chosen.shape[0]) ** -0.5
    yield MISORDERED_SHARE.at(name, share, 0.5, standard_error=error, ordered_rows=chosen.shape[0], **evidence)
    yield MISORDERED_SHARE_Z.at(name, (share - 0.5) / error, 0.0, share=share, **evidence)
