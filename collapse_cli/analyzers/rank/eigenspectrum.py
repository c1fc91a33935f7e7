"""Eigenspectrum: whether the covariance decays as a power law, how fast, and where the targets are in it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Below it the fitted line is not what the spectrum does.
LINE_R2 = 0.95

ALPHA = Metric(
    "alpha",
    "1",
    "The exponent of λ_i ≈ i^−α, fitted to the 11th to 100th eigenvalue of the covariance.",
    null="the same fit on the spectrum that isotropic Gaussian rows are expected to have",
)
ALPHA_R2 = Metric(
    "alpha_r2", "1", "The share of the variance of ln λ that the fitted power law explains.", better="higher"
)
TARGET_BETA = Metric(
    "target_beta",
    "1",
    "The exponent with which the targets' squared coefficients fall along the same principal components.",
    null="0 for targets that the features do not know",
)
EFFECTIVE_DIMENSION = Metric(
    "effective_dimension",
    "directions",
    "Σλ/(λ + δ) with δ = Σλ/N: the directions that a ridge regression on so many rows can use.",
)


def _spectrum(exponent: float) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(300, 129, generator=generator, dtype=torch.float64))
    basis = torch.linalg.qr(basis - basis.mean(0)).Q[:, :128]
    rows = basis * torch.arange(1, 129, dtype=torch.float64) ** (-exponent / 2)
    targets = rows @ torch.arange(1, 129, dtype=torch.float64)[:, None] ** -0.5
    return Example({"encoder/features": 20 * rows, "encoder/targets": targets}, metadata={})


def healthy() -> Example:
    """Eigenvalues 1/i."""
    return _spectrum(1.0)


def collapsed() -> Example:
    """Eigenvalues i^−4."""
    return _spectrum(4.0)


@activation_analyzer(
    name="eigenspectrum",
    family="rank",
    title="Eigenspectrum",
    metrics=(ALPHA, ALPHA_R2, TARGET_BETA, EFFECTIVE_DIMENSION),
    accepts=on.points("features", says="hook points with features"),
    remedy="An exponent far above 1 asks for more decorrelation (variance and redundancy terms, more views); one far "
    "below 1 means noise or too few rows.",
    references=(
        Reference(
            "Agrawal et al. α-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring "
            "eigenspectrum decay. 2022",
            "https://openreview.net/forum?id=ii9X4vtZGTZ",
        ),
        Reference(
            "Stringer et al. High-dimensional geometry of population responses in visual cortex. Nature 2019",
            "https://doi.org/10.1038/s41586-019-1346-5",
        ),
        Reference(
            "Simon et al. More is Better: when Infinite Overparameterization is Optimal and Overfitting is Obligatory. "
            "2023",
            "https://arxiv.org/abs/2311.14646",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled"),
    needs=("moments", "class_moments", "cross_moments(features,targets)"),
    uses=("labels", "targets"),
)
def eigenspectrum(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does the covariance decay as a power law, with which exponent, and do the targets live in its head?

    ## Why it matters
    A spectrum that falls too fast leaves most directions empty; one that falls too slowly is as rough as noise and does
    not generalise. In the visual cortex and in good self-supervised encoders the exponent is near 1, and probe accuracy
    was found to peak there.

    ## How to read it
    `alpha` near 1 is what good representations show; far above 1 few directions are left, far below 1 the features look
    like noise. It means something only where `alpha_r2` is at least 0.95. `target_beta` says how fast the targets fall
    along the components: large when the head of the spectrum holds them, 0 when they are no better placed than noise.
    `effective_dimension` counts the directions that stand out of a ridge of the size so many rows call for.

    ## Limits
    No limit is set: the papers publish curves, not thresholds. White noise reads near 0.15 when rows and features are
    as many, which the null says and which is no structure. The window needs 100 eigenvalues; projected or whitened
    features follow no law, and an exponent from another window or other weights does not compare. Some codes that call
    a number alpha fit a line to ln λ over i, which is another thing.
    """
    name, moments = point.site.name, point.read("moments")
    rows, width = moments.count, moments.shift.numel()
    if rows < 3 or width == 0:
        yield skip(name, "fewer than 3 finite rows")
        return
    values = point.get(kernels.feature_spectrum.covariance_eigenvalues)
    if float(values[0]) == 0.0:
        yield skip(name, "all rows are equal")
        return
    facts = point.get(kernels.feature_spectrum.facts) | {"centred": True}
    ridge = float(values.sum()) / rows
    dimension = kernels.power_decay.effective_dimension(values, ridge)
    yield EFFECTIVE_DIMENSION.at(name, dimension, **facts, ridge=ridge)
    fitted = kernels.power_decay
    window: dict[str, Any] = {"first": fitted.FIRST, "last": fitted.LAST, "weights": "1/i"}
    if values.numel() < fitted.LAST:
        yield skip(name, "alpha, alpha_r2, target_beta: fewer than 100 eigenvalues: window 11–100 does not exist")
        return
    fit = fitted.power_fit(values.numpy())
    if fit is None:
        rank = int((values > 0.0).sum())
        yield skip(name, f"alpha, alpha_r2, target_beta: rank {rank}: eigenvalues 11–100 are not all above rounding")
        return
    chance = fitted.power_fit(kernels.feature_spectrum.marchenko_pastur_quantiles(rows - 1, width))
    curve = kernels.feature_spectrum.curve(values)
    yield ALPHA.at(
        name,
        fit.exponent,
        None if chance is None else chance.exponent,
        **facts,
        **window,
        is_line=fit.r2 >= LINE_R2,
        eigenvalues=curve,
    )
    yield ALPHA_R2.at(name, fit.r2, **facts, **window)
    yield from _of_targets(point, facts | window)


def _of_targets(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, fitted = point.site.name, kernels.power_decay
    found = fitted.target_cross(point)
    if found is None:
        yield skip(name, "target_beta: no targets and no labels")
        return
    cross, role = found
    energies = fitted.target_energies(point.read("moments").centred_scatter, cross)
    fit = fitted.power_fit(energies.numpy())
    if fit is None:
        yield skip(name, f"target_beta: the {role} are constant, or have nothing on some component of the window")
        return
    yield TARGET_BETA.at(
        name, fit.exponent, 0.0, **facts, of=role, r2=fit.r2, energies=kernels.feature_spectrum.curve(energies)
    )
