"""Cluster collapse: whether soft clusters or prototypes have fallen into one, or into indifference."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.soft_assignments import SoftAssignments
    from collapse_cli.kernels.views import Activations

#: Rows per cluster below which the mean assignment says little.
MIN_ROWS = 5

MARGINAL_ENTROPY = Metric(
    "marginal_entropy",
    "1",
    "Entropy of the mean assignment over log K.",
    better="higher",
    warn=Limit(
        "below",
        0.02,
        "zoo: 0.98 in balanced clusterings, 0.27 or more with three of them left, 0.001 with one; of two clusters one "
        "then holds 99.8 %",
    ),
    null="clusters of equal size: 1",
    message="{rows} rows give nearly everything to one of {clusters} clusters: marginal entropy {value:.3g} of the "
    "largest possible.",
)
SAMPLE_ENTROPY = Metric(
    "sample_entropy", "1", "Mean entropy of a row's assignment over log K.", null="indifferent rows: 1"
)
ASSIGNMENT_INFORMATION = Metric(
    "assignment_information",
    "nats",
    "What the assignment says about the row: entropy of the mean less mean entropy.",
    better="higher",
    error=Limit("below", 1e-6, "closed form: the assignment does not depend on the input"),
    null="the same assignment for every row: 0",
    message="The assignment to {clusters} clusters is the same for all {rows} rows: {value:.3g} nats of information.",
)
USED_CLUSTERS = Metric(
    "used_clusters",
    "clusters",
    "Number of clusters that are the first choice of some row.",
    better="higher",
    warn=Limit(
        "below",
        0.4,
        "zoo: all of 20 in balanced clusterings, 3 to 6 where half of the classes or more are lost",
        of="null",
    ),
    error=Limit("below", 2.0, "closed form: one cluster"),
    null="rows that choose at random: K(1 − (1 − 1/K)^N)",
    message="The first choices of {rows} rows fall on {value:.0f} of {clusters} clusters, most on number {largest}.",
)
LARGEST_SHARE = Metric(
    "largest_share",
    "1",
    "Share of the rows whose first choice is the largest cluster.",
    better="lower",
    null="clusters of equal size: 1/K",
)
TARGET_DIVERGENCE = Metric(
    "target_divergence",
    "nats",
    "Mean divergence of the assignments from their sharpened, balanced target (deep embedded clustering).",
    null="uniform, or balanced and certain: 0",
)


def healthy() -> Example:
    """Four blobs of features, each with a cluster of its own."""
    import torch

    return _example(torch.eye(4)[torch.arange(320) % 4])


def collapsed() -> Example:
    """The same blobs, all in the second cluster."""
    import torch

    return _example(torch.eye(4)[torch.ones(320, dtype=torch.int64)])


def _example(assignments: "Tensor") -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    features = 6.0 * torch.eye(4, 6)[torch.arange(320) % 4] + torch.randn(320, 6, generator=generator)
    return Example({"assignments": assignments, "features": features}, metadata={})


@activation_analyzer(
    name="cluster-collapse",
    family="codes",
    title="Cluster collapse",
    metrics=(
        MARGINAL_ENTROPY,
        SAMPLE_ENTROPY,
        ASSIGNMENT_INFORMATION,
        USED_CLUSTERS,
        LARGEST_SHARE,
        TARGET_DIVERGENCE,
    ),
    accepts=on.points(
        any_of=(("assignments",), ("latent_logits",)), says="hook points with assignments, or with latent_logits"
    ),
    remedy="Balance assignments over the batch (Sinkhorn), put a prior on how often each cluster occurs, maximise the "
    "entropy of the mean assignment, or sharpen and centre the targets.",
    references=(
        Reference(
            "Salehi et al. SIGMA: Sinkhorn-Guided Masked Video Modeling. 2024", "https://arxiv.org/abs/2407.15447"
        ),
        Reference(
            "Ghasedi Dizaji et al. Deep Clustering via Joint Convolutional Autoencoder Embedding and Relative Entropy "
            "Minimization. 2017",
            "https://arxiv.org/abs/1704.06327",
        ),
        Reference(
            "Xie, Girshick & Farhadi. Unsupervised Deep Embedding for Clustering Analysis. 2016",
            "https://arxiv.org/abs/1511.06335",
        ),
        Reference(
            "Troisemaine et al. A Practical Approach to Novel Class Discovery in Tabular Data. 2023",
            "https://arxiv.org/abs/2311.05440",
        ),
        Reference(
            "Kulatilleke et al. Efficient block contrastive learning via parameter-free meta-node approximation. 2022",
            "https://arxiv.org/abs/2209.14067",
        ),
        Reference(
            "Burchi & Timofte. MuDreamer: Learning Predictive World Models without Reconstruction. 2024",
            "https://arxiv.org/abs/2405.15083",
        ),
        Reference(
            "Lu et al. Ovis: Structural Embedding Alignment for Multimodal Large Language Model. 2024",
            "https://arxiv.org/abs/2405.20797",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("soft_assignments(assignments)", "soft_assignments(latent_logits)", "sample(assignments)"),
    uses=("features",),
    unmoved_by=("samples_permuted",),
)
def cluster_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Have soft clusters or prototypes fallen into one, or into indifference?

    ## Why it matters
    Training that makes two views agree on a cluster has two trivial solutions: all rows in one cluster, and every row
    equally in all. Either satisfies the loss and says nothing about the input.

    ## How to read it
    Read the two entropies together. High `marginal_entropy` with low `sample_entropy` is a good clustering; both low is
    one cluster for all, both high is indifference. `assignment_information` is their difference in nats, log K at best
    and 0 for both collapses. `used_clusters` and `largest_share` look at first choices only. `target_divergence` is
    the loss of deep embedded clustering. With `features`, the evidence of `used_clusters` has the silhouette of the
    clusters and the number of clusters that the eigengap of the features suggests. Of `latent_logits` every group is
    a clustering of its own: numbers are means over the groups, `used_clusters` is that of the group that uses most,
    and the evidence lists the groups.

    ## Limits
    Rows that are probabilities are divided by their sum; rows with negative entries or sums off 1 by more than 1 % are
    read as logits, which the evidence `reading` says. Assignments after Sinkhorn are balanced by construction: dump the
    logits before it. `target_divergence` is 0 for uniform, for balanced certain and for identical rows: never judge
    it alone. Equal entries go to the lower cluster, so rows without any preference all choose the first. A cluster
    that is rare in the data is rare in a good clustering, too.
    """
    site, role = point.site.name, "assignments" if point.has("soft_assignments(assignments)") else "latent_logits"
    assignments = point.read(f"soft_assignments({role})")
    clusters = point.shapes[role][-1]
    groups = point.shapes[role][1] if role == "latent_logits" else 1
    if clusters < 2 or groups < 1:
        yield skip(site, f"{groups} groups of {clusters} clusters: nothing to choose")
        return
    if assignments.count < MIN_ROWS * clusters:
        yield skip(site, f"{assignments.count} rows < {MIN_ROWS} for each of {clusters} clusters")
        return
    facts = {
        "rows": assignments.count,
        "clusters": clusters,
        "groups": groups,
        "reading": "softmax" if assignments.is_softmax else "probabilities",
        "masked_rows": assignments.masked_rows,
        "dtype": point.dtypes[role],
    }
    yield from _entropies(site, assignments, facts)
    yield from _choices(point, assignments, facts)
    if role != "assignments":
        yield skip(site, "target_divergence: no assignments")
        return
    sample = point.read("sample(assignments)")
    divergence = kernels.soft_assignments.target_divergence(point)
    yield TARGET_DIVERGENCE.at(
        site, divergence, 0.0, sampled=int(sample.is_uniform.sum()), exact=sample.is_exact, **facts
    )


