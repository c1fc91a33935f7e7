"""RankMe: how many directions embeddings use, to rank runs of one method without labels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

GAUSSIAN = "isotropic Gaussian rows, as many and as wide"
REPRESENTATION = frozenset({"representation"})

RANKME = Metric(
    "rankme",
    "directions",
    "The exponential of the entropy of σ/Σσ + 1e-7, σ the singular values of the features, not centred.",
    better="higher",
    null=GAUSSIAN,
)
RANKME_SHARE = Metric(
    "rankme_share",
    "1",
    "RankMe over what isotropic Gaussian rows of the same number and width give.",
    better="higher",
    warn=Limit(
        "below",
        0.1,
        "zoo: 0.2 or more in sound embeddings, 0.04 to 0.05 where half of the neighbours are lost",
        intent=REPRESENTATION,
    ),
    error=Limit(
        "below",
        0.05,
        "zoo: 0.03 where two directions of 64 are left, 0.2 or more in sound embeddings",
        intent=REPRESENTATION,
    ),
    null="1",
    message="The embeddings use {rankme:.3g} directions where random ones of this size use {chance:.3g}.",
)
RANKME_CENTRED = Metric(
    "rankme_centred",
    "directions",
    "The same about the mean, without the 1e-7: an offset common to all rows does not count.",
    better="higher",
    null=GAUSSIAN,
)


def healthy() -> Example:
    """Gaussian rows."""
    import torch

    return Example(
        {"projector/features": torch.randn(256, 32, generator=torch.Generator().manual_seed(0))},
        metadata={},
        intent="representation",
    )


def collapsed() -> Example:
    """256 features of which one direction is left, about a common offset."""
    import torch

    generator = torch.Generator().manual_seed(0)
    line = torch.randn(400, 1, generator=generator) @ torch.randn(1, 256, generator=generator)
    rows = 3.0 * line + 1e-4 * torch.randn(400, 256, generator=generator)
    return Example({"projector/features": rows}, metadata={}, intent="representation")


@activation_analyzer(
    name="rankme",
    family="rank",
    title="RankMe",
    metrics=(RANKME, RANKME_SHARE, RANKME_CENTRED),
    accepts=on.points("features", says="hook points with features"),
    remedy="Add or strengthen a variance and redundancy term (VICReg, Barlow Twins), use more views, and check the "
    "stop-gradient, the moving average and the predictor. Look at the backbone and not only at the projector.",
    references=(
        Reference(
            "Garrido et al. RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised "
            "Representations by Their Rank. 2022",
            "https://arxiv.org/abs/2210.02885",
        ),
        Reference(
            "Roy & Vetterli. The effective rank: a measure of effective dimensionality. EUSIPCO 2007",
            "https://www.eurasip.org/Proceedings/Eusipco/Eusipco2007/Papers/a5p-h05.pdf",
        ),
        Reference(
            "Bardes, Ponce & LeCun. VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised "
            "Learning. 2021",
            "https://arxiv.org/abs/2105.04906",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled", "features_rotated"),
    needs=("moments",),
)
def rankme(point: "Activations") -> Iterator[Measurement | Skip]:
    """How many directions do the embeddings use, so that runs of one method can be ranked without labels?

    ## Why it matters
    Self-supervised training can lose dimensions while its loss improves (dimensional collapse), and no linear probe can
    read what has no direction left. RankMe was shown to follow downstream accuracy across the runs of one method, which
    makes it a way to choose hyper-parameters without labels.

    ## How to read it
    `rankme` is the paper's number and compares runs of one method, on the same number of rows. `rankme_share` divides
    by what Gaussian rows of the same number and width give (close to 1 for isotropic features), and is the one to
    compare between sizes. `rankme_centred` takes the mean away: far above `rankme`, all embeddings share an offset.
    Below ten rows a feature the sample limits the rank, and the evidence says so.

    ## Limits
    Limits hold for the intent `representation` only: under neural collapse a classifier's features rightly have as many
    directions as classes less one. The number grows with the rows (isotropic features of width 512 read 237, 474, 504
    and 511 on 256, 1024, 4096 and 25600 rows). It can rise while quality falls: noise has the highest rank. Published
    codes differ in ε, centring and squaring, by up to 27 times on one matrix; only numbers of one code compare.
    """
    name, moments = point.site.name, point.read("moments")
    rows, width = moments.count, moments.shift.numel()
    if rows < 2 or width == 0:
        yield skip(name, "fewer than 2 finite rows")
        return
    spectrum = kernels.feature_spectrum
    values = point.get(spectrum.uncentred_singular_values)
    if float(values[0]) == 0.0:
        yield skip(name, "all features are zero")
        return
    value, chance = spectrum.rankme(values), spectrum.rankme_null(rows, width)
    facts = point.get(spectrum.facts) | {"sample_limited": rows < spectrum.FEW_ROWS_PER_WIDTH * width}
    curve = {"singular_values": spectrum.curve(values)}
    yield RANKME.at(name, value, chance, **facts, centred=False, epsilon=1e-7, **curve)
    yield RANKME_SHARE.at(name, value / chance, 1.0, **facts, rankme=value, chance=chance)
    centred = point.get(spectrum.covariance_eigenvalues)
    if float(centred[0]) == 0.0:
        yield skip(name, "rankme_centred: all rows are equal")
        return
    yield RANKME_CENTRED.at(
        name,
        spectrum.rankme(centred.sqrt(), epsilon=0.0),
        spectrum.rankme_null(rows - 1, width),
        **facts,
        centred=True,
        epsilon=0.0,
    )
