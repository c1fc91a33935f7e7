"""Dead latents: units of a sparse autoencoder that never fire."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Rows after which trainers of top-k autoencoders call a latent dead (Gao et al. 2024).
WINDOW = 10_000_000
#: A density below which a latent is rare, and the rows that prove it at 95 % (−log 0.05 = 3).
RARE, RARE_ROWS = 1e-6, 3_000_000
#: Rows from which codes without a firing latent are no accident, and no window is needed to call latents dead.
FEW_ROWS = 1_000
#: Mean firings of a latent from which silence tells without the window: of densities that are log-normal with a
#: standard deviation of a factor of ten, a fifth is silent then.
MEAN_FIRINGS = 100
EQUAL = "(1 − L0/F)^N, latents of equal density"

SILENT_SHARE = Metric(
    "silent_share", "1", "The share of latents that are above 0 in none of these rows.", better="lower", null=EQUAL
)
DEAD_SHARE = Metric(
    "dead_share",
    "1",
    "The share of silent latents, where the rows prove it: ten million, or a hundred firings of the mean latent, or a "
    "dump in which nothing fires.",
    better="lower",
    warn=Limit(
        "above",
        0.3,
        "zoo: with a remedy 0 to 0.06, with one for two latents in five 0.38 to 0.5; at sixteen million latents "
        "0.07 with remedies (Gao et al. 2024)",
    ),
    error=Limit("above", 0.6, "zoo: no remedy and too large a rate 0.65 and more; up to 0.9 in Gao et al. 2024"),
    null=EQUAL,
    message="{silent} of {units} latents are above 0 in none of {rows} rows.",
)
DENSITY_BOUND = Metric(
    "density_bound", "1", "The largest density, at 95 %, that a latent can have that was silent in these rows."
)
ACTIVE_PER_ROW = Metric(
    "active_per_row",
    "latents",
    "The mean number of latents above 0 in a row.",
    better="higher",
    warn=Limit("below", 1.0, "definition: some rows have no latent at all"),
    error=Limit("below", 0.1, "closed form: at most one row in ten has a latent that fires (Markov's inequality)"),
    message="{value:.3g} of {units} latents fire in the mean row: most rows have no code.",
)
RARE_SHARE = Metric(
    "rare_share", "1", "The share of latents that fire in fewer than one of a million rows.", better="lower", null="0"
)


def healthy() -> Example:
    """Latents of equal density, a sixteenth, in 500 rows."""
    import torch

    generator = torch.Generator().manual_seed(0)
    fires = torch.rand(500, 128, generator=generator) < 1.0 / 16.0
    return Example({"sae/sparse": fires * torch.rand(500, 128, generator=generator)}, metadata={})


def collapsed() -> Example:
    """Codes without a single firing latent."""
    import torch

    return Example({"sae/sparse": torch.zeros(FEW_ROWS, 64)}, metadata={})


@activation_analyzer(
    name="dead-latents",
    family="sparse",
    title="Dead latents",
    metrics=(SILENT_SHARE, DEAD_SHARE, DENSITY_BOUND, ACTIVE_PER_ROW, RARE_SHARE),
    accepts=on.points("sparse", says="hook points with sparse codes"),
    remedy="Add an auxiliary loss on dead latents (AuxK, ghost gradients), resample them, warm the sparsity up, or "
    "choose rows by latent with a Zipf auxiliary loss.",
    references=(
        Reference(
            "Ayonrinde. Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders. 2024",
            "https://arxiv.org/abs/2411.02124",
        ),
        Reference("Gao et al. Scaling and evaluating sparse autoencoders. 2024", "https://arxiv.org/abs/2406.04093"),
        Reference(
            "Bricken et al. Towards Monosemanticity: Decomposing Language Models With Dictionary Learning. 2023",
            "https://transformer-circuits.pub/2023/monosemantic-features",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled"),
    needs=("unit_activity",),
)
def dead_latents(point: "Activations") -> Iterator[Measurement | Skip]:
    """How many sparse-autoencoder latents never fire, and how far can this dump prove it?

    ## Why it matters
    A latent that never fires gets no gradient and stays as it is: width that is paid for and does not work. Large
    autoencoders can lose most of their latents this way while the reconstruction still improves.

    ## How to read it
    `silent_share` is what was seen; `density_bound` says what it proves: a latent of that density would have been
    silent with a probability of 0.05. Compare the silent share with its null, what latents of equal density would
    show in as many rows. `dead_share` is the same number, given only where the rows reach the window of ten million
    that trainers use, where the mean latent fired a hundred times, or where not one latent fires in a thousand rows and
    more. `active_per_row` below 1 says that rows have no code at all, whatever the latents do in others.
    `rare_share` counts densities below a millionth, where enough rows can tell them from 0.

    ## Limits
    Published thresholds differ (densities of 1e-8 to 1e-6, windows of ten million tokens): each has to be provable
    with the rows at hand. Rows from few documents are not independent, so that the bound is too good. Latents of one
    domain are silent elsewhere. Signed codes fire above 0 only here, whatever is below; other tools count what is not
    0, which is the same for codes that are never negative.
    """
    name, activity = point.site.name, point.read("unit_activity")
    if activity.count == 0 or activity.units == 0:
        yield skip(name, "no finite rows, or no latents")
        return
    rows, silent = activity.count, int((activity.positive == 0).sum())
    facts = kernels.feature_spectrum.facts(point, "sparse")
    facts |= {"units": activity.units, "silent": silent, "active_per_row": kernels.firing.mean_active(activity)}
    share, null = silent / activity.units, kernels.firing.silent_null(activity)
    yield SILENT_SHARE.at(name, share, null, **facts, first=(activity.positive == 0).nonzero().flatten()[:16].tolist())
    bound = kernels.firing.density_bound(rows)
    firings, is_empty = activity.active_sum / activity.units, silent == activity.units
    if rows >= WINDOW or (rows >= FEW_ROWS and (is_empty or firings >= MEAN_FIRINGS)):
        yield DEAD_SHARE.at(name, share, null, **facts, firings=firings)
    else:
        proof = f"{rows:,} rows prove only a density below {bound:.2g}, needs {WINDOW:,}"
        yield skip(name, f"dead_share: {proof} or {MEAN_FIRINGS} firings of the mean latent ({firings:.3g})")
    yield DENSITY_BOUND.at(name, bound, **facts)
    if rows >= FEW_ROWS:
        yield ACTIVE_PER_ROW.at(name, facts["active_per_row"], **facts)
    else:
        yield skip(name, f"active_per_row: {rows:,} rows, needs {FEW_ROWS:,}")
    if rows >= RARE_ROWS:
        rare = int((activity.positive < RARE * rows).sum())
        yield RARE_SHARE.at(name, rare / activity.units, 0.0, **facts, rare=rare)
    else:
        yield skip(name, f"rare_share: {rows:,} rows prove only a density below {bound:.2g}, needs {RARE_ROWS:,}")
