"""Dead activations: hidden units that are always off, or always on."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.unit_activity import UnitActivity
    from collapse_cli.kernels.views import Activations

FEW_ROWS = 1_000
#: More negative entries than this, and it is no output of a ReLU.
NEGATIVE_SHARE = 1e-3
SYMMETRIC = "2^-N, symmetric pre-activations"

DEAD_UNIT_SHARE = Metric(
    "dead_unit_share",
    "1",
    "The share of units that are above 0 in none of the rows.",
    better="lower",
    warn=Limit(
        "above",
        0.5,
        "zoo: layers of models trained without a spike stay below 0.5; the worst of those that lost a quarter of their "
        "accuracy to one begin at 0.6",
        intent=frozenset({"classifier"}),
    ),
    error=Limit("above", 1.0 - 1e-9, "definition: the closed form is 1 where the layer is constant"),
    null=SYMMETRIC,
    message="{dead} of {units} units are off in all of {rows} rows; where all are, the layer passes on a constant.",
)
ALWAYS_ON_SHARE = Metric(
    "always_on_share",
    "1",
    "The share of units that are above 0 in every row, and so act linearly.",
    better="lower",
    warn=Limit("above", 0.99, "zoo: beyond every healthy model; a layer whose units are all on is linear"),
    null=SYMMETRIC,
    message="{always_on} of {units} units are on in all of {rows} rows: the layer is linear.",
)
ACTIVE_FRACTION = Metric(
    "active_fraction", "1", "The mean share of units that are above 0.", null="½ at initialisation"
)
DEAD_ROW_SHARE = Metric(
    "dead_row_share",
    "1",
    "The share of rows in which no unit is above 0.",
    better="lower",
    null="2^-F, symmetric units",
)
STATE_VARIANCE_RATIO = Metric(
    "state_variance_ratio",
    "1",
    "The variance of pre-activations above 0 over that of those below.",
    null="1, symmetric pre-activations",
)


def healthy() -> Example:
    """Gaussian pre-activations."""
    import torch

    rows = torch.randn(FEW_ROWS, 32, generator=torch.Generator().manual_seed(0))
    return Example({"mlp/features": rows}, metadata={"activation": "pre-relu"})


def collapsed() -> Example:
    """Gaussian pre-activations with a bias of −10, and their ReLU."""
    import torch

    rows = torch.randn(FEW_ROWS, 32, generator=torch.Generator().manual_seed(0)) - 10.0
    return Example({"mlp/sparse": rows.relu()}, metadata={"activation": "relu"})


@activation_analyzer(
    name="dead-activations",
    family="sparse",
    title="Dead activations",
    metrics=(DEAD_UNIT_SHARE, ALWAYS_ON_SHARE, ACTIVE_FRACTION, DEAD_ROW_SHARE, STATE_VARIANCE_RATIO),
    accepts=on.points(
        any_of=(("sparse",), ("features",)),
        says="hook points with rectified activations, or features before or after a ReLU as `activation` says",
    ),
    remedy="Lower the learning rate, begin with a smaller negative bias, use a leaky ReLU or GELU, put batch "
    "normalisation before it, and give dead units a new start.",
    references=(
        Reference(
            "Shi et al. Fast Certified Robust Training with Short Warmup. 2021", "https://arxiv.org/abs/2103.17268"
        ),
        Reference(
            "Atashgahi et al. Quick and Robust Feature Selection: the Strength of Energy-efficient Sparse Training for "
            "Autoencoders. 2022",
            "https://arxiv.org/abs/2012.00560",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled"),
    needs=("unit_activity", "unit_activity(features)"),
)
def dead_activations(point: "Activations") -> Iterator[Measurement | Skip]:
    """Which hidden units are always off, or always on and then linear?

    ## Why it matters
    A unit that is off for every input gets no gradient and never comes back; one that is on for every input is a
    linear map. A step that was too large can switch a whole layer off: what is behind it then sees a constant.

    ## How to read it
    At initialisation half of the entries are on and no unit is always off or on. `dead_unit_share` is the part of the
    width that does nothing on these rows; a unit that fires in 3 of N rows on average would have been seen at 95 %.
    `dead_row_share` counts inputs that nothing answers to. With pre-activations (`activation` = pre-relu in the
    metadata) `state_variance_ratio` compares the spread above 0 with that below.

    ## Limits
    Rows of zeros at the input, such as padding, make units look dead: mask them. GELU, SiLU and leaky units are never
    exactly off; rows with more than one negative entry in a thousand are not taken for the output of a ReLU, and
    features are taken only where the metadata name the activation. Units that are dead on this split may fire on
    another. Sparse codes are off by design, so only a layer that is off as a whole is judged.
    """
    name, role = point.site.name, "sparse" if point.has("unit_activity") else "features"
    kind = point.metadata.get("activation", "").strip().lower()
    if role == "features" and kind not in ("relu", "pre-relu"):
        yield skip(name, "features whose activation the metadata do not give as relu or pre-relu")
        return
    activity: UnitActivity = point.read("unit_activity" if role == "sparse" else "unit_activity(features)")
    if activity.count < FEW_ROWS or activity.units == 0:
        yield skip(name, f"{activity.count} finite rows of {activity.units} units, needs {FEW_ROWS:,}")
        return
    entries = activity.count * activity.units
    negative = int(activity.negative.sum())
    if kind != "pre-relu" and negative > NEGATIVE_SHARE * entries:
        yield skip(name, f"not a ReLU output: {negative / entries:.2%} of the entries are negative")
        return
    yield from _shares(point, activity, role)
    yield _variances(activity, name) if kind == "pre-relu" else skip(name, "state_variance_ratio: needs pre-relu")


def _shares(point: "Activations", activity: "UnitActivity", role: str) -> Iterator[Measurement]:
    name, rows, units = point.site.name, activity.count, activity.units
    is_dead, is_on = activity.positive == 0, activity.positive == rows
    dead, on_always = int(is_dead.sum()), int(is_on.sum())
    facts: dict[str, Any] = kernels.feature_spectrum.facts(point, role)
    facts |= {"units": units, "dead": dead, "always_on": on_always}
    chance = math.exp2(-rows)
    yield DEAD_UNIT_SHARE.at(name, dead / units, chance, **facts, first=is_dead.nonzero().flatten()[:16].tolist())
    yield ALWAYS_ON_SHARE.at(name, on_always / units, chance, **facts, first=is_on.nonzero().flatten()[:16].tolist())
    yield ACTIVE_FRACTION.at(name, activity.active_sum / (rows * units), 0.5, **facts)
    silent = activity.silent_rows
    yield DEAD_ROW_SHARE.at(name, silent / rows, math.exp2(-units), **facts, dead_rows=silent)


def _variances(activity: "UnitActivity", name: str) -> Measurement | Skip:
    ratio = kernels.firing.state_variance_ratio(activity)
    if ratio is None:
        return skip(name, "state_variance_ratio: the entries above or those below 0 are missing or constant")
    on_entries, off_entries = int(activity.positive.sum()), int(activity.negative.sum())
    return STATE_VARIANCE_RATIO.at(name, ratio, 1.0, above=on_entries, below=off_entries)
