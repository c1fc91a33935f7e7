"""Mode coverage: which modes of the real data a generator never produces, and how uneven the others are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip
from collapse_cli.errors import BadValues

if TYPE_CHECKING:
    from collapse_cli.kernels.mode_histograms import Histograms
    from collapse_cli.kernels.views import Activations

#: Samples per mode below which an absent mode means nothing.
ROWS_PER_MODE = 10
#: Bins of a reference without labels (Richardson & Weiss 2018), and reference rows they are fitted to at most.
BINS, FITTED_ROWS = 100, 10_000
#: Rows of each set from which nearest distances are compared.
FEW_ROWS = 100
#: Entries of a list in the evidence.
LISTED = 128

MISSING_MODES = Metric(
    "missing_modes",
    "modes",
    "The number of modes of the reference without a sample whose absence chance does not explain.",
    better="lower",
    warn=Limit("above", 0.0, "definition: absent although chance leaves any mode out with less than 1e-3"),
    null="0",
    message="{value:.0f} of {modes} modes have no sample among {samples:,}.",
)
COVERED_MODES = Metric(
    "covered_modes",
    "1",
    "The share of the modes of the reference that have a sample.",
    better="higher",
    error=Limit(
        "below", 0.5, "zoo: healthy 1, tuned to half of the modes 0.45 to 0.7, to one or two 0.1 to 0.25", "null"
    ),
    null="as many samples with the proportions of the reference",
    message="Only {value:.1%} of {modes} modes have a sample; {null:.1%} are expected of {samples:,} samples.",
)
MODE_KL = Metric(
    "mode_kl",
    "nats",
    "The Kullback–Leibler divergence of the histogram of samples over the modes from that of the reference.",
    better="lower",
    null="two draws of these sizes from one histogram, to first order",
)
MODE_JS = Metric(
    "mode_js",
    "nats",
    "The Jensen–Shannon divergence of the two histograms over the modes; at most log 2.",
    better="lower",
    null="two draws of these sizes from one histogram, to first order",
)
NDB_SHARE = Metric(
    "ndb_share",
    "1",
    "The share of modes whose proportion among the samples differs from that in the reference by a z-test at 5 %.",
    better="lower",
    null="0.05: the level of the test",
)
UTILISATION = Metric(
    "utilisation",
    "1",
    "The mean squared distance of reference rows to the nearest sample over that to the nearest other reference row.",
    better="lower",
    null="1: samples of the same distribution",
)


def _ring(samples: "list[int]") -> Example:
    """Twenty-five modes on a grid; so many samples of each, forty reference rows of each, labelled."""
    import torch

    generator = torch.Generator().manual_seed(0)
    middles = 10.0 * torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
    counts = {"samples": torch.tensor(samples), "reference": torch.full((25,), 40)}
    labels = {role: torch.arange(25).repeat_interleave(count) for role, count in counts.items()}
    rows = {role: middles[label] + torch.randn(len(label), 2, generator=generator) for role, label in labels.items()}
    return Example({**rows, "labels": labels["samples"], "reference_labels": labels["reference"]}, metadata={})


def healthy() -> Example:
    """Every mode has as many samples as the next."""
    return _ring([24] * 25)


def collapsed() -> Example:
    """Five modes of twenty-five have all samples."""
    return _ring([120] * 5 + [0] * 20)


@activation_analyzer(
    name="mode-coverage",
    family="samples",
    title="Mode coverage",
    metrics=(MISSING_MODES, COVERED_MODES, MODE_KL, MODE_JS, NDB_SHARE, UTILISATION),
    accepts=on.points(
        "samples",
        any_of=(("labels", "reference_labels"), ("reference",)),
        says="hook points with samples and a reference, or samples with labels and reference labels",
    ),
    remedy="Rebalance the data or condition on the missing modes, add a term that seeks modes or raises the entropy of "
    "the outputs, give the discriminator more capacity.",
    references=(
        Reference("Richardson & Weiss. On GANs and GMMs. 2018", "https://arxiv.org/abs/1805.12462"),
        Reference(
            "Liu et al. Combating Mode Collapse in GANs via Manifold Entropy Estimation. 2023",
            "https://arxiv.org/abs/2208.12055",
        ),
        Reference(
            "Venkataramanan et al. It Takes Two to Tango: Mixup for Deep Metric Learning. 2022",
            "https://arxiv.org/abs/2106.04990",
        ),
        Reference("Jain et al. Multi-Objective GFlowNets. 2023", "https://arxiv.org/abs/2210.12765"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
    needs=("sample(samples)", "sample(reference)", "counts(labels)", "counts(reference_labels)"),
)
def mode_coverage(point: "Activations") -> Iterator[Measurement | Skip]:
    """Which modes are missing, and how uneven are the others?

    ## Why it matters
    A generator that has dropped some kinds of things looks fine one sample at a time, and distances between whole
    distributions hardly move for a rare kind. Which kinds are gone says what to condition on or to weight up.

    ## How to read it
    Modes are labels where both sets have them, else the cells of k-means on one half of the reference, counted on the
    other half. `missing_modes` counts those without a sample that chance would hardly have left out, `covered_modes`
    the share that has one. `mode_kl` and `mode_js` compare all proportions: samples on 5 of 25 equal modes read
    log 5 = 1.61 and 0.42, of at most log 2. `ndb_share` is the share of modes whose proportion differs
    significantly. `utilisation` needs no modes: above 1, real rows have no sample as near as another real row.

    ## Limits
    It takes 10 samples per mode. `ndb_share` tends to 1 for any imperfect model as samples are added: read it with
    `mode_js`. Modes given by a classifier inherit its confusions. Modes that only the samples have are left out, their
    samples are counted in the evidence. Without labels there are at most 100 cells, found on at most 10,000 rows: a
    mode smaller than a cell can vanish unseen.
    """
    name, sets = point.site.name, kernels.generated_sets
    sets.same_width(point)
    if point.has("counts(labels)") and point.has("counts(reference_labels)"):
        yield from _histograms(name, _by_label(point), point.get(sets.facts) | {"modes_by": "labels"})
    else:
        found = _by_bins(point)
        if isinstance(found, str):
            yield skip(name, found)
        else:
            yield from _histograms(name, found, point.get(sets.facts) | {"modes_by": "k-means"})
    yield from _utilisation(point)


def _by_label(point: "Activations") -> "Histograms":
    made, real = point.read("counts(labels)"), point.read("counts(reference_labels)")
    if made.beyond or real.beyond:
        raise BadValues(
            "labels of modes",
            expected=f"should lie below {made.limit:,}",
            got=f"{made.beyond + real.beyond:,} do not",
            hint="number the modes from 0",
        )
    return kernels.mode_histograms.of_reference_modes(made.counts, real.counts)


def _by_bins(point: "Activations") -> "Histograms | str":
    """Cells of half of the reference, and who lies in them of the other half and of the samples; or why not."""
    sets, lloyd = kernels.generated_sets, kernels.lloyd
    samples, reference = sets.kept(point, "samples"), sets.kept(point, "reference")
    fitted, counted = kernels.manifold_coverage.halves(reference)
    bins = min(BINS, samples.shape[0] // ROWS_PER_MODE, fitted.shape[0] // ROWS_PER_MODE)
    if bins < 2:
        sizes = f"{samples.shape[0]:,} samples and {reference.shape[0]:,} reference rows"
        return f"{sizes}: fewer than {ROWS_PER_MODE} per mode"
    centres = lloyd.k_means(sets.at_most(fitted, FITTED_ROWS), bins, seed=point.seed)
    if centres.shape[0] < 2:
        return "the reference is one point: it has no modes"
    counts = [lloyd.assigned(rows, centres).bincount(minlength=centres.shape[0]).cpu() for rows in (samples, counted)]
    return kernels.mode_histograms.of_reference_modes(*counts)


def _histograms(name: str, found: "Histograms", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    kernel, modes = kernels.mode_histograms, found.modes
    made, real = int(found.samples.sum()), int(found.reference.sum())
    if modes < 2:
        yield skip(name, f"the reference has {modes} mode{'' if modes == 1 else 's'}: none can be missing")
        return
    if made < ROWS_PER_MODE * modes:
        yield skip(name, f"{made:,} samples in {modes:,} modes: fewer than {ROWS_PER_MODE} per mode")
        return
    missing = kernel.missing_modes(found)
    kl, js = kernel.divergences(found)
    chance = (modes - 1) / 2.0 * (1.0 / made + 1.0 / real)
    facts = facts | {"modes": modes, "samples": made, "reference": real, "samples_elsewhere": found.elsewhere}
    covered = int((found.samples > 0).sum())
    curve = {"sample_counts": found.samples[:LISTED].tolist(), "reference_counts": found.reference[:LISTED].tolist()}
    yield MISSING_MODES.at(name, missing.numel(), 0.0, **facts, missing=missing[:LISTED].tolist(), **curve)
    yield COVERED_MODES.at(name, covered / modes, kernel.expected_cover(found), **facts, covered=covered)
    yield MODE_KL.at(name, kl, chance, **facts)
    yield MODE_JS.at(name, js, chance / 4.0, **facts)
    yield NDB_SHARE.at(name, kernel.differing_share(found), 0.05, **facts)


def _utilisation(point: "Activations") -> Iterator[Measurement | Skip]:
    name, sets, nearest = point.site.name, kernels.generated_sets, kernels.set_distances.nearest
    samples, reference = sets.kept(point, "samples"), sets.distinct(sets.kept(point, "reference"))
    size = min(samples.shape[0], reference.shape[0])
    if size < FEW_ROWS:
        yield skip(
            name,
            f"utilisation: {samples.shape[0]:,} samples and {reference.shape[0]:,} different reference rows, "
            f"fewer than {FEW_ROWS}",
        )
        return
    samples, reference = sets.at_most(samples, size), sets.at_most(reference, size)
    among = nearest(reference).distances[:, 0]
    # different rows: no distance is 0
    unit = float(among.max())
    ratio = float((nearest(reference, samples).distances[:, 0] / unit).square().mean()) / float(
        (among / unit).square().mean()
    )
    yield UTILISATION.at(name, ratio, 1.0, **point.get(sets.facts), rows=size)
