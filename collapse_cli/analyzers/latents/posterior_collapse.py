"""Posterior collapse: latent dimensions that ignore the input."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip
from collapse_cli.errors import BadValues

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Rows from which on means over inputs are reported, and rows per latent dimension for a covariance of them.
FEW_ROWS, ROWS_PER_LATENT = 500, 4
#: Variance of a posterior mean, in variances of the prior, that an encoder has learned: ten times an active unit's,
#: and the means of one that was never trained stay below it.
LEARNED_VARIANCE = 0.1
_LISTED = 128

KL_MEDIAN = Metric(
    "kl_median",
    "nats",
    "The median over dimensions (or groups of classes) of the mean divergence of the posterior from its prior.",
    better="higher",
    null="0, the posterior is the prior",
)
ACTIVE_UNITS = Metric(
    "active_units",
    "dimensions",
    "The number of dimensions whose posterior mean varies by at least 0.01 over the inputs.",
    better="higher",
    warn=Limit(
        "below",
        1.0,
        "definition: no unit depends on the input (Burda et al. 2016, variance of 0.01); no error, since an encoder "
        "that was never trained, whose means vary by 0.008, has none either",
    ),
    null="0, no mean depends on the input",
    message="None of {latents} latent dimensions is active: the largest variance of a posterior mean over {rows} "
    "inputs is {largest_variance:.3g}, and 0.01 makes a unit active.",
)
ACTIVE_SHARE = Metric(
    "active_share", "1", "The share of dimensions that are active.", better="higher", null="0, no mean depends on it"
)
PASSIVE_SHARE = Metric(
    "passive_share",
    "1",
    "The share of dimensions whose posterior variance is steadily that of the prior.",
    better="lower",
    null="1, the posterior is the prior",
)
MIXED_SHARE = Metric(
    "mixed_share",
    "1",
    "The share of dimensions whose posterior variance is neither steadily near 0 nor steadily that of the prior.",
    better="lower",
    null="0, the posterior is the prior",
)
COLLAPSED_SHARE = Metric(
    "collapsed_share",
    "1",
    "The share of dimensions (or groups) within 0.01 nats of the prior for at least 99 % of the inputs.",
    better="lower",
    null="1, the posterior is the prior",
)
INFORMATION_BOUND = Metric(
    "information_bound",
    "nats",
    "An upper bound of the information that the latent carries about the input, exact for a Gaussian aggregate.",
    better="higher",
    error=Limit(
        "below",
        5e-3,
        "zoo: 0 where the posterior is the same for every input; trained encoders of 6 or 8 latents give 7 to 16, "
        "collapsed ones less than 1e-3 in all, one that was never trained 4e-3 a dimension",
    ),
    null="0, the same posterior for every input",
    message="The latent carries at most {value:.3g} nats about the input: {rows} inputs have the same posterior.",
)
INFORMATION_SAMPLED = Metric(
    "information_sampled",
    "nats",
    "The same information by sampling, with the aggregate of M posteriors: at most about log M.",
    better="higher",
    warn=Limit(
        "below",
        2.0,
        "zoo: seven inputs told apart; useful encoders give 5.6 and more, those that lost half of what they rebuild "
        "0.4 to 1.8. Language models whose collapse was cured keep 2.9 (He et al. 2019, mutual information)",
    ),
    null="0, the same posterior for every input",
    message="A sample of the latent says {value:.3g} nats about which of {components} inputs it came from.",
)
CONDITION_CORRELATION = Metric(
    "condition_correlation",
    "1",
    "The largest canonical correlation of condition and targets: near 1 the condition leaves nothing to encode.",
    better="lower",
    null="the edge of the correlations of unrelated rows of these widths (Wachter 1980)",
)
_OF_VARIANCES = "active_units, active_share, passive_share, mixed_share, information_sampled"


def healthy() -> Example:
    """Four dimensions that use the input, one that does not, and a condition that says little of the target."""
    import torch

    generator = torch.Generator().manual_seed(0)
    means, log_variances = torch.randn(600, 5, generator=generator), torch.full((600, 5), math.log(0.01))
    means[:, 4], log_variances[:, 4] = 0.01 * means[:, 4], 0.0
    condition = torch.randn(600, 3, generator=generator)
    targets = 0.3 * condition[:, :2] + torch.randn(600, 2, generator=generator)
    return Example(
        {
            "encoder/mu": means,
            "encoder/logvar": log_variances,
            "encoder/condition": condition,
            "encoder/targets": targets,
        },
        metadata={},
    )


def collapsed() -> Example:
    """The prior for every input, as Gaussian and as categorical latent."""
    import torch

    return Example(
        {
            "encoder/mu": torch.zeros(600, 4),
            "encoder/logvar": torch.zeros(600, 4),
            "world/latent_logits": torch.zeros(600, 4, 8),
            "world/prior_logits": torch.zeros(600, 4, 8),
        },
        metadata={},
    )


@activation_analyzer(
    name="posterior-collapse",
    family="latents",
    title="Posterior collapse",
    metrics=(
        KL_MEDIAN,
        ACTIVE_UNITS,
        ACTIVE_SHARE,
        PASSIVE_SHARE,
        MIXED_SHARE,
        COLLAPSED_SHARE,
        INFORMATION_BOUND,
        INFORMATION_SAMPLED,
        CONDITION_CORRELATION,
    ),
    accepts=on.points(
        any_of=(("mu", "logvar"), ("latent_logits", "prior_logits")),
        says="hook points with a Gaussian or a categorical posterior",
    ),
    remedy="Give the divergence free bits or anneal its weight, update the encoder more often, hold its variance fixed "
    "instead of learning it, or weaken the decoder. If the condition nearly determines the target, drop it from the "
    "decoder.",
    references=(
        Reference(
            "Dang et al. Beyond Vanilla Variational Autoencoders: Detecting Posterior Collapse in Conditional and "
            "Hierarchical Variational Autoencoders. 2024",
            "https://arxiv.org/abs/2306.05023",
        ),
        Reference(
            "Bonheme & Grzes. Be More Active! Understanding the Differences between Mean and Sampled Representations "
            "of Variational Autoencoders. 2023",
            "https://jmlr.org/papers/v24/21-1145.html",
        ),
        Reference(
            "Debbagh. Learning Structured Output Representations from Attributes using Deep Conditional "
            "Generative Models. 2023",
            "https://arxiv.org/abs/2305.00980",
        ),
        Reference(
            "Burchi & Timofte. MuDreamer: Learning Predictive World Models without Reconstruction. 2024",
            "https://arxiv.org/abs/2405.15083",
        ),
        Reference(
            "Burda, Grosse & Salakhutdinov. Importance Weighted Autoencoders. 2016", "https://arxiv.org/abs/1509.00519"
        ),
        Reference(
            "He et al. Lagging Inference Networks and Posterior Collapse in Variational Autoencoders. 2019",
            "https://arxiv.org/abs/1901.05534",
        ),
        Reference(
            "Lucas et al. Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse. 2019",
            "https://arxiv.org/abs/1911.02469",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted",),
    unmoved_metrics=(
        "kl_median",
        "active_units",
        "active_share",
        "passive_share",
        "mixed_share",
        "collapsed_share",
        "information_bound",
        "condition_correlation",
    ),
    needs=(
        "gaussian_posterior",
        "categorical_posterior",
        "sample(mu)",
        "moments(condition)",
        "moments(targets)",
        "cross_moments(condition,targets)",
    ),
)
def posterior_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Which latent dimensions ignore the input, and does the condition explain it?

    ## Why it matters
    A variational autoencoder whose decoder can do without its latent sets the posterior to the prior: the divergence
    is then free, the loss looks fine, and the latent says nothing of the input. Single dimensions do so in many
    healthy models; when all do, sampling the latent changes nothing and it is useless as a representation.

    ## How to read it
    `active_units` counts the dimensions whose mean moves with the input; none is total collapse. `kl_median` is what
    the typical dimension pays, `collapsed_share` how many pay nothing. The variance layer sorts dimensions into active
    (near 0), passive (that of the prior) and mixed (by input); Burda's count takes mixed ones as active. Where there
    are `prior_mu` and `prior_logvar`, everything is against that prior and in its standard deviations.
    `information_bound` needs no samples and has no ceiling; `information_sampled` cannot exceed log M by much, which
    its evidence names, and is taken only of an encoder that has learned to use a dimension. Two nats of it tell seven
    inputs apart: below that most of the input is lost although single dimensions are active. A `condition_correlation`
    near 1 says that the condition gives the target away. A categorical latent gives divergence and information group by
    group.

    ## Limits
    Below the top of a hierarchy the divergence from N(0, I) means nothing: dump the learned prior. The bound of the
    information is not taken against a prior, and at a lower level it counts what the level above passed on. A low
    divergence with high information is good compression and no collapse. A variance of 0.01 is a convention: a latent
    that works at a tenth of the prior's standard deviation or less counts as inactive, and an encoder that was never
    trained mostly has none active either. The bound is loose for an aggregate of clusters, and the sampled value of a
    collapsed batch can be slightly negative. Divergences are those of the dump: undo a weight β that is in them. Log
    variances beyond ±230 count as ±230, and rows with infinite ones are left out.
    """
    if point.has("gaussian_posterior"):
        yield from _gaussian(point)
    if point.has("categorical_posterior"):
        yield from _categorical(point)
    yield from _condition(point)


