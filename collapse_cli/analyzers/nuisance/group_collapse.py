"""Whether features follow a nuisance group rather than the class."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

__all__ = ["group_collapse"]

MIN_GROUPS, MIN_GROUP_ROWS = 3, 30
#: Rows of a class from which on it takes part in the readout.
MIN_CLASS_ROWS = 5
NEIGHBOURS = 10
#: Rows of the readout between groups: parts of a thousand rows are solved in a fraction of a second.
READOUT_ROWS = 2048
GROUPS = "class_moments(features,groups)"
SHUFFLED = "features that know nothing of it"

GROUP_PURITY_LIFT = Metric(
    "group_purity_lift",
    "1",
    "The share of the 10 nearest rows from the same group, above chance and over the most that is possible.",
    better="lower",
    warn=Limit(
        "above",
        0.25,
        "zoo: 0.04 to 0.08 in healthy codes, 0.32 to 0.57 where another scanner costs half of the accuracy, 1 beyond",
        intent=frozenset({"representation"}),
    ),
    null=f"0: {SHUFFLED}",
    message="Neighbours come from the same one of {groups} groups: purity lift {value:.3g}, chance 0, at most 1.",
)
LABEL_PURITY_LIFT = Metric(
    "label_purity_lift",
    "1",
    "The share of the 10 nearest rows of the same class, above chance and over the most that is possible.",
    better="higher",
    null=f"0: {SHUFFLED}",
)
LABEL_PURITY_LIFT_Z = Metric(
    "label_purity_lift_z",
    "standard errors",
    "How many binomial standard errors the label purity lies above chance.",
    better="higher",
    warn=Limit("below", 3.0, "definition: within 3 standard errors neighbours know nothing of the class"),
    null=f"0: {SHUFFLED}",
    message="Neighbours share the class no more often than chance: lift {lift:.3g}, {value:.3g} standard errors, over "
    "{sampled} rows of {classes} classes.",
)
GROUP_MINUS_LABEL = Metric(
    "group_minus_label",
    "1",
    "The purity lift of groups less that of classes.",
    better="lower",
    error=Limit(
        "above",
        0.5,
        "zoo: −0.5 or less in healthy codes, −0.1 to 0.2 in mild ones, 0.7 where a readout fails on a new scanner",
    ),
    null="0: neighbours tell as little, or as much, of the group as of the class",
    message="Features cluster by group and not by class: purity lift {group_lift:.3g} for {groups} groups, "
    "{label_lift:.3g} for {classes} classes.",
)
GROUP_MINUS_LABEL_Z = Metric(
    "group_minus_label_z",
    "standard errors",
    "How many standard errors the purity lift of groups lies above that of classes.",
    better="lower",
    warn=Limit("above", 3.0, "definition: beyond 3 standard errors neighbours share the group more than the class"),
    null="0: neighbours tell as little, or as much, of the group as of the class",
    message="Neighbours share the group more than the class: purity lift {group_lift:.3g} for {groups} groups, "
    "{label_lift:.3g} for {classes} classes, {value:.3g} standard errors apart.",
)
GROUP_VARIANCE_SHARE = Metric(
    "group_variance_share",
    "1",
    "The share of the variance that lies between the means of the groups.",
    better="lower",
    null="(G−1)/(N−1): groups drawn at random",
)
GROUP_SILHOUETTE = Metric(
    "group_silhouette",
    "1",
    "How much nearer a row is to its own group than to the nearest other group, mean over the rows.",
    better="lower",
    null="0: groups drawn at random (a little below it)",
)
LEAVE_GROUP_OUT_GAP = Metric(
    "leave_group_out_gap",
    "1",
    "The accuracy of a linear readout of the class that knows the group less that of one that has never seen it.",
    better="lower",
    null="0: classes lie alike in all groups",
)


def _clusters(by: str) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    groups, labels = torch.arange(240) % 6, torch.arange(240) // 6 % 4
    centres = 3.0 * torch.randn(6, 16, generator=generator)
    noise = torch.randn(240, 16, generator=generator)
    features = centres[labels] + 0.5 * noise if by == "class" else centres[groups] + 1e-3 * noise
    return Example(
        {"encoder.layer.1/features": features, "encoder.layer.1/labels": labels, "encoder.layer.1/groups": groups},
        metadata={},
    )


def healthy() -> Example:
    """Rows cluster by class, and every class lies alike in all groups."""
    return _clusters("class")


def collapsed() -> Example:
    """Every group is a point, whatever the class."""
    return _clusters("group")


@activation_analyzer(
    name="group-collapse",
    family="nuisance",
    title="Group collapse",
    metrics=(
        GROUP_PURITY_LIFT,
        LABEL_PURITY_LIFT,
        LABEL_PURITY_LIFT_Z,
        GROUP_MINUS_LABEL,
        GROUP_MINUS_LABEL_Z,
        GROUP_VARIANCE_SHARE,
        GROUP_SILHOUETTE,
        LEAVE_GROUP_OUT_GAP,
    ),
    accepts=on.points("features", "groups", says="hook points with features and groups"),
    remedy="Normalise what differs between the groups before the model (stain, loudness, scanner), subtract each "
    "group's mean from the features, sample batches that are balanced over groups, or train with an adversarial or "
    "invariance term.",
    references=(
        Reference(
            "Yun et al. Enhancing Whole Slide Pathology Foundation Models through Stain Normalization. 2024",
            "https://arxiv.org/abs/2408.00380",
        ),
        Reference(
            "Rousseeuw. Silhouettes: a graphical aid to the interpretation and validation of cluster analysis. "
            "Journal of Computational and Applied Mathematics 1987",
            "https://doi.org/10.1016/0377-0427(87)90125-7",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(GROUPS, "sample"),
    uses=("labels",),
    unmoved_by=("samples_permuted", "features_rotated", "scaled"),
    # random parts of the readout depend on the order of the rows
    unmoved_metrics=("group_purity_lift", "group_variance_share", "group_silhouette"),
)
def group_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do features cluster by slide, scanner, site, speaker or language rather than by class?

    ## Why it matters
    A model that recognises the scanner scores well as long as test rows come from the same scanners, and fails at the
    next hospital. Neighbours then come from the same group, retrieval finds the group again, and a readout trained on
    some groups does not carry over to others.

    ## How to read it
    The purity lifts are 0 where the ten nearest rows (by cosine) are of the same group or class as often as chance has
    it, and 1 where always. `group_minus_label` above 0 means that the group is the stronger structure; its companion
    counts standard errors. `group_variance_share` (η²) says how much of the variance the group means explain, its
    evidence how much of what is left the classes explain. `leave_group_out_gap` is what a linear readout of the class
    loses on a group it was not fitted on, against random parts of the same sizes.

    ## Limits
    Where a class occurs in one group only, class and group cannot be told apart by any number; the gap is skipped then.
    Near-duplicates, as overlapping tiles of one slide, make group purity trivial. Groups of fewer than 30 rows take no
    part in neighbours and silhouette. Distances in the silhouette are Euclidean, so one feature on a large scale
    decides it. Groups that are the very thing to be recognised (speakers of a speaker model) belong into `labels`.
    """
    name, moments = point.site.name, point.read(GROUPS)
    counts = moments.counts
    large = moments.labels[counts >= MIN_GROUP_ROWS]
    if large.numel() < MIN_GROUPS:
        yield skip(name, f"{large.numel()} groups of {MIN_GROUP_ROWS} rows < {MIN_GROUPS}")
        return
    share = kernels.group_structure.variance_share(moments)
    if share is None:
        yield skip(name, "all rows are equal")
        return
    rows, groups, labels = _chosen_rows(point, large)
    facts: dict[str, Any] = {
        "rows": point.finite_rows,
        "features": moments.shift.numel(),
        "groups": large.numel(),
        "dtype": point.dtypes.get("features", ""),
        "sampled": rows.shape[0],
        "exact": point.read("sample").is_exact,
    }
    null = (counts.numel() - 1) / max(moments.count - 1, 1)
    yield GROUP_VARIANCE_SHARE.at(name, share, null, **facts, **_class_share(rows, groups, labels))
    silhouette = kernels.group_structure.mean_silhouette(rows, groups)
    if silhouette is None or bool((rows == rows[:1]).all()):
        yield skip(name, "group_silhouette, group_purity_lift: the rows of the sample are equal or of one group")
        return
    yield GROUP_SILHOUETTE.at(name, silhouette, 0.0, **facts)
    yield from _neighbours(name, (rows, groups, labels), facts)
    yield from _gap(name, (rows, groups, labels), facts)


