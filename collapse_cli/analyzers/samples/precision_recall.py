"""Precision and recall: whether samples are realistic, and whether they cover what is real."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Rows of each set below which the shares say more of the number of rows than of the sets.
FEW_ROWS = 500
#: Share of repeated reference rows above which the balls are those of the repetitions.
MANY_DUPLICATES = 0.5
HALVES = "one half of the reference beside the other"

PRECISION = Metric(
    "precision",
    "1",
    "The share of samples that lie inside the ball of some reference row.",
    better="higher",
    warn=Limit(
        "below",
        0.1,
        "zoo: beyond every healthy model, 0.28 and more, and met by some with one output per condition",
        "null",
    ),
    null=HALVES,
    message="{value:.1%} of the samples lie among real rows; {null:.1%} of real ones do.",
)
RECALL = Metric(
    "recall",
    "1",
    "The share of reference rows that lie inside the ball of some sample.",
    better="higher",
    warn=Limit(
        "below", 0.25, "zoo: healthy 0.9 and more, half of the modes lost 0.4 and up; truncation keeps a third", "null"
    ),
    error=Limit("below", 0.05, "zoo: one output per condition 0 to 4e-3, one or two modes 0.05 to 0.15", "null"),
    null=HALVES,
    message="{value:.1%} of the real rows lie among the samples; {null:.1%} do among real ones.",
)
DENSITY = Metric(
    "density",
    "1",
    "The mean number of reference balls that a sample lies in, over the k it is expected in.",
    null="1: samples of the same distribution",
)
COVERAGE = Metric(
    "coverage",
    "1",
    "The share of reference balls that hold a sample.",
    better="higher",
    warn=Limit("below", 0.1, "zoo: healthy 0.2 and more, one or two modes 0.05 to 0.15", "null"),
    error=Limit(
        "below", 0.03, "zoo: one output per condition 0.008 to 0.3; next to no real row has a sample near", "null"
    ),
    null="samples of the same distribution, in closed form",
    message="{value:.1%} of the real rows have a sample near; {null:.1%} are expected.",
)


def healthy() -> Example:
    """Samples and real data from one Gaussian."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example(
        {name: torch.randn(FEW_ROWS, 16, generator=generator) for name in ("samples", "reference")}, metadata={}
    )


def collapsed() -> Example:
    """Ten real rows, fifty times each."""
    import torch

    reference = torch.randn(FEW_ROWS, 16, generator=torch.Generator().manual_seed(0))
    return Example({"samples": reference[:10].repeat(FEW_ROWS // 10, 1), "reference": reference}, metadata={})


@activation_analyzer(
    name="precision-recall",
    family="samples",
    title="Precision and recall",
    metrics=(PRECISION, RECALL, DENSITY, COVERAGE),
    accepts=on.points("samples", "reference", says="hook points with samples and a reference"),
    remedy="For low recall: an entropy term on the outputs, minibatch discrimination, lower guidance or truncation. "
    "For low precision: longer training, more capacity, or some truncation and guidance.",
    references=(
        Reference(
            "Kynkäänniemi et al. Improved Precision and Recall Metric for Assessing Generative Models. 2019",
            "https://arxiv.org/abs/1904.06991",
        ),
        Reference(
            "Naeem et al. Reliable Fidelity and Diversity Metrics for Generative Models. 2020",
            "https://arxiv.org/abs/2002.09797",
        ),
        Reference(
            "Yin et al. Improved Distribution Matching Distillation for Fast Image Synthesis. 2024",
            "https://arxiv.org/abs/2405.14867",
        ),
        Reference(
            "Aithal et al. Understanding Hallucinations in Diffusion Models through Mode Interpolation. 2024",
            "https://arxiv.org/abs/2406.09358",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("features_rotated", "samples_permuted", "scaled"),
    # the halves of the null are drawn by place: the measured values do not move
    needs=("sample(samples)", "sample(reference)"),
)
def precision_recall(point: "Activations") -> Iterator[Measurement | Skip]:
    """Are the samples realistic, and is the variety of the real data covered?

    ## Why it matters
    One distance between distributions mixes two failures that need opposite cures: outputs that look like nothing
    real, and real things that are never produced. A collapsed generator passes the first test and fails the second.

    ## How to read it
    Around each row lies a ball that reaches to its fifth neighbour. `precision` asks whether samples lie in balls of
    real rows, `recall` whether real rows lie in balls of samples, `density` in how many real balls a sample lies (1 is
    expected), `coverage` how many real balls hold a sample. Samples at half the spread of the real data read precision
    1, recall near 0 and density far above 1. Ten real rows repeated read precision 1, recall 0 and a tenth of coverage.

    ## Limits
    `coverage` is blind to shrinkage and `recall` is generous where a few outlying samples have large balls: read both.
    Values depend on the number of rows and features, hence the null: two halves of the reference, so half as many rows.
    It takes 500 rows of each set; both are cut to equal size, at most 50,000 by a fixed seed. Repeated reference rows
    are merged first, because a copy gives radius 0; a reference of mostly copies is refused. Features that were
    preprocessed differently read as precision 0.
    """
    name, sets, kernel = point.site.name, kernels.generated_sets, kernels.manifold_coverage
    sets.same_width(point)
    samples, real = sets.kept(point, "samples"), sets.kept(point, "reference")
    if samples.shape[0] < FEW_ROWS:
        yield skip(name, f"{samples.shape[0]:,} samples: fewer than {FEW_ROWS}")
        return
    reference = sets.distinct(real)
    repeated = real.shape[0] - reference.shape[0]
    if reference.shape[0] < FEW_ROWS:
        yield skip(name, f"{reference.shape[0]:,} different reference rows of {real.shape[0]:,}: fewer than {FEW_ROWS}")
        return
    sets.refuse_duplicates(repeated, real.shape[0], MANY_DUPLICATES)
    size = min(samples.shape[0], reference.shape[0])
    found = kernel.coverage(sets.at_most(samples, size), sets.at_most(reference, size))
    left, right = kernel.halves(reference)
    chance = kernel.coverage(left, right)
    facts: dict[str, Any] = point.get(sets.facts) | {
        "rows": size,
        "repeated_reference_rows": repeated,
        "neighbours": kernel.NEIGHBOURS,
        "median_sample_radius": found.sample_radius,
        "median_reference_radius": found.reference_radius,
    }
    yield PRECISION.at(name, found.precision, chance.precision, **facts, null_rows=left.shape[0])
    yield RECALL.at(name, found.recall, chance.recall, **facts, null_rows=left.shape[0])
    yield DENSITY.at(name, found.density, 1.0, **facts, density_of_halves=chance.density)
    yield COVERAGE.at(name, found.coverage, kernel.coverage_null(size, size), **facts)