def _gaussian(point: "Activations") -> Iterator[Measurement | Skip]:
    name, posterior = point.site.name, point.read("gaussian_posterior")
    if not posterior.is_consistent:
        shapes = {
            role: point.shapes[role] for role in ("mu", "logvar", "prior_mu", "prior_logvar") if role in point.shapes
        }
        raise BadValues("posterior and prior do not have the same latents", expected="equal widths", got=str(shapes))
    latents = posterior.mean.numel()
    if posterior.count < FEW_ROWS or posterior.count <= ROWS_PER_LATENT * latents:
        yield skip(name, f"{posterior.count} finite rows of {latents} latents, needs {FEW_ROWS} and over 4 per latent")
        return
    topic = kernels.gaussian_latents
    divergences = posterior.kl_sum / posterior.count
    facts = _facts(point, latents)
    near, listed = int((divergences < kernels.gaussian_posterior.NEAR_PRIOR).sum()), divergences[:_LISTED].tolist()
    yield KL_MEDIAN.at(name, float(divergences.quantile(0.5)), 0.0, **facts, below_a_hundredth=near, kl=listed)
    is_active, kinds = topic.active_units(posterior), topic.latent_kinds(posterior)
    variances = posterior.offset_variance
    active, largest = int(is_active.sum()), float(variances.max())
    # the two counts of active dimensions differ by the mixed ones
    both = {"active": active, "steadily_active": int(kinds.is_active.sum())}
    yield ACTIVE_UNITS.at(name, active, 0.0, **facts, **both, largest_variance=largest)
    yield ACTIVE_SHARE.at(name, active / latents, 0.0, **facts, variances=variances[:_LISTED].tolist())
    yield PASSIVE_SHARE.at(name, float(kinds.is_passive.double().mean()), 1.0, **facts, **both)
    yield MIXED_SHARE.at(name, float(kinds.is_mixed.double().mean()), 0.0, **facts, **both)
    yield COLLAPSED_SHARE.at(name, float(topic.collapsed(posterior).double().mean()), 1.0, **facts)
    bound, total = topic.information_bound(posterior), float(divergences.sum())
    split = {} if posterior.has_prior else {"aggregate_kl": total - bound}
    yield INFORMATION_BOUND.at(name, bound, 0.0, **facts, kl_total=total, **split)
    if largest < LEARNED_VARIANCE:
        yield skip(name, f"information_sampled: no mean varies by {LEARNED_VARIANCE}, the bound says what there is")
    else:
        yield _sampled(point, facts)


