"""Equivariance: does the representation keep the transformation, and does the predictor use it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Rows that every regressor of the readout needs in the half it is fitted on.
ROWS_PER_REGRESSOR = 10
#: Fewer views of an object make its ranks too coarse.
MIN_VIEWS = 5
ROLES = ("view_a", "view_b", "transformation")
PAIRS = (("view_a", "view_b"), ("view_a", "transformation"), ("view_b", "transformation"))
UNREADABLE = "a transformation that cannot be read"
RANDOM_PLACE = "the target at a random place among the views of its object"

TRANSFORMATION_R2 = Metric(
    "transformation_r2",
    "1",
    "Share of the variance of the transformation that a linear readout of both views explains on held-out rows.",
    null=UNREADABLE,
)
TRANSFORMATION_R2_Z = Metric(
    "transformation_r2_z",
    "standard errors",
    "The same over its standard error for an unreadable transformation, where a predictor site declares equivariance.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not told from unreadable by three standard errors", inclusive=True),
    null=UNREADABLE,
    message="The transformation cannot be read from the two views (R² {r2:.2g}): the representation has become "
    "invariant, although there is a predictor of transformed views.",
)
MRR = Metric(
    "mrr",
    "1",
    "Mean reciprocal rank of the transformed view among all views of its object, by distance to the prediction.",
    better="higher",
    warn=Limit(
        "below", 1.4, "zoo: 2.6 times chance in healthy models, 1.2 where half of the motion is lost", of="null"
    ),
    error=Limit(
        "below",
        1.08,
        "zoo: at most 1.03 times chance where the motion cannot be read, 1.17 where half is lost",
        of="null",
    ),
    null=RANDOM_PLACE,
    message="The predictor hardly uses the transformation: the transformed view has a mean reciprocal rank of "
    "{value:.3g} among the views of its object, {null:.3g} by chance.",
)
MRR_Z = Metric(
    "mrr_z",
    "standard errors",
    "The mean reciprocal rank less that of a random place, over its standard error.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not told from a random place by three standard errors", inclusive=True),
    null=RANDOM_PLACE,
    message="The predictor finds the transformed view no better than chance: mean reciprocal rank {mrr:.3g}, by chance "
    "{chance:.3g}.",
)
HIT_AT_1 = Metric(
    "hit_at_1",
    "1",
    "Share of predictions to which the transformed view is nearest.",
    better="higher",
    null=RANDOM_PLACE,
)
HIT_AT_5 = Metric(
    "hit_at_5",
    "1",
    "Share of predictions to which the transformed view is among the five nearest.",
    better="higher",
    null=RANDOM_PLACE,
)
PREDICTOR_SENSITIVITY = Metric(
    "predictor_sensitivity",
    "1",
    "Mean relative difference ‖p − p′‖/‖p‖ of the predictions of two rows of one object.",
    better="higher",
    warn=Limit("below", 2.0**-8, "definition: within what rounding to bfloat16 does to a number", inclusive=True),
    message="The predictor ignores the transformation: its outputs for one object differ by {value:.2g}.",
)
WITHIN_OBJECT_SHARE = Metric(
    "within_object_share",
    "1",
    "Share of the variance of the second view that lies between the views of one object; 0 = invariant.",
    null="views of one object unrelated",
)


def healthy() -> Example:
    """Sixty-four objects, eight views each: the second view is the first, moved along three directions."""
    import torch

    generator = torch.Generator().manual_seed(0)
    objects = torch.arange(64).repeat_interleave(8)
    view = torch.randn(64, 8, generator=generator)[objects]
    transformation = torch.randn(512, 3, generator=generator)
    moved = view + transformation @ torch.randn(3, 8, generator=generator)
    return Example(
        {
            "projector/view_a": view,
            "projector/view_b": moved,
            "projector/transformation": transformation,
            "projector/groups": objects,
            "projector.predictor/features": moved + 0.05 * torch.randn(512, 8, generator=generator),
        },
        metadata={},
    )


def collapsed() -> Example:
    """The same with an invariant representation, which the predictor copies."""
    import torch

    generator = torch.Generator().manual_seed(0)
    objects = torch.arange(64).repeat_interleave(8)
    view = torch.randn(64, 8, generator=generator)[objects]
    return Example(
        {
            "projector/view_a": view,
            "projector/view_b": view.clone(),
            "projector/transformation": torch.randn(512, 3, generator=generator),
            "projector/groups": objects,
            "projector.predictor/features": view.clone(),
        },
        metadata={},
    )


@activation_analyzer(
    name="equivariance-collapse",
    family="views",
    title="Equivariance collapse",
    metrics=(
        TRANSFORMATION_R2,
        TRANSFORMATION_R2_Z,
        MRR,
        MRR_Z,
        HIT_AT_1,
        HIT_AT_5,
        PREDICTOR_SENSITIVITY,
        WITHIN_OBJECT_SHARE,
    ),
    accepts=on.points(*ROLES, says="hook points with two views and the transformation between them"),
    remedy="Make the predictor's weights a function of the transformation (a hyper-network), split the representation "
    "into an invariant and an equivariant half with a loss each, and put a variance term on the equivariant half.",
    references=(
        Reference(
            "Garrido, Najman & LeCun. Self-supervised learning of Split Invariant Equivariant representations. 2023",
            "https://arxiv.org/abs/2302.10283",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(
        *(f"folds(moments({role}),by=groups)" for role in ROLES),
        *(f"folds(cross_moments({left},{right}),by=groups)" for left, right in PAIRS),
        "class_moments(view_b,groups)",
        "sample(view_b,predictor,groups)",
    ),
)
def equivariance_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Has an equivariant representation become invariant, and does its predictor use the transformation?

    ## Why it matters
    A representation that is meant to keep pose, colour or position can forget it without a sign: if both views map to
    the same vector, a predictor that ignores the transformation predicts perfectly. The loss is then low and what the
    representation was trained for is gone.

    ## How to read it
    `transformation_r2` is 1 when a linear readout of both views gives the transformation, and about 0, or a little
    below, when nothing of it is left. `mrr`, `hit_at_1` and `hit_at_5` ask whether the prediction finds the transformed
    view among the views of its object, against a random place (0.09 with 50 views). `predictor_sensitivity` of 0 says
    that the predictor gives one answer whatever the transformation. `within_object_share` is 0 for an invariant
    representation, and that is judged only by whoever declared it equivariant.

    ## Limits
    The readout is linear: a rotation in feature space that depends on the object is equivariant and not found by it.
    Angles must be given as cosine and sine. The halves are made of objects where `groups` names them, else of
    rows, so that views of one object can be on both sides. Ties share their ranks; a convention that gives them the
    best one scores a constant predictor 1. The share and the R² are judged only where a predictor site says that
    equivariance is wanted. Ranks are taken on the sampled rows, at most 32 views of an object beyond a uniform sample
    of 8,192 rows.
    """
    yield from _readout(point)
    yield from _prediction(point)
    yield from _within(point)


