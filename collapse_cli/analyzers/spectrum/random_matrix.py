"""Random matrix: what in a matrix could not be noise."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

MP_SIGMA = Metric(
    "mp_sigma",
    "1",
    "The standard deviation of the entries of the noise, from the median singular value.",
    null="the root mean square of all entries: the matrix is noise only",
)
SPIKES = Metric(
    "spikes", "directions", "The number of eigenvalues beyond the edge of the noise.", null="a Gaussian matrix"
)
SPIKE_ENERGY = Metric(
    "spike_energy",
    "1",
    "The share of the energy that lies in the spikes.",
    better="lower",
    warn=Limit(
        "above",
        0.998,
        "zoo: 1.000 in deep linear networks with one to three directions left, 0.8 and less in healthy layers and "
        "0.986 in a trained position table",
    ),
    null="a Gaussian matrix",
    message="{spikes} of {side} directions hold {value:.2%} of the energy; the rest is noise and next to nothing.",
)
MP_SOFTRANK = Metric(
    "mp_softrank",
    "1",
    "The upper edge of the noise eigenvalues over the largest eigenvalue: 1 if there is only noise.",
    null="a Gaussian matrix",
)
BULK_DISTANCE = Metric(
    "bulk_distance",
    "1",
    "The Kolmogorov-Smirnov distance of the eigenvalues that are no spikes from the Marchenko-Pastur law.",
    null="seeded Gaussian matrices of the same shape",
)
RAND_DISTANCE = Metric(
    "rand_distance",
    "1",
    "√ of the Jensen-Shannon divergence between the spectrum and that of the same entries in random places.",
    null="two seeded Gaussian matrices of the same shape",
)
TRAPS = Metric(
    "traps",
    "directions",
    "The number of spikes that are left when the entries are shuffled: made by single large entries.",
    better="lower",
    null="a Gaussian matrix",
)


def healthy() -> Example:
    """Three directions in noise, at 4, 3 and 2 times the strength from which on they can be seen."""
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 128, generator=generator)
    left = torch.linalg.qr(torch.randn(64, 3, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(128, 3, generator=generator)).Q
    strengths = torch.tensor([4.0, 3.0, 2.0]) * (64 * 128) ** 0.25
    return Example({"encoder.layer.0.attention.self.query.weight": 0.05 * (noise + left * strengths @ right.T)})


def collapsed() -> Example:
    """Four directions, and noise that is a thousandth of them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(64, 4, generator=generator), torch.randn(4, 128, generator=generator)
    noise = 0.002 * torch.randn(64, 128, generator=generator)
    return Example({"encoder.layer.0.attention.self.query.weight": factors[0] @ factors[1] + noise})