def _chosen_rows(point: "Activations", large: "Tensor") -> tuple["Tensor", "Tensor", "Tensor | None"]:
    """Rows of the uniform sample in groups that are large enough, their groups and, where all have one, labels."""
    sample, unlabelled = point.read("sample"), kernels.batches.UNLABELLED
    features, groups = (kernels.nearest_rows.uniform_rows(sample, role) for role in ("features", "groups"))
    groups = groups.flatten().long()
    chosen = (groups[:, None] == large).any(1)
    if "labels" not in point.shapes:
        return features[chosen], groups[chosen], None
    labels = kernels.nearest_rows.uniform_rows(sample, "labels").flatten().long()
    is_labelled = (labels != unlabelled[0]) & (labels != unlabelled[1])
    if int((chosen & is_labelled).sum()) <= MIN_GROUPS * NEIGHBOURS:
        return features[chosen], groups[chosen], None
    chosen &= is_labelled
    return features[chosen], groups[chosen], labels[chosen]


def _class_share(rows: "Tensor", groups: "Tensor", labels: "Tensor | None") -> dict[str, float]:
    """η² of the classes in what is left when each group's mean is taken away."""
    if labels is None:
        return {}
    share = kernels.group_structure.share_within(rows, labels, groups)
    return {} if share is None else {"class_share_within_groups": share}