def _readout(point: "Activations") -> Iterator[Measurement | Skip]:
    name = point.site.name
    folds = {(role, role): point.read(f"folds(moments({role}),by=groups)") for role in ROLES}
    folds |= {pair: point.read(f"folds(cross_moments({','.join(pair)}),by=groups)") for pair in PAIRS}
    halves = [{pair: getattr(fold, half) for pair, fold in folds.items()} for half in ("first", "second")]
    counts = [half["view_a", "view_a"].count for half in halves]
    regressors = point.shapes["view_a"][-1] + point.shapes["view_b"][-1]
    parameters = point.shapes["transformation"][-1]
    if min(counts) < max(ROWS_PER_REGRESSOR * regressors, 2) or regressors == 0:
        few = f"{min(counts)} rows in a half < {ROWS_PER_REGRESSOR} × {regressors} regressors"
        yield skip(name, f"transformation_r2, transformation_r2_z: {few}")
        return
    readout = kernels.equivariance.held_out_readout
    found = [readout(halves[0], halves[1]), readout(halves[1], halves[0])]
    values = [value for value in found if value is not None]
    if len(values) < 2:
        yield skip(name, "transformation_r2, transformation_r2_z: the transformation is constant")
        return
    value = sum(values) / 2.0
    # R² of noise on p regressors and n rows is 2·cov(prediction, g) − var(prediction): the covariance is the same both
    # ways round and has variance p/n², the other is χ²_p/n, so that the mean of the two has variance 4p/n² + p/n²
    error = (5.0 * regressors / parameters) ** 0.5 / min(counts)
    evidence = kernels.feature_spectrum.facts(point, "view_a") | {"parameters": parameters, "standard_error": error}
    yield TRANSFORMATION_R2.at(name, value, 0.0, **evidence)
    if "predictor" in point.shapes:
        yield TRANSFORMATION_R2_Z.at(name, value / error, 0.0, r2=value, **evidence)
    else:
        yield skip(name, "transformation_r2_z: no predictor site declares equivariance")


