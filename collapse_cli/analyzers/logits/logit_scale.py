"""Whether the scale of output logits is in bounds."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import LogitRows
    from collapse_cli.kernels.views import Activations

NEED = "logit_rows"
#: The sample size from which medians and means of rows are steady.
MIN_ROWS = 100
#: Weight of the squared log Z in the loss of PaLM (Chowdhery et al. 2022, section 5).
Z_LOSS = 1e-4

LOG_Z_MEAN = Metric(
    "log_z_mean",
    "nats",
    "Mean of log Z = log Σe^z over the rows.",
    null="logits of 0: log C",
)
LOG_Z_RMS = Metric(
    "log_z_rms",
    "nats",
    "Root mean square of log Z, drift in either direction.",
    better="lower",
    null="logits of 0: log C",
    warn=Limit(
        "above",
        256.0,
        "closed form: bfloat16 numbers beyond 256 are 2 apart, so that no margin below 1 nat can be represented",
    ),
    error=Limit(
        "above",
        4_096.0,
        "closed form: bfloat16 numbers beyond 4,096 are 32 apart: ties apart, softmax is one-hot",
    ),
    message="log Z is {value:.4g} nats off 0 (its mean is {log_z_mean:.4g}; logits of 0 have {null:.3g}): the logits "
    "have diverged from {smallest:.4g} to {largest:.4g}.",
)
MAX_LOGIT = Metric("max_logit", "1", "Largest magnitude of any logit that is not masked.", better="lower")
LOGIT_SPREAD = Metric("logit_spread", "1", "Median over rows of the standard deviation of the logits of a row.")
TOP_MARGIN = Metric("top_margin", "nats", "Median over rows of the largest logit less the second.")


def healthy() -> Example:
    """Logits of a few nats about 0."""
    return _example(0.0)


def collapsed() -> Example:
    """The same, drifted away by twenty thousand nats: the cross entropy does not see it."""
    return _example(-20_000.0)


def _example(drift: float) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"head/logits": 2.0 * torch.randn(128, 50, generator=generator) + drift}, metadata={})


@activation_analyzer(
    name="logit-scale",
    family="logits",
    title="Logit scale",
    metrics=(LOG_Z_MEAN, LOG_Z_RMS, MAX_LOGIT, LOGIT_SPREAD, TOP_MARGIN),
    accepts=on.points("logits", says="hook points with logits"),
    remedy="Add a z-loss (10⁻⁴·log²Z), put weight decay on the head, lower the learning rate, normalise queries and "
    "keys, or cap the logits softly.",
    references=(
        Reference(
            "Chowdhery et al. PaLM: Scaling Language Modeling with Pathways. 2022", "https://arxiv.org/abs/2204.02311"
        ),
        Reference(
            "Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities. 2023",
            "https://arxiv.org/abs/2309.14322",
        ),
        Reference(
            "Prieto, Barsbey, Mediano & Birdal. Grokking at the Edge of Numerical Stability. 2025",
            "https://arxiv.org/abs/2501.04697",
        ),
        Reference(
            "Tyurin. From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step "
            "Sizes. 2024",
            "https://arxiv.org/abs/2412.08424",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(NEED,),
    unmoved_by=("samples_permuted",),
)
def logit_scale(point: "Activations") -> Iterator[Measurement | Skip]:
    """Are the output logits drifting away or exploding?

    ## Why it matters
    Adding one number to all logits of a row changes no probability and no cross entropy, so nothing in training holds
    their level. It drifts, the numbers grow, and in half precision the differences between them are rounded away: the
    loss then jumps for no visible reason. Logits that grow apart instead end in a softmax that is one-hot.

    ## How to read it
    `log_z_mean` is the level and `log_z_rms` the drift either way; a row of zeros has log C, and independent logits of
    standard deviation s have log C + s²/2 more than their mean (evidence `gaussian_log_z`). `logit_spread` and
    `top_margin` do not move with the level: they say how sharp the rows are. `z_loss` is the term 10⁻⁴·log²Z.
    One dump shows a level; whether it drifts is seen over the checkpoints of a run.

    ## Limits
    Healthy language models without a z-loss have levels tens of nats from 0: only what no half precision can hold is
    judged. Finite numbers that stand for a masked class (−10⁴, the least float) count as logits in `max_logit` and
    `logit_spread`; −∞ is left out. Tied embeddings and soft caps bound the logits by construction. The alarm at 10⁴ of
    the literature is for attention logits, not for these.
    """
    site, found = point.site.name, point.read(NEED)
    if found.count < MIN_ROWS:
        yield skip(site, f"{found.count:,} rows with two finite logits < {MIN_ROWS}")
        return
    facts = _facts(point, found)
    yield LOG_Z_MEAN.at(site, found.log_z_mean, found.log_visible_mean, **facts)
    rms = math.sqrt(found.log_z_square)
    yield LOG_Z_RMS.at(site, rms, math.sqrt(found.log_visible_square), **facts, log_z_mean=found.log_z_mean)
    yield MAX_LOGIT.at(site, max(abs(found.smallest_logit), abs(found.largest_logit)), **facts)
    yield LOGIT_SPREAD.at(site, facts["spread"], **facts)
    yield TOP_MARGIN.at(site, found.margin.quantile(0.5), **facts)


def _facts(point: "Activations", found: "LogitRows") -> dict[str, Any]:
    """What the scale is taken of."""
    spread = found.spread.quantile(0.5)
    return {
        "rows": found.count,
        "short_rows": found.short_rows,
        "masked": found.masked,
        "classes": found.width,
        "dtype": point.dtypes["logits"],
        "smallest": found.smallest_logit,
        "largest": found.largest_logit,
        "spread": spread,
        "gaussian_log_z": found.log_visible_mean + spread**2 / 2.0,
        "z_loss": Z_LOSS * found.log_z_square,
    }
