"""Whether the optimizer can still move every weight, from its saved moments."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.moments import AdamSettings
    from collapse_cli.kernels.views import Block, Weight

#: What PyTorch's Adam takes where the group does not say.
_DEFAULT_BETAS, _DEFAULT_EPSILON = (0.9, 0.999), 1e-8
#: Fewer entries have no hundredth.
_FEWEST_ENTRIES = 100
_SECOND = "eps_dominated_share, rms_over_eps, dead_moment_share, moment_top_share"
_UPDATE = "update_rms, update_effective_rank"

EPS_DOMINATED_SHARE = Metric(
    "eps_dominated_share",
    "share",
    "Share of the entries whose root mean square gradient √v̂ is at most ε.",
    better="lower",
    null="gradients well above ε: 0",
)
RMS_OVER_EPS = Metric(
    "rms_over_eps",
    "dex",
    "Decimal logarithm of the median root mean square gradient √v̂ over ε.",
    better="higher",
    warn=Limit(
        "below",
        -1.0,
        "zoo: -0.8 to -1.9 where an ε too large cost half of the accuracy, 5.2 to 5.4 in healthy models and 2 in one "
        "trained to a loss of 5e-7",
    ),
    error=Limit("below", -2.0, "zoo: -2.9 to -3.1 where an ε too large left chance, 5.2 to 5.4 in healthy models"),
    message="The median root mean square gradient is 10^{value:.2g} of ε = {eps:.3g} ({median:.3g}): ε, not the "
    "gradient, sets the step.",
)
DEAD_MOMENT_SHARE = Metric(
    "dead_moment_share",
    "share",
    "Share of the entries whose second moment is exactly zero: no gradient has ever reached them.",
    better="lower",
    null="every entry had a gradient: 0",
    error=Limit("above", 1.0, "definition: no entry ever had a gradient, the parameter is not trained", inclusive=True),
    message="The second moment is exactly zero in all {entries} entries after {steps} steps: no gradient reaches this "
    "parameter.",
)
UPDATE_RMS = Metric(
    "update_rms",
    "1",
    "Root mean square of the next update m̂/(√v̂+ε), in units of the learning rate.",
    null="pure noise: √((1−β₁)/(1+β₁)); a constant gradient gives 1",
)
UPDATE_EFFECTIVE_RANK = Metric(
    "update_effective_rank",
    "directions",
    "The exponential of the entropy of the energies of the next update.",
    null="a Gaussian matrix of the same shape",
)
MOMENT_TOP_SHARE = Metric(
    "moment_top_share",
    "share",
    "Share of the second moment that lies in the largest hundredth of its entries.",
)


def _state(second: "Tensor", *, step: float) -> Example:
    """A linear layer of 64×32 and the state of Adam for it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    first = 0.23 * second.sqrt() * torch.randn(64, 32, generator=generator)
    moments = {key: f"optimizer.state.0.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
    tensors = {
        "fc1.weight": 0.1 * torch.randn(64, 32, generator=generator),
        moments["step"]: torch.tensor(step),
        moments["exp_avg"]: first,
        moments["exp_avg_sq"]: second,
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    group = SimpleNamespace(parameter="fc1.weight", moments=moments, settings=settings)
    return Example(tensors, optimizer=(group,))


def healthy() -> Example:
    """Adam after 3,000 steps of gradients of unit variance."""
    import torch

    return _state(torch.rand(64, 32, generator=torch.Generator().manual_seed(1)).add_(0.5), step=3000.0)


def collapsed() -> Example:
    """Adam after 3,000 steps without any gradient."""
    import torch

    return _state(torch.zeros(64, 32), step=3000.0)


@block_analyzer(
    name="optimizer-state",
    family="optimizer",
    title="State of the optimizer",
    metrics=(
        EPS_DOMINATED_SHARE,
        RMS_OVER_EPS,
        DEAD_MOMENT_SHARE,
        UPDATE_RMS,
        UPDATE_EFFECTIVE_RANK,
        MOMENT_TOP_SHARE,
    ),
    accepts=on.block("optimizer", says="saved optimizer state by parameter (Adam and its relatives, Adafactor)"),
    remedy="Lower ε where gradients are tiny, keep the second moment in float32, use a larger batch where the update "
    "is noise, and look for what cuts the parameter off from the loss: a frozen path, a dead layer in front or behind.",
    references=(
        Reference("Kingma & Ba. Adam: A Method for Stochastic Optimization. 2014", "https://arxiv.org/abs/1412.6980"),
        Reference(
            "Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities. 2023",
            "https://arxiv.org/abs/2309.14322",
        ),
        Reference(
            "Matena & Raffel. Merging Models with Fisher-Weighted Averaging. 2021", "https://arxiv.org/abs/2111.09832"
        ),
        Reference(
            "Zhao et al. GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection. 2024",
            "https://arxiv.org/abs/2403.03507",
        ),
        Reference(
            "Chen et al. Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint? 2024",
            "https://arxiv.org/abs/2410.01623",
        ),
        Reference(
            "Chen et al. Symbolic Discovery of Optimization Algorithms. 2023", "https://arxiv.org/abs/2302.06675"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("rows_permuted",),
)
def optimizer_state(block: "Block") -> Iterator[Measurement | Skip]:
    """Can the optimizer still move every entry of this parameter?

    ## Why it matters
    Adam divides a mean gradient by the root of a mean squared one. Where that root has sunk below ε the division no
    longer normalises and the step fades away; where it is exactly zero no gradient has ever arrived. Both stop a
    parameter while the loss of the others still falls, and neither shows in the weights until much later.

    ## How to read it
    `dead_moment_share` is exact evidence: an entry of zero never had a gradient since the state was last reset.
    Embedding rows of tokens that were never in a batch, and weights from inputs that are always zero, are so by
    design; the evidence counts dead rows and names the first. A whole parameter of zeros is not trained. `rms_over_eps`
    is commonly 2 to 6; below 0 ε sets the step. `update_rms` near its null is a gradient of pure noise, near 1 one of
    constant sign. `update_effective_rank` is how many directions the next step moves in, `moment_top_share` how much of
    the squared gradient falls on a hundredth of the entries. Settings that the file does not give are in `assumed`.

    ## Limits
    Gradients may also be tiny because the model is done: a classifier at zero loss sinks below ε without any collapse.
    For vectors `rms_over_eps` is skipped: a key bias, or a bias in front of a normalisation, has no gradient but
    rounding. Updates that only touch some rows bias the root mean square. Adafactor keeps ε inside its moment, and Lion
    and momentum have no second moment: what does not apply is skipped. GaLore-projected moments, moments in eight bits
    and flat partitions are not decoded, and then not shaped like the parameter.
    """
    site, second = block.site.name, block.one(Role.OPTIMIZER_V)
    if "skip" in block.facts:
        yield skip(site, str(block.facts["skip"]))
        return
    kind = str(block.facts.get("kind", "unknown"))
    if second is None:
        yield skip(site, f"{_SECOND}, {_UPDATE}: no second moment ({kind})")
        return
    if second.tensor.numel() == 0:
        yield skip(site, "empty second moment")
        return
    if bool((second.tensor < 0).any()):
        yield skip(site, f"{_SECOND}, {_UPDATE}: a second moment with negative entries is none")
        return
    settings, assumed = _settings(block, kind)
    yield from _second_moment(block, second, settings, assumed)
    yield from _update(block, second, settings, assumed)


def _settings(block: "Block", kind: str) -> "tuple[AdamSettings, list[str]]":
    """β, ε and step of the parameter, and the names of those that had to be assumed."""
    assumed: list[str] = []
    betas, epsilon = _betas(block.facts.get("betas")), block.facts.get("eps")
    if betas is None:
        betas = _DEFAULT_BETAS
        assumed.append("betas")
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        epsilon = _DEFAULT_EPSILON
        assumed.append("eps")
    step = _step(block)
    if step == 0 or kind != "adam":
        # without the number of steps no bias can be corrected; others than Adam have none
        step = 0
        assumed.append("no bias correction")
    return kernels.moments.AdamSettings(betas, float(epsilon), step), assumed


def _betas(given: object) -> tuple[float, float] | None:
    if not isinstance(given, list | tuple) or len(given) != 2:
        return None
    if not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in given):
        return None
    return float(given[0]), float(given[1])


def _step(block: "Block") -> int:
    """Number of steps taken, 0 if it is not known."""
    stored = block.one(Role.OPTIMIZER_STEP)
    step: Any = float(stored.tensor) if stored is not None and stored.tensor.numel() == 1 else block.facts.get("step")
    return int(step) if isinstance(step, int | float) and 1 <= step < 2**53 else 0


def _second_moment(
    block: "Block", second: "Weight", settings: "AdamSettings", assumed: list[str]
) -> Iterator[Measurement | Skip]:
    site, kind = block.site.name, str(block.facts.get("kind", "unknown"))
    found = kernels.moments.second_moment(second.tensor, settings)
    entries = second.tensor.numel()
    evidence = {"eps": settings.epsilon, "step": settings.step, "assumed": assumed, "entries": entries}
    if kind == "adafactor":
        yield skip(site, "eps_dominated_share, rms_over_eps: adafactor adds ε inside its moment")
    else:
        yield EPS_DOMINATED_SHARE.at(site, found.dominated, 0.0, **evidence)
        yield from _above_epsilon(site, found.median_root, evidence, is_vector=1 in second.matrix.shape)
    yield DEAD_MOMENT_SHARE.at(
        site,
        found.dead,
        0.0,
        **evidence,
        steps=settings.step or "an unknown number of",
        dead_rows=found.dead_rows,
        first_dead_rows=list(found.first_dead_rows),
    )
    if found.top_share is None or entries < _FEWEST_ENTRIES:
        reason = f"{entries} entries < {_FEWEST_ENTRIES}" if found.top_share is not None else "all zero"
        yield skip(site, f"moment_top_share: {reason}")
    else:
        yield MOMENT_TOP_SHARE.at(site, found.top_share, entries=entries)


def _above_epsilon(
    site: str, median: float, evidence: dict[str, Any], *, is_vector: bool
) -> Iterator[Measurement | Skip]:
    if is_vector:
        yield skip(site, "rms_over_eps: a vector may have no gradient by construction")
    elif median == 0.0 or evidence["eps"] == 0.0:
        yield skip(site, "rms_over_eps: " + ("ε is 0" if median else "the median second moment is 0"))
    else:
        yield RMS_OVER_EPS.at(site, math.log10(median / evidence["eps"]), median=median, **evidence)


def _update(
    block: "Block", second: "Weight", settings: "AdamSettings", assumed: list[str]
) -> Iterator[Measurement | Skip]:
    site, first, kind = block.site.name, block.one(Role.OPTIMIZER_M), str(block.facts.get("kind", "unknown"))
    if kind != "adam" or first is None:
        yield skip(site, f"{_UPDATE}: not the moments of Adam ({kind})")
        return
    if first.tensor.shape != second.tensor.shape:
        yield skip(site, f"{_UPDATE}: moments of shapes {tuple(first.tensor.shape)} and {tuple(second.tensor.shape)}")
        return
    size, update = kernels.moments.adam_update(first.tensor, second.tensor, settings)
    beta = settings.betas[0]
    yield UPDATE_RMS.at(
        site, size, math.sqrt((1 - beta) / (1 + beta)), step=settings.step, assumed=assumed, eps=settings.epsilon
    )
    rows, columns = update.shape
    side = min(rows, columns)
    if first.tensor.dim() < 2 or side < 8:
        yield skip(site, f"update_effective_rank: min side {side} < 8")
    elif side > kernels.spectrum.MAX_EXACT_SIDE:
        yield skip(site, f"update_effective_rank: min side {side} > {kernels.spectrum.MAX_EXACT_SIDE}")
    else:
        null = kernels.random_matrix.effective_rank_lambda_null(rows, columns)
        yield UPDATE_EFFECTIVE_RANK.at(site, kernels.moments.update_rank(update), null, sides=[rows, columns])