def _prediction(point: "Activations") -> Iterator[Measurement | Skip]:
    name, need = point.site.name, "sample(view_b,predictor,groups)"
    metrics = "mrr, mrr_z, hit_at_1, hit_at_5"
    if not point.has(need):
        yield skip(name, f"{metrics}, predictor_sensitivity: no predictor site or no groups")
        return
    sample = point.read(need)
    if sample.indices.numel() == 0:
        yield skip(name, f"{metrics}, predictor_sensitivity: no finite rows")
        return
    predictions, objects = sample.rows("predictor"), sample.rows("groups").reshape(-1).long()
    differences = kernels.equivariance.neighbour_differences(predictions, objects)
    if differences.numel() < MIN_VIEWS:
        yield skip(name, f"predictor_sensitivity: {differences.numel()} pairs of one object < {MIN_VIEWS}")
    else:
        pairs = differences.numel()
        yield PREDICTOR_SENSITIVITY.at(name, float(differences.mean()), pairs=pairs, exact=sample.is_exact)
    targets = sample.rows("view_b")
    if targets.shape[1:] != predictions.shape[1:]:
        yield skip(name, f"{metrics}: predictions of another width than the views")
        return
    found = kernels.equivariance.ranking(predictions, targets, objects, min_views=MIN_VIEWS)
    if found is None:
        yield skip(name, f"{metrics}: fewer than {MIN_VIEWS} views per object")
        return
    evidence = {"rows": found.rows, "objects": found.objects, "exact": sample.is_exact}
    yield MRR.at(name, found.reciprocal_rank, found.chance, standard_error=found.error, **evidence)
    z = (found.reciprocal_rank - found.chance) / found.error
    yield MRR_Z.at(name, z, 0.0, mrr=found.reciprocal_rank, chance=found.chance, **evidence)
    yield HIT_AT_1.at(name, found.hit_at_1, found.chance_at_1, **evidence)
    yield HIT_AT_5.at(name, found.hit_at_5, found.chance_at_5, **evidence)


def _within(point: "Activations") -> Iterator[Measurement | Skip]:
    name, need = point.site.name, "class_moments(view_b,groups)"
    if not point.has(need):
        yield skip(name, "within_object_share: no groups")
        return
    moments = point.read(need)
    rows, objects = int(moments.counts.sum()), moments.counts.numel()
    if rows <= objects or rows < 2:
        yield skip(name, "within_object_share: one view per object")
        return
    within = float((moments.variances * moments.counts).sum())
    total = float(moments.centred_scatter.trace())
    if total <= 1e-24 * float(moments.squares.sum() + rows * moments.shift.square().sum()):
        yield skip(name, "within_object_share: the second view is constant")
        return
    share = min(max(within / total, 0.0), 1.0)
    yield WITHIN_OBJECT_SHARE.at(name, share, (rows - objects) / (rows - 1), rows=rows, objects=objects)