def _entropies(site: str, assignments: "SoftAssignments", facts: dict[str, Any]) -> Iterator[Measurement]:
    import torch

    most, count = math.log(facts["clusters"]), assignments.count
    marginal = torch.special.entr(assignments.mass / count).sum(1)
    single = assignments.entropy / count
    by_group = (marginal / most).clamp(0.0, 1.0)
    lists = {} if facts["groups"] == 1 else {"by_group": by_group[:128].tolist(), "least_group": int(by_group.argmin())}
    yield MARGINAL_ENTROPY.at(site, float(by_group.mean()), 1.0, **facts, **lists)
    yield SAMPLE_ENTROPY.at(site, float((single / most).clamp(0.0, 1.0).mean()), 1.0, **facts)
    information = (marginal - single).clamp(0.0, most)
    yield ASSIGNMENT_INFORMATION.at(site, float(information.mean()), 0.0, most=most, **facts)


def _choices(point: "Activations", assignments: "SoftAssignments", facts: dict[str, Any]) -> Iterator[Measurement]:
    site, clusters = point.site.name, facts["clusters"]
    used = (assignments.decided > 0).sum(1)
    best = int(used.argmax())
    evidence = {**facts, "largest": int(assignments.decided[best].argmax())}
    if facts["groups"] > 1:
        evidence |= {"used_by_group": used[:128].tolist(), "groups_with_one": int((used < 2).sum())}
    structure = None
    if point.has("sample(assignments)"):
        structure = point.get(kernels.soft_assignments.cluster_structure)
    if structure is not None:
        evidence |= {"silhouette_rows": structure.silhouette_rows, "eigengap_rows": structure.eigengap_rows}
        evidence |= {} if structure.silhouette is None else {"silhouette": structure.silhouette}
        evidence |= {} if structure.eigengap is None else {"eigengap_clusters": structure.eigengap}
    chance = clusters * kernels.code_usage.usage_ceiling(assignments.count, clusters)
    yield USED_CLUSTERS.at(site, int(used[best]), chance, **evidence)
    shares = assignments.decided.amax(1) / assignments.count
    sizes = assignments.decided[best].sort(descending=True).values[:128]
    yield LARGEST_SHARE.at(site, float(shares.double().mean()), 1.0 / clusters, sizes=sizes.tolist(), **facts)
