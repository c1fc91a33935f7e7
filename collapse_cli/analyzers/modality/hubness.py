"""Whether a few points win most neighbour lists."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

__all__ = ["hubness"]

#: Below it a skewness is decided by two or three rows.
MIN_ROWS = 1000
#: Rows at most: two cosine matrices of this side take a second. Hubness grows with n, so n is in the evidence.
MOST_ROWS = 4096
NEIGHBOURS = 10
SINGLE, BOTH = "sample", "sample(modality_a,modality_b)"
SURROGATE = "Gaussian rows of the same number, mean and covariance, drawn once"

HUB_SKEWNESS = Metric(
    "hub_skewness",
    "1",
    "Skewness of the number of ten-neighbour lists in which a row stands.",
    better="lower",
    null=SURROGATE,
)
HUB_EXCESS = Metric(
    "hub_excess",
    "1",
    "That skewness less the one of Gaussian rows of the same mean and covariance.",
    better="lower",
    warn=Limit(
        "above",
        8.0,
        "zoo: beyond every healthy model, at most 0.1; ten rows that fill every list of a thousand have skewness 9.9",
    ),
    null="0: as many hubs as the mean and covariance explain",
    message="A few rows win most neighbour lists: skewness {skewness:.3g} against {surrogate:.3g} for Gaussian rows of "
    "the same covariance; one row stands in {largest} of {sampled} lists, {antihubs:.0%} of the rows in none.",
)
ANTIHUB_SHARE = Metric(
    "antihub_share",
    "1",
    "The share of rows that stand in no neighbour list: they are never found.",
    better="lower",
    null=SURROGATE,
)
HUB_OCCURRENCE = Metric(
    "hub_occurrence",
    "1",
    "The share of all places in neighbour lists that go to rows with at least twice their due.",
    better="lower",
    null=SURROGATE,
)


def healthy() -> Example:
    """Directions without a preference."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"encoder/features": torch.randn(1024, 16, generator=generator)}, metadata={})


def collapsed() -> Example:
    """Many directions, and ten rows in the middle of them that are nearest to all."""
    import torch

    generator = torch.Generator().manual_seed(0)
    middle = torch.nn.functional.one_hot(torch.tensor(0), 128)
    around = torch.nn.functional.normalize(torch.randn(1790, 128, generator=generator), dim=1)
    inside = 0.001 * torch.randn(10, 128, generator=generator)
    return Example({"encoder/features": torch.cat((around + middle, inside + middle))}, metadata={})


@activation_analyzer(
    name="hubness",
    family="modality",
    title="Hubness",
    metrics=(HUB_SKEWNESS, HUB_EXCESS, ANTIHUB_SHARE, HUB_OCCURRENCE),
    accepts=on.points(says="hook points with features, or with two modalities (queries a, gallery b)"),
    remedy="Compare by cosine after subtracting the mean, re-rank by local scaling or inverted softmax, and train with "
    "a uniformity term or more negatives.",
    references=(
        Reference(
            "Radovanović, Nanopoulos & Ivanović. Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data. "
            "JMLR 2010",
            "https://www.jmlr.org/papers/v11/radovanovic10a.html",
        ),
        Reference(
            "Fu et al. Transductive Multi-view Zero-Shot Learning. 2015",
            "https://arxiv.org/abs/1501.04560",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(SINGLE, BOTH),
    unmoved_by=("samples_permuted", "features_rotated", "scaled"),
    # the surrogate is drawn row by row, so that its draw moves with the rows
    unmoved_metrics=("hub_skewness", "antihub_share", "hub_occurrence"),
)
def hubness(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do a few points win most neighbour lists?

    ## Why it matters
    A hub is returned for queries it has nothing to do with, and an antihub is never returned at all. Retrieval,
    zero-shot labels and nearest-neighbour classifiers lose both: precision to the hubs, recall to the antihubs.

    ## How to read it
    For every row N is the number of lists of ten nearest rows (by cosine, itself left out) in which it stands; it is 10
    on average. `hub_skewness` is near 0 where lists are shared evenly and above 2 where hubs rule. Each value stands
    beside that of Gaussian rows with the same mean and covariance, and `hub_excess` is what they do not explain.
    `antihub_share` counts rows never found, `hub_occurrence` the places that go to rows with twice their due. With two
    modalities the queries are rows of a and the gallery is b, at `<site>#a-to-b`.

    ## Limits
    Hubness grows with the dimension and with the number of rows, on pure noise too: a fixed threshold on the skewness
    means nothing, and only dumps of as many rows are comparable. Programs that count a row in its own list have no
    antihubs. Near-duplicates fill each other's lists and hide hubs. Of more than 4,096 rows a seeded
    choice is taken.
    """
    if not (point.has(SINGLE) or point.has(BOTH)):
        yield skip(point.site.name, "neither features nor two modalities")
        return
    if point.finite_rows < MIN_ROWS:
        yield skip(point.site.name, f"fewer than {MIN_ROWS:,} distinct rows: {point.finite_rows:,} rows")
        return
    if point.has(SINGLE):
        rows = kernels.nearest_rows.uniform_rows(point.read(SINGLE), "features", MOST_ROWS)
        yield from _measured(point, point.site.name, rows, None)
    if point.has(BOTH):
        name = f"{point.site.name}#a-to-b"
        queries, gallery = (
            kernels.nearest_rows.uniform_rows(point.read(BOTH), role, MOST_ROWS)
            for role in ("modality_a", "modality_b")
        )
        if queries.shape[1] != gallery.shape[1]:
            yield skip(name, f"widths {queries.shape[1]} and {gallery.shape[1]}: the modalities share no space")
            return
        yield from _measured(point, name, queries, gallery)


def _measured(
    point: "Activations", name: str, queries: "Tensor", gallery: "Tensor | None"
) -> Iterator[Measurement | Skip]:
    searched = queries if gallery is None else gallery
    distinct = min(kernels.hubs.distinct_count(rows) for rows in (queries, searched))
    if distinct < MIN_ROWS:
        yield skip(name, f"fewer than {MIN_ROWS:,} distinct rows: {distinct:,} of {queries.shape[0]:,}")
        return
    found = kernels.hubs.hubs(queries, gallery, count=NEIGHBOURS)
    generator = point.generator()
    drawn = [kernels.hubs.gaussian_like(rows, generator) for rows in (queries, searched)[: 1 if gallery is None else 2]]
    surrogate = kernels.hubs.hubs(drawn[0], None if gallery is None else drawn[1], count=NEIGHBOURS)
    facts: dict[str, Any] = {
        "rows": point.finite_rows,
        "features": queries.shape[1],
        "sampled": queries.shape[0],
        "dtype": str(queries.dtype).removeprefix("torch."),
        "neighbours": NEIGHBOURS,
        "largest": found.largest,
        "antihubs": found.antihub_share,
    }
    yield HUB_SKEWNESS.at(name, found.skewness, surrogate.skewness, **facts)
    excess = found.skewness - surrogate.skewness
    yield HUB_EXCESS.at(name, excess, 0.0, **facts, skewness=found.skewness, surrogate=surrogate.skewness)
    yield ANTIHUB_SHARE.at(name, found.antihub_share, surrogate.antihub_share, **facts)
    yield HUB_OCCURRENCE.at(name, found.hub_occurrence, surrogate.hub_occurrence, **facts)
