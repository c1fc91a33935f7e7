"""LiDAR: how many directions tell objects from one another, beyond how their own views differ."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Fewer objects span too little to be counted.
FEW_OBJECTS = 10

LIDAR = Metric(
    "lidar",
    "directions",
    "The exponential of the entropy of the eigenvalues that discriminate objects, Σ_w^−½ Σ_b Σ_w^−½.",
    better="higher",
    null="Gaussian rows that do not know their object: close to the width",
)
LIDAR_SIGNAL = Metric(
    "lidar_signal",
    "1",
    "tr(Σ_w⁻¹Σ_b)/D: the mean ratio of the variance between objects to that between views of one.",
    better="higher",
    null="Gaussian rows that do not know their object",
)
LIDAR_SIGNAL_Z = Metric(
    "lidar_signal_z",
    "standard errors",
    "How far lidar_signal is above its null, in standard errors of the null.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not distinguishable from rows that do not know their object by 3 errors"),
    null="0",
    message="Views of one object differ as much as views of different ones: the signal is {signal:.3g}, "
    "chance gives {chance:.3g} ± {standard_error:.2g}.",
)


def healthy() -> Example:
    """Objects far apart, views near their object."""
    import torch

    generator = torch.Generator().manual_seed(0)
    objects = torch.randn(96, 1, 16, generator=generator)
    views = objects + 0.5 * torch.randn(96, 4, 16, generator=generator)
    return Example({"projector/views": views}, metadata={})


def collapsed() -> Example:
    """Views that know nothing of their object."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"projector/views": torch.randn(96, 4, 16, generator=generator)}, metadata={})


@activation_analyzer(
    name="lidar",
    family="rank",
    title="LiDAR",
    metrics=(LIDAR, LIDAR_SIGNAL, LIDAR_SIGNAL_Z),
    accepts=on.points("views", says="hook points with several views of each sample"),
    remedy="If the signal stands at its null, the augmentations are too strong or the encoder has collapsed. Else add "
    "a variance and redundancy term and check the stop-gradient, as for RankMe.",
    references=(
        Reference(
            "Thilak et al. LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures. 2023",
            "https://arxiv.org/abs/2312.04000",
        ),
        Reference(
            "Garrido et al. RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised "
            "Representations by Their Rank. 2022",
            "https://arxiv.org/abs/2210.02885",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    # lidar itself adds fixed constants to the covariance and to its eigenvalues
    unmoved_by=("samples_permuted", "scaled", "shifted"),
    unmoved_metrics=("lidar_signal", "lidar_signal_z"),
    needs=("sample(views)", "extremes(views)"),
)
def lidar(point: "Activations") -> Iterator[Measurement | Skip]:
    """How many directions separate objects from their augmentations?

    ## Why it matters
    The rank of an embedding also counts directions that only carry augmentation noise. LiDAR takes the rank of the
    linear discriminant problem whose classes are the objects themselves, so that only what distinguishes objects
    counts; it followed linear-probe accuracy more closely than the plain rank in the paper.

    ## How to read it
    Read `lidar_signal_z` first: below 3, views of one object are no closer than views of different ones, and then
    `lidar` means nothing, because pure noise scores near the full width. `lidar_signal` is the ratio of the variance
    between to the variance within objects, beside what chance gives. With a signal, `lidar` ranks runs of one method
    on the same number of objects and views; the paper uses about 1,000 objects with 50 views each.

    ## Limits
    Objects are the samples of `views`; object numbers given as labels are not read. Up to 8,192 sampled objects are
    used. LiDAR adds 1e-4 to the covariance and 1e-8 to its eigenvalues, so that it moves with the scale of the
    features, and published codes differ in both and in the normalisers: only numbers of one code compare. Features that
    are constant would score the full width; they are skipped. With fewer objects times views than features the signal
    is not defined, and `lidar` is bounded by the objects less one.
    """
    name, sample = point.site.name, point.read("sample(views)")
    objects = int(sample.is_uniform.sum())
    if objects < FEW_OBJECTS:
        yield skip(name, f"{objects} objects, fewer than {FEW_OBJECTS}")
        return
    views, width = point.shapes["views"][1:]
    if views < 2 or width == 0:
        yield skip(name, "one view per object")
        return
    scatter = point.get(kernels.object_discrimination.between_and_within)
    extremes = point.read("extremes(views)")
    rounding = float(extremes.squared_rounding.sum()) * objects / extremes.count / views
    if (objects - 1) * float(scatter.between.trace()) <= 3.0 * rounding:
        yield skip(name, "no between-object variance beyond rounding")
        return
    facts = point.get(_facts) | {"objects": objects, "exact": sample.is_exact, "few_objects": objects < 2 * width}
    value, eigenvalues = kernels.object_discrimination.lidar(scatter)
    null = kernels.random_matrix.effective_rank_lambda_null(objects - 1, width)
    curve = kernels.feature_spectrum.curve(eigenvalues)
    yield LIDAR.at(name, value, null, **facts, delta=1e-4, epsilon=1e-8, eigenvalues=curve)
    yield from _signal(point, facts)


def _facts(point: "Activations") -> dict[str, object]:
    _, views, width = point.shapes["views"]
    return kernels.feature_spectrum.facts(point, "views") | {"views": views, "width": width}


def _signal(point: "Activations", facts: dict[str, object]) -> Iterator[Measurement | Skip]:
    name, scatter = point.site.name, point.get(kernels.object_discrimination.between_and_within)
    width = scatter.within.shape[0]
    null = kernels.object_discrimination.signal_null(scatter.objects, scatter.views, width)
    if null is None:
        freedom = scatter.objects * (scatter.views - 1)
        yield skip(name, f"lidar_signal, lidar_signal_z: {freedom} differences of views do not span {width} features")
        return
    value = kernels.object_discrimination.signal(scatter)
    if value is None:
        yield skip(name, "lidar_signal, lidar_signal_z: the views of an object do not differ in every direction")
        return
    chance, error = null
    yield LIDAR_SIGNAL.at(name, value, chance, **facts, standard_error=error)
    yield LIDAR_SIGNAL_Z.at(
        name, (value - chance) / error, 0.0, **facts, signal=value, chance=chance, standard_error=error
    )
