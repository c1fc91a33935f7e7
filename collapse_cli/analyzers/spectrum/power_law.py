"""Power law: the tail of the eigenvalues as WeightWatcher fits it."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

ALPHA = Metric(
    "alpha",
    "1",
    "The exponent of the power law x^(−alpha) fitted to the largest eigenvalues; 2 to 6 is the usual band.",
)
KS_DISTANCE = Metric(
    "ks_distance", "1", "The Kolmogorov-Smirnov distance of the tail from the fitted law.", better="lower"
)
ALPHA_WEIGHTED = Metric("alpha_weighted", "1", "alpha·log10 λ₁: the exponent weighted by the scale of the layer.")
LOG_ALPHA_NORM = Metric("log_alpha_norm", "1", "log10 Σλ^alpha: the alpha-norm of the eigenvalues.")
ALPHA_SIGMA = Metric("alpha_sigma", "1", "The standard error of alpha, (alpha−1)/√tail_count.")
XMIN = Metric("xmin", "1", "The smallest eigenvalue of the fitted tail.")
TAIL_COUNT = Metric("tail_count", "eigenvalues", "The number of eigenvalues in the fitted tail.")
ALPHA_HILL = Metric("alpha_hill", "1", "Hill's estimate of the exponent from the upper half of the eigenvalues.")

METRICS = (ALPHA, KS_DISTANCE, ALPHA_WEIGHTED, LOG_ALPHA_NORM, ALPHA_SIGMA, XMIN, TAIL_COUNT, ALPHA_HILL)
#: Singular values this close together, relative to the largest, have no tail: alpha would be in the hundreds or more.
_FLAT = 1e-3


def _pareto(alpha: float, seed: int) -> Any:
    """A 64×64 matrix whose eigenvalues are the quantiles of a Pareto law."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    quantiles = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    values = (1 - quantiles) ** (-0.5 / (alpha - 1))
    bases = [torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q for _ in range(2)]
    return (bases[0] * values @ bases[1]).float()


