"""Memorisation: whether generated samples are copies of training rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Samples, and different training rows, below which nothing is measured.
FEW_ROWS = 100
#: Share of repeated training rows above which they are no baseline.
MANY_DUPLICATES = 0.5
#: Training rows whose own nearest training row is the baseline.
BASELINE_ROWS = 10_000
#: Share of fresh rows that is as near as a copy by the definition of `copied_share`.
NEAREST_SHARE = 0.01
#: Cosine from which a pair is similar in copy detection (Somepalli et al. 2023 show pairs from there on).
SIMILAR = 0.6
#: Pairs in the evidence.
LISTED = 10

COPYING_AUC = Metric(
    "copying_auc",
    "1",
    "The probability that a sample is nearer to its nearest training row than a training row to its nearest other.",
    better="lower",
    null="½: fresh draws from the distribution of the training rows",
)
COPIED_SHARE = Metric(
    "copied_share",
    "1",
    "The share of samples nearer to a training row than all but 1 % of the training rows are to another.",
    better="lower",
    null="0.01: fresh draws from the distribution of the training rows",
)
NEAREST_RATIO = Metric(
    "nearest_ratio",
    "1",
    "The median distance from samples to training rows over that from training rows to their nearest other.",
    better="higher",
    warn=Limit("below", 0.5, "zoo: healthy 0.9 and more, at three tenths of the best bandwidth 0.3"),
    error=Limit(
        "below", 0.1, "zoo: at a fiftieth of the best bandwidth 0.02: copies up to a tenth of the spacing of real rows"
    ),
    null="1: fresh draws from the distribution of the training rows",
    message="The usual sample is {value:.3g} times as far from a training row as training rows are from one another.",
)
EXACT_COPIES = Metric(
    "exact_copies",
    "1",
    "The share of samples that equal a training row bit for bit.",
    better="lower",
    warn=Limit("above", 0.1, "zoo: beyond every healthy model, which has none; one sample in ten is a training row"),
    error=Limit("above", 0.5, "definition: most samples are training rows, bit for bit"),
    null="0: real numbers do not repeat",
    message="{value:.1%} of {compared:,} samples equal a training row exactly.",
)
SIMILAR_SHARE = Metric(
    "similar_share",
    "1",
    "The share of samples whose cosine with some training row exceeds 0.6, in an embedding made to detect copies.",
    better="lower",
)


def healthy() -> Example:
    """Samples that are fresh draws from the distribution of the training rows."""
    import torch

    generator = torch.Generator().manual_seed(0)
    arrays = {
        name: torch.randn(count, 16, generator=generator) for name, count in (("samples", 300), ("reference", 500))
    }
    return Example(arrays, metadata={"embedding": "sscd"})


def collapsed() -> Example:
    """Training rows with a little noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(500, 16, generator=generator)
    return Example(
        {"samples": reference[:300] + 0.01 * torch.randn(300, 16, generator=generator), "reference": reference},
        metadata={"embedding": "sscd"},
    )


