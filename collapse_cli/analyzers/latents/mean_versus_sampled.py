"""Mean against sampled representations of a Gaussian posterior."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip
from collapse_cli.errors import BadValues

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.gaussian_posterior import GaussianPosterior
    from collapse_cli.kernels.views import Activations

FEW_ROWS = 500
#: Unit roundoff of the formats that posteriors are stored in; float32 for anything else.
_ROUNDOFF = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
UNRELATED = "√(2/(πN)), the mean |correlation| of N rows of unrelated columns"

MEAN_CORRELATION = Metric(
    "mean_correlation", "1", "Mean |correlation| of two dimensions of μ.", better="lower", null=UNRELATED
)
SAMPLED_CORRELATION = Metric(
    "sampled_correlation", "1", "Mean |correlation| of two dimensions of z = μ + σε.", better="lower", null=UNRELATED
)
CORRELATION_GAP = Metric(
    "correlation_gap",
    "1",
    "What correlation of μ is not there in z: the difference of the two.",
    better="lower",
    warn=Limit("above", 0.5, "zoo: beyond every healthy model, 0.12 at most; most of the correlation of μ is not in z"),
    null="0, the posterior is sure of its mean",
    message="Two dimensions of μ correlate by {mean:.3g} and of z by {sampled:.3g}: what is read from μ was never "
    "passed to the decoder.",
)
PASSIVE_GAP = Metric(
    "passive_gap",
    "1",
    "The same over pairs of passive dimensions.",
    better="lower",
    null="0, the posterior is sure of its mean",
)
RANK_RATIO = Metric(
    "rank_ratio", "1", "The effective rank of the covariance of z over that of μ.", null="1, the same directions"
)


def healthy() -> Example:
    """Certain posteriors whose means correlate by a half."""
    import torch

    generator = torch.Generator().manual_seed(0)
    common, own = torch.randn(600, 1, generator=generator), torch.randn(600, 4, generator=generator)
    means = 0.995 * math.sqrt(0.5) * (common + own)
    return Example({"encoder/mu": means, "encoder/logvar": torch.full((600, 4), math.log(0.01))}, metadata={})


def collapsed() -> Example:
    """Two passive dimensions that are one at a scale of a twentieth."""
    import torch

    x = 0.05 * torch.randn(600, 1, generator=torch.Generator().manual_seed(0))
    return Example({"encoder/mu": torch.cat((x, -x), 1), "encoder/logvar": torch.zeros(600, 2)}, metadata={})


@activation_analyzer(
    name="mean-versus-sampled",
    family="latents",
    title="Mean versus sampled",
    metrics=(MEAN_CORRELATION, SAMPLED_CORRELATION, CORRELATION_GAP, PASSIVE_GAP, RANK_RATIO),
    accepts=on.points("mu", "logvar", says="hook points with a Gaussian posterior"),
    remedy="Use sampled z for what is downstream, or drop the passive dimensions before probing, scoring or "
    "clustering; train with a lower weight β of the divergence.",
    references=(
        Reference(
            "Bonheme & Grzes. Be More Active! Understanding the Differences between Mean and Sampled Representations "
            "of Variational Autoencoders. 2023",
            "https://jmlr.org/papers/v24/21-1145.html",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted",),
    needs=("gaussian_posterior",),
)
def mean_versus_sampled(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do users of μ see correlations and dimensions that sampled z does not have?

    ## Why it matters
    The decoder was trained on samples z = μ + σε, and everything else is usually fed μ. Where σ is as large as the
    prior's, what is left in μ is a small residue that the model does not use; scaled up by a correlation, a probe or a
    disentanglement score it looks like structure.

    ## How to read it
    The two mean correlations are of the same posteriors, with and without the noise, and no sample is drawn: the
    covariance of z is that of μ plus the mean variances. A `correlation_gap` near 0 says that both views agree; a
    large one with a large `passive_gap` says that passive dimensions cause it. A `rank_ratio` above 1 says that noise
    fills directions that μ does not have.

    ## Limits
    Only linear relations of pairs are seen. Passive dimensions share a tiny scale and often correlate there, so a gap
    alone is not an illness of the model but of the scores that are computed on μ. With few rows the mean correlation
    of unrelated columns is not 0: compare with the null. Dimensions whose mean is constant up to rounding have no
    correlation; they are left out and counted. Passive is meant against the learned prior where there is one.
    """
    name, posterior = point.site.name, point.read("gaussian_posterior")
    if not posterior.is_consistent:
        raise BadValues(
            "posterior and prior do not have the same latents", expected="equal widths", got=str(point.shapes)
        )
    if posterior.count < FEW_ROWS:
        yield skip(name, f"{posterior.count} finite rows, needs {FEW_ROWS}")
        return
    varies = _varies(posterior, point.dtypes.get("mu", ""))
    kept = int(varies.sum())
    if kept < 2:
        yield skip(name, f"{kept} dimensions of μ vary, needs 2")
        return
    means, sampled = (whole[varies][:, varies] for whole in _covariances(posterior))
    topic, null = kernels.gaussian_latents, math.sqrt(2.0 / (math.pi * posterior.count))
    facts = kernels.feature_spectrum.facts(point, "mu") | {"constant": varies.numel() - kept}
    of_means, of_samples = topic.mean_correlation(means), topic.mean_correlation(sampled)
    yield MEAN_CORRELATION.at(name, of_means, null, **facts)
    yield SAMPLED_CORRELATION.at(name, of_samples, null, **facts)
    yield CORRELATION_GAP.at(name, of_means - of_samples, 0.0, **facts, mean=of_means, sampled=of_samples)
    is_passive = topic.latent_kinds(posterior).is_passive[varies]
    passive = int(is_passive.sum())
    if passive < 2:
        yield skip(name, f"passive_gap: {passive} passive dimensions vary, needs 2")
    else:
        pairs = [topic.mean_correlation(part[is_passive][:, is_passive]) for part in (means, sampled)]
        yield PASSIVE_GAP.at(name, pairs[0] - pairs[1], 0.0, **facts, passive=passive, mean=pairs[0], sampled=pairs[1])
    ranks = [kernels.gaussian_latents.covariance_rank(part) for part in (means, sampled)]
    yield RANK_RATIO.at(name, ranks[1] / ranks[0], 1.0, **facts, mean_rank=ranks[0], sampled_rank=ranks[1])


def _covariances(posterior: "GaussianPosterior") -> "tuple[Tensor, Tensor]":
    return posterior.covariance, kernels.gaussian_latents.sampled_covariance(posterior)


def _varies(posterior: "GaussianPosterior", dtype: str) -> "Tensor":
    """Dimensions of μ that vary by more than the rounding of its values."""
    roundoff = _ROUNDOFF.get(dtype, _ROUNDOFF["F32"])
    return posterior.covariance.diagonal() > roundoff**2 * (1.0 + posterior.mean.square())