@weight_analyzer(
    name="random-matrix",
    family="spectrum",
    title="Spikes and bulk",
    metrics=(MP_SIGMA, SPIKES, SPIKE_ENERGY, MP_SOFTRANK, BULK_DISTANCE, RAND_DISTANCE, TRAPS),
    accepts=on.matrices(32),
    remedy="No spikes after training: the layer did not learn (frozen, a rate too low, lazy scaling). Nearly all in a "
    "few spikes: restore the layer or train with less weight decay. The bulk of a layer that works may be removed.",
    references=(
        Reference(
            "Martin & Mahoney. Implicit Self-Regularization in Deep Neural Networks: Evidence from Random Matrix "
            "Theory and Implications for Learning. 2018",
            "https://arxiv.org/abs/1810.01075",
        ),
        Reference(
            "Gavish & Donoho. The Optimal Hard Threshold for Singular Values is 4/√3. 2013",
            "https://arxiv.org/abs/1305.5870",
        ),
        Reference(
            "Benaych-Georges & Nadakuditi. The singular values and vectors of low rank perturbations of large "
            "rectangular random matrices. 2011",
            "https://arxiv.org/abs/1103.2221",
        ),
        Reference(
            "Johnstone. On the distribution of the largest eigenvalue in principal components analysis. Annals of "
            "Statistics 2001",
            "https://doi.org/10.1214/aos/1009210544",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rotated", "rows_permuted"),
    unmoved_metrics=("spikes", "spike_energy", "mp_softrank", "bulk_distance"),
)
def random_matrix(weight: "Weight") -> Iterator[Measurement | Skip]:
    """What in this matrix could not be noise?

    ## Why it matters
    A matrix at initialisation is noise, and its eigenvalues fill a known interval. Training pushes some of them out of
    it. What stays inside could as well be chance; a layer with nothing outside has not learned, and one with nothing
    inside has lost everything but a few directions.

    ## How to read it
    `spikes` counts the eigenvalues beyond the noise (one Gaussian matrix in a hundred shows one), `spike_energy` is
    their share. `mp_softrank` near 1 means that the strongest direction hardly leaves the noise. The evidence of
    `spikes` says how well each of the strongest directions is determined (squared cosine with what was planted).
    `bulk_distance` against its null says whether the rest looks like noise at all. No spikes on a trained layer reads:
    like initialisation.

    ## Limits
    The scale of the noise comes from the median singular value, which holds while less than half of the spectrum is
    signal; layers whose lower half is rounding are skipped, and `spike_energy` is not given where more than a third of
    the directions are spikes (tables of sines and cosines have half). `traps` finds single entries larger than about
    (rows·columns)^(1/4) noise deviations and nothing deeper: see `weight-outliers`; it and `rand_distance` are
    experimental and never judged. Orthogonal matrices have no such bulk. Sides beyond 256 are shuffled once instead of
    three times, and matrices of more than four million entries not at all.
    """
    name, (rows, columns) = weight.site.name, weight.matrix.shape
    side = min(rows, columns)
    if not kernels.spectrum.has_exact_spectrum(weight):
        yield skip(name, f"min side {side} > {kernels.spectrum.MAX_EXACT_SIDE}, no exact spectrum")
        return
    values = weight.get(kernels.spectrum.singular_values)
    rank = weight.get(kernels.spectrum.numerical_rank)
    if 2 * rank <= side:
        yield skip(name, f"no bulk: {rank} of {side} singular values are above rounding")
        return
    law = kernels.random_matrix
    scale = law.bulk_scale(values, rows, columns)
    edge, threshold = law.bulk_edge(scale, rows, columns)
    spikes, energies = law.spike_count(values, rows, columns), values.square()
    overlaps = [law.planted_overlap(float(energy), scale, rows, columns) for energy in energies[: min(spikes, 8)]]
    yield MP_SIGMA.at(name, scale, weight.get(kernels.spectrum.root_mean_square))
    yield SPIKES.at(name, spikes, 0.0, edge=edge, threshold=threshold, strongest_overlaps=overlaps)
    if 3 * spikes > side:
        yield skip(name, f"spike_energy: {spikes} of {side} directions are spikes, too few are left to tell the noise")
    else:
        yield SPIKE_ENERGY.at(name, float(energies[:spikes].sum() / energies.sum()), 0.0, spikes=spikes, side=side)
    yield MP_SOFTRANK.at(name, edge / float(energies[0]), 1.0)
    yield BULK_DISTANCE.at(
        name, law.bulk_distance(values, rows, columns), law.bulk_distance_null(rows, columns), bulk=side - spikes
    )
    yield from _against_its_shuffles(weight)


def _against_its_shuffles(weight: "Weight") -> Iterator[Measurement | Skip]:
    name, (rows, columns) = weight.site.name, weight.matrix.shape
    law = kernels.random_matrix
    if rows * columns > law.MAX_SHUFFLED_ENTRIES:
        reason = f"{rows * columns} entries, shuffled up to {law.MAX_SHUFFLED_ENTRIES}"
        yield skip(name, f"rand_distance, traps: {reason}")
        return
    values, shuffles = weight.get(kernels.spectrum.singular_values), weight.get(law.shuffled_singular_values)
    distances = [law.spectrum_distance(values, shuffled) for shuffled in shuffles]
    counts = [law.spike_count(shuffled, rows, columns) for shuffled in shuffles]
    yield RAND_DISTANCE.at(
        name, sum(distances) / len(shuffles), law.spectrum_distance_null(rows, columns), shuffles=len(shuffles)
    )
    yield TRAPS.at(name, sum(counts) / len(shuffles), 0.0, shuffles=len(shuffles))