def _facts(point: "Activations", latents: int) -> dict[str, Any]:
    is_learned = point.read("gaussian_posterior").has_prior
    facts = kernels.feature_spectrum.facts(point, "mu") | {"latents": latents}
    return facts | {"prior": "learned" if is_learned else "N(0, I)"}


def _sampled(point: "Activations", facts: dict[str, Any]) -> Measurement:
    import torch

    sample, generator = point.read("sample(mu)"), point.generator()
    means = sample.rows("mu")[sample.is_uniform].double().flatten(1)
    logs = sample.rows("logvar")[sample.is_uniform].double().flatten(1).clamp(-230.0, 230.0).expand_as(means)
    components = kernels.gaussian_latents.sampled_rows(means.shape[0], means.shape[1])
    chosen = torch.randperm(means.shape[0], generator=generator)[:components]
    noise = torch.randn(components, means.shape[1], generator=generator, dtype=torch.float64)
    value = kernels.gaussian_latents.information_sampled(means[chosen], logs[chosen], noise)
    cap = math.log(components)
    return INFORMATION_SAMPLED.at(point.site.name, value, 0.0, **facts, components=components, cap=cap)


def _categorical(point: "Activations") -> Iterator[Measurement | Skip]:
    posterior = point.read("categorical_posterior")
    name = f"{point.site.name}#categorical" if point.has("gaussian_posterior") else point.site.name
    if not posterior.is_consistent:
        shapes = {role: point.shapes[role] for role in ("latent_logits", "prior_logits")}
        raise BadValues("posterior and prior do not have the same classes", expected="equal shapes", got=str(shapes))
    if posterior.count < FEW_ROWS:
        yield skip(name, f"{posterior.count} finite rows of a categorical latent, needs {FEW_ROWS}")
        return
    groups, classes = posterior.probability_sum.shape
    facts = kernels.feature_spectrum.facts(point, "latent_logits")
    facts |= {"groups": groups, "classes": classes, "masked_rows": posterior.masked_rows}
    divergences = posterior.kl_sum / posterior.count
    yield KL_MEDIAN.at(name, float(divergences.quantile(0.5)), 0.0, **facts, kl=divergences[:_LISTED].tolist())
    share = float(kernels.gaussian_latents.collapsed(posterior).double().mean())
    yield COLLAPSED_SHARE.at(name, share, 1.0, **facts)
    bound = kernels.gaussian_latents.categorical_information_bound(posterior)
    yield INFORMATION_BOUND.at(name, bound, 0.0, **facts, kl_total=float(divergences.sum()))
    yield skip(name, f"{_OF_VARIANCES}: a categorical latent has no mean and no variance")


def _condition(point: "Activations") -> Iterator[Measurement | Skip]:
    name, pairs = point.site.name, "cross_moments(condition,targets)"
    if not point.has(pairs):
        yield skip(name, "condition_correlation: needs condition and targets")
        return
    moments = (point.read("moments(condition)"), point.read("moments(targets)"), point.read(pairs))
    widths = [side.mean.numel() for side in moments[:2]]
    if moments[2].count < FEW_ROWS or moments[2].count - 1 <= sum(widths):
        needed = max(FEW_ROWS, sum(widths) + 2)
        yield skip(
            name, f"condition_correlation: {moments[2].count} finite rows of {sum(widths)} columns, needs {needed}"
        )
        return
    found = kernels.canonical_correlation.canonical_correlations(*moments)
    if found is None:
        yield skip(name, "condition_correlation: the condition or the targets are constant")
        return
    yield CONDITION_CORRELATION.at(
        name,
        float(found.values[0]),
        found.largest_null,
        rows=moments[2].count,
        condition_rank=found.left_rank,
        targets_rank=found.right_rank,
        correlations=found.values[:_LISTED].tolist(),
    )