def healthy() -> Example:
    """A layer with a tail of exponent 3, and a small convolution."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example(
        {
            "encoder.layer.0.attention.self.query.weight": _pareto(3.0, 0),
            "features.0.weight": 0.1 * torch.randn(32, 16, 3, 3, generator=generator),
        }
    )


def collapsed() -> Example:
    """A layer with a tail of exponent 1.5, and one of rank 4, which has no tail but rounding."""
    import torch

    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(64, 4, generator=generator), torch.randn(4, 64, generator=generator)
    return Example(
        {
            "encoder.layer.0.attention.self.query.weight": _pareto(1.5, 0),
            "encoder.layer.0.attention.self.key.weight": factors[0] @ factors[1],
        }
    )


@weight_analyzer(
    name="power-law",
    family="spectrum",
    title="Power-law tail (WeightWatcher)",
    metrics=METRICS,
    accepts=on.matrices(8),
    confidence="experimental",
    remedy="Informational: compare the same layer between runs or checkpoints; a spread of alpha between parallel "
    "parts of one model hints at imbalance. Do not gate a model on it.",
    references=(
        Reference(
            "Martin & Mahoney. Implicit Self-Regularization in Deep Neural Networks: Evidence from Random Matrix "
            "Theory and Implications for Learning. 2018",
            "https://arxiv.org/abs/1810.01075",
        ),
        Reference(
            "Clauset, Shalizi & Newman. Power-law distributions in empirical data. 2007",
            "https://arxiv.org/abs/0706.1062",
        ),
        Reference(
            "Hill. A simple general approach to inference about the tail of a distribution. Annals of Statistics 1975",
            "https://doi.org/10.1214/aos/1176343247",
        ),
        Reference(
            "Calculation Consulting. WeightWatcher 0.7.7. 2026", "https://github.com/CalculatedContent/WeightWatcher"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("transposed", "rotated", "rows_permuted"),
    unmoved_metrics=("alpha_hill",),
)
def power_law(weight: "Weight") -> Iterator[Measurement | Skip]:
    """What does WeightWatcher say: how heavy is the tail of the eigenvalues?

    ## Why it matters
    Many trained layers have eigenvalues that thin out like a power law, and the exponent has been used to rank models
    without data. People who know these numbers from WeightWatcher find them here, to the digit, with the standard error
    and the length of the tail that the exponent rests on.

    ## How to read it
    A smaller `alpha` is a heavier tail; 2 to 6 is the band that WeightWatcher calls well trained. Read it with
    `alpha_sigma`, `tail_count` and `ks_distance`: a tail of ten eigenvalues says little. A convolution is measured
    twice, as WeightWatcher does (its kernel positions pooled, eigenvalues halved) under its own name, and folded to one
    matrix under `#folded`. `alpha_hill` needs no cut and is steadier.

    ## Limits
    Nothing is judged: the exponent of a Gaussian matrix lies anywhere between 9 and 114, and alpha can rise while
    accuracy rises. It is blind to rank collapse, so layers that are mostly rounding are skipped. Eigenvalues up to 1e-5
    are dropped as an absolute cut, hence scaling a layer changes its alpha. alpha depends on the aspect ratio; compare
    equal shapes only. Other packages define the fit differently and disagree.
    """
    side = min(weight.matrix.shape)
    if not kernels.spectrum.has_exact_spectrum(weight):
        reason = f"min side {side} > {kernels.spectrum.MAX_EXACT_SIDE}, no exact spectrum"
        yield skip(weight.site.name, _all(reason))
        return
    folded = weight.get(kernels.spectrum.singular_values)
    if weight.tensor.dim() == 4:
        pooled = weight.get(kernels.power_law.sliced_singular_values)
        slices = weight.tensor.shape[2] * weight.tensor.shape[3]
        # the floor of the folded weight bounds that of every slice; λ is halved, so σ is divided by √2
        floor = weight.get(kernels.spectrum.noise_floor) / math.sqrt(2.0)
        yield from _fitted(weight.site.name, pooled, floor, slices=slices)
        yield from _fitted(f"{weight.site.name}#folded", folded, floor * math.sqrt(2.0))
    else:
        yield from _fitted(weight.site.name, folded, weight.get(kernels.spectrum.noise_floor))


def _all(reason: str) -> str:
    return f"{', '.join(metric.name for metric in METRICS)}: {reason}"


def _fitted(site: str, values: Any, floor: float, **evidence: Any) -> Iterator[Measurement | Skip]:
    count = values.numel()
    kept = kernels.power_law.tail_eigenvalues(values)
    if 2 * int((values > floor).sum()) < count:
        yield skip(site, _all("the tail is rounding"))
        return
    if kept.numel() < kernels.power_law.MIN_EIGENVALUES:
        yield skip(site, _all(f"{kept.numel()} eigenvalues above 1e-5, needs {kernels.power_law.MIN_EIGENVALUES}"))
        return
    largest = float(values[0])
    is_flat = largest - math.sqrt(float(kept[0])) <= max(floor, _FLAT * largest)
    fit = None if is_flat else kernels.power_law.power_law_fit(kept)
    if fit is None:
        yield skip(site, _all("no tail, the singular values are equal"))
        return
    evidence = {
        "eigenvalues": kept.numel(),
        "dropped": count - kept.numel(),
        "method": "weightwatcher 0.7.7",
        **evidence,
    }
    yield ALPHA.at(site, fit.alpha, sigma=fit.alpha_sigma, tail_count=fit.tail_count, **evidence)
    yield KS_DISTANCE.at(site, fit.ks_distance)
    yield ALPHA_WEIGHTED.at(site, fit.alpha * 2 * math.log10(largest))
    yield LOG_ALPHA_NORM.at(site, kernels.power_law.log_alpha_norm(values, fit.alpha))
    yield ALPHA_SIGMA.at(site, fit.alpha_sigma)
    yield XMIN.at(site, fit.xmin)
    yield TAIL_COUNT.at(site, fit.tail_count)
    hill = kernels.power_law.hill_alpha(values)
    if hill is None:
        yield skip(site, "alpha_hill: the upper half has no spread or ends in zero")
        return
    yield ALPHA_HILL.at(site, hill, count=count // 2)
