"""Activation density: how firing is spread over latents and over rows."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.unit_activity import UnitActivity
    from collapse_cli.kernels.views import Activations

FEW_ROWS = 10_000
#: A latent is dense when it fires in more than this share of the rows.
DENSE = 0.1

L0_MEAN = Metric(
    "l0_mean",
    "latents",
    "The mean number of latents above 0 in a row; of features and tokens, of entries that are not 0.",
    null="the configured k of top-k codes",
)
L0_CV = Metric(
    "l0_cv",
    "1",
    "The standard deviation of that number over its mean.",
    null="√((1 − L0/F)/L0), independent latents of equal density; 0 for top-k codes",
)
DENSITY_ZIPF = Metric(
    "density_zipf",
    "1",
    "The exponent of density against rank: ranks from one half of the rows, counts from the other.",
    null="0, equal densities",
)
DENSITY_GINI = Metric(
    "density_gini",
    "1",
    "The Gini coefficient of the densities: 0 when all latents fire equally often.",
    better="lower",
    null="√((1 − r)/(πNr)) at r = L0/F, counting alone",
)
DENSE_SHARE = Metric(
    "dense_share",
    "1",
    "The share of latents that fire in more than a tenth of the rows.",
    better="lower",
    null="0 for equal densities below a tenth, else 1",
)
EFFECTIVE_LATENTS = Metric(
    "effective_latents",
    "1",
    "The exponential of the entropy of the densities' shares over the number of latents.",
    better="higher",
    warn=Limit("below", 0.003, "zoo: beyond every healthy model; 3 of 1,000 latents carry the firing"),
    null="1, equal densities",
    message="The firing of {units} latents is that of {effective:.3g} equally frequent ones, with {active_per_row:.3g} "
    "active per row.",
)
_OF_CODES = "l0_cv, density_zipf, density_gini, dense_share, effective_latents"


def healthy() -> Example:
    """Equal densities, two of 40 latents in every row."""
    import torch

    generator = torch.Generator().manual_seed(0)
    codes = (torch.rand(FEW_ROWS, 40, generator=generator) < 0.05).half()
    return Example({"sae/sparse": codes}, metadata={})


def collapsed() -> Example:
    """One latent of 400 takes all the firing."""
    import torch

    codes = torch.zeros(FEW_ROWS, 400, dtype=torch.float16)
    codes[:, 7] = 1.0
    return Example({"sae/sparse": codes}, metadata={})


@activation_analyzer(
    name="activation-density",
    family="sparse",
    title="Activation density",
    metrics=(L0_MEAN, L0_CV, DENSITY_ZIPF, DENSITY_GINI, DENSE_SHARE, EFFECTIVE_LATENTS),
    accepts=on.points(
        any_of=(("sparse",), ("features",), ("tokens",)), says="hook points with sparse codes, features or tokens"
    ),
    remedy="Take a larger k or a smaller sparsity weight, let latents and rows choose each other (mutual or feature "
    "choice), and drop dense latents that stand for a bias or a position.",
    references=(
        Reference(
            "Ayonrinde. Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders. 2024",
            "https://arxiv.org/abs/2411.02124",
        ),
        Reference(
            "Yu et al. White-Box Transformers via Sparse Rate Reduction: Compression Is All There Is? 2024",
            "https://arxiv.org/abs/2311.13110",
        ),
        Reference(
            "Pai et al. Masked Completion via Structured Diffusion with White-Box Transformers. 2024",
            "https://arxiv.org/abs/2404.02446",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "samples_permuted"),
    unmoved_metrics=("l0_mean", "l0_cv", "density_gini", "dense_share", "effective_latents"),
    needs=("unit_activity", "unit_activity(features)", "unit_activity(tokens)"),
)
def activation_density(point: "Activations") -> Iterator[Measurement | Skip]:
    """How is firing spread over latents and over rows?

    ## Why it matters
    Sparse codes are read latent by latent. When a few latents fire in every row they stand for a bias and not for a
    concept, and when all the firing is theirs the dictionary has collapsed onto them, however good the reconstruction.

    ## How to read it
    `l0_mean` is the sparsity that training asked for, and `l0_cv` how much it moves from row to row. The share of
    equally frequent latents with the same entropy is `effective_latents`: 1 when all fire alike; trained dictionaries
    lie below, with densities that fall as a power of the rank (`density_zipf`). Latents that fire in more than a tenth
    of the rows are counted by `dense_share`. The nulls are what independent latents of equal density give. The evidence
    holds the histogram of densities, from one row to all. Of features and tokens only the entries that are not 0 are
    counted.

    ## Limits
    The entropy says nothing of latents that fire too rarely for these rows: `dead-latents` says how far silence is
    proof. Of signed codes only what is above 0 fires. A dense latent may be wanted, as a bias. A dictionary that always
    uses the same latents passes while these are a few per cent of it: compare `effective_latents` times F with
    `l0_mean`. Rows from few documents make all of these look more concentrated than they are.
    """
    name = point.site.name
    if not point.has("unit_activity"):
        yield from _entries(point)
        return
    activity = point.read("unit_activity")
    if activity.count < FEW_ROWS or activity.units == 0:
        yield skip(name, f"{activity.count} finite rows of {activity.units} latents, needs {FEW_ROWS:,}")
        return
    firing = kernels.firing
    mean, configured = firing.mean_active(activity), firing.top_k(point.metadata)
    facts = kernels.feature_spectrum.facts(point, "sparse") | {"units": activity.units, "active_per_row": mean}
    deviation = firing.activity_deviation(activity)
    yield L0_MEAN.at(name, mean, configured, **facts, deviation=deviation)
    if activity.active_sum == 0:
        yield skip(name, f"{_OF_CODES}: nothing fires in {activity.count:,} rows")
        return
    density = mean / activity.units
    independent = math.sqrt(max(0.0, 1.0 - density) / mean)
    yield L0_CV.at(name, deviation / mean, independent if configured is None else 0.0, **facts)
    yield from _densities(point, facts)


def _densities(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement]:
    name, activity = point.site.name, point.read("unit_activity")
    firing, counts = kernels.firing, activity.positive
    other_half = counts - activity.positive_half
    exponent = firing.rank_frequency_exponent(activity.positive_half, other_half)
    yield DENSITY_ZIPF.at(name, exponent, 0.0, **facts, rows_ranked=activity.half_count)
    gini = kernels.strength.gini(counts.double())
    yield DENSITY_GINI.at(name, gini, firing.gini_null(activity), **facts)
    dense = int((counts > DENSE * activity.count).sum())
    is_dense = facts["active_per_row"] > DENSE * activity.units
    yield DENSE_SHARE.at(name, dense / activity.units, float(is_dense), **facts, dense=dense)
    effective = kernels.spectrum.entropy_rank(counts.double())
    histogram = firing.density_histogram(activity)
    yield EFFECTIVE_LATENTS.at(name, effective / activity.units, 1.0, **facts, effective=effective, densities=histogram)


def _entries(point: "Activations") -> Iterator[Measurement | Skip]:
    """The share of entries that are not 0, of what is no sparse code."""
    name = point.site.name
    role = "features" if point.has("unit_activity(features)") else "tokens"
    activity: UnitActivity = point.read(f"unit_activity({role})")
    if activity.count < FEW_ROWS or activity.units == 0:
        yield skip(name, f"{activity.count} finite rows of {role}, needs {FEW_ROWS:,}")
        return
    entries = int(activity.positive.sum() + activity.negative.sum())
    share = entries / (activity.count * activity.units)
    if share == 1.0:
        yield skip(name, f"l0_mean: dense {role}, none of their entries is 0")
        return
    facts = kernels.feature_spectrum.facts(point, role)
    yield L0_MEAN.at(name, entries / activity.count, **facts, role=role, entries=activity.count, share=share)
    yield skip(name, f"{_OF_CODES}: {role} are no sparse codes")