@activation_analyzer(
    name="memorisation",
    family="samples",
    title="Memorisation",
    metrics=(COPYING_AUC, COPIED_SHARE, NEAREST_RATIO, EXACT_COPIES, SIMILAR_SHARE),
    accepts=on.points("samples", "reference", says="hook points with samples and a reference, the training set"),
    remedy="Remove duplicates from the training data, train on more data or for fewer steps, add noise to the "
    "conditioning, and filter near copies out of the samples.",
    references=(
        Reference(
            "Meehan et al. A Non-Parametric Test to Detect Data-Copying in Generative Models. 2020",
            "https://arxiv.org/abs/2004.05675",
        ),
        Reference(
            "Somepalli et al. Diffusion Art or Digital Forgery? Investigating Data Replication in Diffusion Models. "
            "2023",
            "https://arxiv.org/abs/2212.03860",
        ),
        Reference(
            "Wang et al. Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering. 2024",
            "https://arxiv.org/abs/2409.02426",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
    needs=("sample(samples)", "sample(reference)", "nearest_training"),
)
def memorisation(point: "Activations") -> Iterator[Measurement | Skip]:
    """Are the samples copies of training rows?

    ## Why it matters
    A generator that replays its training data passes every test of realism and of coverage, and leaks what it was
    trained on. It has not learned the distribution but the sample.

    ## How to read it
    The reference is the training set. Fresh draws from its distribution lie as far from their nearest training row as
    training rows lie from one another: `copying_auc` ½, `copied_share` 0.01, `nearest_ratio` 1. Copies with a little
    noise give 1, 1 and nearly 0. `exact_copies` counts equal rows, `similar_share` pairs above a cosine of 0.6, where
    metadata `embedding` says `sscd`. The closest pairs are in the evidence, by their places in the dump.

    ## Limits
    The reference must be the whole training set: copies of rows that are not in it cannot be seen. All of it is
    compared with up to 10,000 samples; its own distances are those of up to 10,000 different rows among up to 50,000,
    and with more rows than that the baseline is corrected so that fresh draws are not blamed. Repetitions in the
    training set are merged, because they hide copying; a set of mostly repetitions is refused. A generator that keeps
    to the dense middle of the data is near to training rows without copying, so `copying_auc` and `copied_share` are
    not judged: read them with `vendi` and `recall`. A held-out set in place of the samples is the better baseline.
    """
    name, sets, copying = point.site.name, kernels.generated_sets, kernels.copying
    sets.same_width(point)
    found, kept = point.read("nearest_training"), sets.kept(point, "reference")
    if found.indices.numel() < FEW_ROWS:
        yield skip(name, f"{found.indices.numel():,} samples: fewer than {FEW_ROWS}")
        return
    different = sets.distinct(kept)
    repeated = kept.shape[0] - different.shape[0]
    if different.shape[0] < FEW_ROWS:
        yield skip(name, f"{different.shape[0]:,} different training rows of {kept.shape[0]:,}: fewer than {FEW_ROWS}")
        return
    sets.refuse_duplicates(repeated, kept.shape[0], MANY_DUPLICATES)
    facts = point.get(sets.facts) | {"compared": found.indices.numel(), "repeated_training_rows": repeated}
    yield EXACT_COPIES.at(name, float(found.is_copy.double().mean()), 0.0, **facts, copies=int(found.is_copy.sum()))
    if found.with_cosines:
        similar = found.cosines > SIMILAR
        yield SIMILAR_SHARE.at(
            name,
            float(similar.double().mean()),
            **facts,
            similar=int(similar.sum()),
            median=float(found.cosines.median()),
        )
    else:
        yield skip(name, "similar_share: metadata embedding is not sscd")
    among, ratio = _among(different), found.count / kept.shape[0]
    usual = copying.quantile(among, 0.5, ratio=ratio)
    if usual == 0.0:
        yield skip(name, "copying_auc, copied_share, nearest_ratio: most training rows are as good as equal")
        return
    auc = copying.copying_auc(found.distances, among, ratio=ratio)
    close = copying.quantile(among, NEAREST_SHARE, ratio=ratio)
    copied = float((found.distances < close).double().mean())
    median = float(found.distances.median())
    facts |= {"baseline_rows": among.numel(), "rows_per_baseline_row": ratio} | _closest(found)
    error = copying.copying_error(found.indices.numel(), among.numel())
    yield COPYING_AUC.at(name, auc, 0.5, **facts, null_deviation=error)
    yield COPIED_SHARE.at(name, copied, NEAREST_SHARE, **facts, below=close)
    yield NEAREST_RATIO.at(name, median / usual, 1.0, **facts, median=median, expected=usual)


def _among(rows: "Tensor") -> "Tensor":
    """Distances of at most 10,000 different training rows to the nearest other one."""
    chosen = kernels.nearest_rows.thinned(rows.shape[0], BASELINE_ROWS).to(rows.device)
    return kernels.set_distances.nearest(rows[chosen], rows, own=chosen).distances[:, 0].cpu()


def _closest(found: Any) -> dict[str, list[float] | list[int]]:
    """The samples nearest to a training row, which row that is, and how far."""
    order = found.distances.argsort(stable=True)[:LISTED]
    return {
        "closest_samples": found.indices[order].tolist(),
        "closest_training_rows": found.nearest[order].tolist(),
        "closest_distances": found.distances[order].tolist(),
    }