def _lift(neighbours: "Tensor", labels: "Tensor") -> tuple[float, float, float]:
    """Lift of the purity over chance, and its standard error at chance and at what was found (plus four)."""
    count = labels.numel()
    place, classes = kernels.group_structure.compact_labels(labels)
    sizes = place.bincount(minlength=classes)
    chance = float((sizes * (sizes - 1)).sum()) / (count * (count - 1))
    purity = float(kernels.nearest_rows.label_matches(neighbours, labels).mean())
    if chance >= 1.0:
        return 0.0, 0.0, 0.0
    # Agresti & Coull 1998: two successes and two failures more, so that a share of 0 or 1 has an error as well
    found = (purity * count + 2.0) / (count + 4.0)
    errors = [float((share * (1.0 - share) / count) ** 0.5 / (1.0 - chance)) for share in (chance, found)]
    return (purity - chance) / (1.0 - chance), errors[0], errors[1]


def _neighbours(
    name: str, chosen: tuple["Tensor", "Tensor", "Tensor | None"], facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    rows, groups, labels = chosen
    neighbours = kernels.nearest_rows.nearest_rows(rows, count=NEIGHBOURS)
    group_lift, _, group_error = _lift(neighbours, groups)
    yield GROUP_PURITY_LIFT.at(name, group_lift, 0.0, **facts, standard_error=group_error)
    classes = 0 if labels is None else kernels.group_structure.compact_labels(labels)[1]
    if labels is None or classes < 2:
        yield skip(name, "label_purity_lift, group_minus_label and their _z: no labels of two classes")
        return
    label_lift, chance_error, label_error = _lift(neighbours, labels)
    if chance_error <= 0.0:
        yield skip(name, "label_purity_lift, group_minus_label and their _z: every row is a class of its own")
        return
    facts = facts | {"classes": classes, "group_lift": group_lift, "label_lift": label_lift}
    yield LABEL_PURITY_LIFT.at(name, label_lift, 0.0, **facts)
    yield LABEL_PURITY_LIFT_Z.at(name, label_lift / chance_error, 0.0, **facts, lift=label_lift)
    yield GROUP_MINUS_LABEL.at(name, group_lift - label_lift, 0.0, **facts)
    error = (group_error**2 + label_error**2) ** 0.5
    yield GROUP_MINUS_LABEL_Z.at(name, (group_lift - label_lift) / error, 0.0, **facts, standard_error=error)


def _gap(
    name: str, chosen: tuple["Tensor", "Tensor", "Tensor | None"], facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    rows, groups, labels = chosen
    if labels is None:
        yield skip(name, "leave_group_out_gap: no labels")
        return
    gap = kernels.group_structure.group_gap(
        (rows, labels, groups), most_rows=READOUT_ROWS, least_class_rows=MIN_CLASS_ROWS
    )
    if isinstance(gap, str):
        yield skip(name, f"leave_group_out_gap: {gap}")
        return
    within, across, used = gap
    yield LEAVE_GROUP_OUT_GAP.at(
        name, within - across, 0.0, **facts, accuracy_within=within, accuracy_across=across, readout_rows=used
    )
