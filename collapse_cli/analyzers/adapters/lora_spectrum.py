"""Whether a low-rank adapter uses its rank, and whether it changes anything."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block, Weight

GAUSSIAN = "the product of Gaussian factors of the same shapes"
#: Kinds whose update is scale·B·A; of the others, the factors do not multiply so.
_PRODUCTS = frozenset({"lora", "dora"})
#: Below, a rank metric has no room between one direction and all of them.
_FEWEST_DIRECTIONS = 4
_RANKS = "lora_effective_rank, lora_participation_ratio, lora_stable_rank, used_rank_share"

DEAD_ADAPTER = Metric(
    "dead_adapter",
    "1",
    "1 if the update is exactly zero, 0 if not.",
    better="lower",
    null=GAUSSIAN + ": 0",
    warn=Limit("above", 1.0, "definition: loading it changes nothing", inclusive=True),
    message="The adapter of rank {rank} is exactly zero ({because}): loading it changes nothing.",
)
UPDATE_NORM = Metric("update_norm", "1", "Frobenius norm of the update, with its scale.")
UPDATE_RATIO = Metric("update_ratio", "1", "Frobenius norm of the update over that of the weight it changes.")
LORA_EFFECTIVE_RANK = Metric(
    "lora_effective_rank",
    "directions",
    "The exponential of the entropy of the energies λ/Σλ of the update.",
    better="higher",
    null=GAUSSIAN,
    warn=Limit("below", 1.5, "zoo: beyond every healthy adapter, 1.87 or more; loraspectra calls such a layer dead"),
    message="The update of rank {rank} acts in {value:.3g} directions (limit {bound}); Gaussian factors in {null:.3g}.",
)
LORA_PARTICIPATION_RATIO = Metric(
    "lora_participation_ratio",
    "directions",
    "(Σλ)²/Σλ² of the update: the number of equally strong directions, counting the strong ones most.",
    better="higher",
    null=GAUSSIAN,
)
LORA_STABLE_RANK = Metric(
    "lora_stable_rank",
    "directions",
    "Squared Frobenius norm over squared spectral norm of the update.",
    better="higher",
    null=GAUSSIAN,
)
USED_RANK_SHARE = Metric(
    "used_rank_share",
    "share",
    "Share of the rank above rounding and above a thousandth of the largest singular value.",
    better="higher",
    null=GAUSSIAN + ": 1",
    warn=Limit("below", 0.2, "zoo: beyond every healthy model (1, all of the rank); one direction of rank 8 is 0.125"),
    message="The update uses {used} of the {rank} directions that it stores; Gaussian factors use all.",
)
FACTOR_IMBALANCE = Metric(
    "factor_imbalance",
    "nats",
    "The logarithm of ‖B‖_F/‖A‖_F: how much of the scale lies in which factor.",
    warn=Limit("below", -3.0, "zoo: −0.8 and more in sound adapters, −1.5 at half of their gain; B is 5 % of A"),
    error=Limit("below", -5.0, "zoo: −7 in adapters that gained nothing; B, which starts at zero, is 0.7 % of A"),
    message="The second factor hardly left zero: its norm is e^{value:.3g} of that of the first (limit e^{bound}).",
)


def _adapter(update_from: "Tensor", update_to: "Tensor") -> Example:
    path = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    return Example({f"{path}A.weight": update_from, f"{path}B.weight": update_to}, adapter=settings)


def healthy() -> Example:
    """Gaussian factors of rank 8."""
    import torch

    generator = torch.Generator().manual_seed(0)
    first = torch.randn(8, 96, generator=generator) / 8
    return _adapter(first, 0.01 * torch.randn(64, 8, generator=generator))


def collapsed() -> Example:
    """A second factor that hardly left zero, and whose eight columns are all the same: one direction."""
    import torch

    generator = torch.Generator().manual_seed(0)
    first = torch.randn(8, 96, generator=generator) / 8
    return _adapter(first, 5e-4 * torch.randn(64, 1, generator=generator).repeat(1, 8))


@block_analyzer(
    name="lora-spectrum",
    family="adapters",
    title="Spectrum of low-rank adapters",
    metrics=(
        DEAD_ADAPTER,
        UPDATE_NORM,
        UPDATE_RATIO,
        LORA_EFFECTIVE_RANK,
        LORA_PARTICIPATION_RATIO,
        LORA_STABLE_RANK,
        USED_RANK_SHARE,
        FACTOR_IMBALANCE,
    ),
    accepts=on.block("adapter", Role.ADAPTER_A, says="low-rank adapters with both factors (LoRA, rsLoRA, DoRA)"),
    remedy="Train the second factor at a higher rate (LoRA+), scale by α/√r (rsLoRA), lower the rank to what is used, "
    "start from an orthogonal or singular-vector initialisation, and leave out modules whose adapter stays at zero.",
    references=(
        Reference(
            "Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. 2021", "https://arxiv.org/abs/2106.09685"
        ),
        Reference(
            "Kalajdzievski. A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA. 2023",
            "https://arxiv.org/abs/2312.03732",
        ),
        Reference(
            "Sun et al. SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values. 2024",
            "https://arxiv.org/abs/2409.05926",
        ),
        Reference(
            "Yang et al. CorDA: Context-Oriented Decomposition Adaptation of Large Language Models for Task-Aware "
            "Parameter-Efficient Fine-tuning. 2024",
            "https://arxiv.org/abs/2406.05223",
        ),
        Reference(
            "Po et al. Orthogonal Adaptation for Modular Customization of Diffusion Models. 2023",
            "https://arxiv.org/abs/2312.02432",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
    unmoved_metrics=(
        "dead_adapter",
        "lora_effective_rank",
        "lora_participation_ratio",
        "lora_stable_rank",
        "used_rank_share",
        "factor_imbalance",
    ),
)
def lora_spectrum(block: "Block") -> Iterator[Measurement | Skip]:
    """Does this adapter use the rank that it stores, and does it change anything?

    ## Why it matters
    An adapter adds scale·B·A to a weight. B starts at zero, so a module that never received a gradient is loaded,
    costs time and changes nothing. An adapter of rank 64 that acts in one direction could have been stored at rank 1,
    and often means that the rate of B was too low or that the scale drowned the smaller directions.

    ## How to read it
    All numbers are of the product, which is what acts: B → BR, A → R⁻¹A leaves them alone. Compare the ranks with
    their nulls, Gaussian factors of the same shapes. Trained adapters are commonly well below: a few strong directions
    are what a task needs. `lora_effective_rank` below 1.5 is one direction. `used_rank_share` counts directions above a
    thousandth of the strongest, and above rounding of the factors. `update_norm` includes the scale of
    `adapter_config.json`; the evidence says when that was not known and 1 was taken. `factor_imbalance` is negative
    while B is still small against A: −5 says that B, which starts at zero, hardly moved. An adapter that
    reached half of the gain of a sound one need not show in any of these numbers.

    ## Limits
    An adapter at step 0 is zero by construction: ask for the step. Low rank of the update is no fault in itself, and a
    rank below 4 leaves nothing to judge: the ranks are skipped there. `update_ratio` needs the base weight, and so do
    directions that the base does not have. Of DoRA only the direction part is seen, not the magnitudes. Adapters that
    are not a product of two factors (LoHa, LoKr, IA³, AdaLoRA) are skipped by name.
    """
    site = block.site.name
    first, second = block.one(Role.ADAPTER_A), block.one(Role.ADAPTER_B)
    kind = str(block.facts.get("kind", "lora"))
    if "skip" in block.facts:
        yield skip(site, str(block.facts["skip"]))
        return
    if kind not in _PRODUCTS:
        yield skip(site, f"{kind} adapter: the update is not the product of two factors")
        return
    if first is None or second is None:
        yield skip(site, "companion tensor missing: the second factor")
        return
    inner, outer = first.matrix, second.matrix
    if inner.shape[0] != outer.shape[1] or min(*inner.shape, *outer.shape) == 0:
        yield skip(site, f"factors that do not multiply: {tuple(outer.shape)} and {tuple(inner.shape)}")
        return
    values = kernels.low_rank.product_singular_values(outer, inner)
    yield from _sizes(block, first, second, float(values.norm()))
    if float(values[0]) == 0.0:
        yield skip(site, f"{_RANKS}: the update is zero")
    elif inner.shape[0] < _FEWEST_DIRECTIONS:
        yield skip(site, f"{_RANKS}: rank {inner.shape[0]} < {_FEWEST_DIRECTIONS}")
    else:
        yield from _ranks(site, first, second, values)


def _sizes(block: "Block", first: "Weight", second: "Weight", norm: float) -> Iterator[Measurement | Skip]:
    """What depends on the scale of the update, and whether there is one; `norm` is ‖BA‖_F."""
    site, rank = block.site.name, first.matrix.shape[0]
    from_norm, to_norm = first.get(kernels.spectrum.frobenius), second.get(kernels.spectrum.frobenius)
    because = "both factors are" if from_norm == to_norm == 0.0 else "B is" if to_norm == 0.0 else "A is"
    because = f"{because} zero" if 0.0 in (from_norm, to_norm) else "the factors cancel"
    yield DEAD_ADAPTER.at(site, float(norm == 0.0), 0.0, rank=rank, because=because if norm == 0.0 else "it is not")
    scale, source = _scale(block)
    evidence = {"scale": scale, "scale_from": source, "rank": rank, "target": block.facts.get("target", "")}
    yield UPDATE_NORM.at(site, abs(scale) * norm, **evidence)
    base = block.one(Role.LINEAR)
    size = base.get(kernels.spectrum.frobenius) if base is not None else 0.0
    if size > 0.0:
        yield UPDATE_RATIO.at(site, abs(scale) * norm / size, base_norm=size, **evidence)
    else:
        yield skip(site, "update_ratio: base weight not given")
    if from_norm > 0.0 and to_norm > 0.0:
        yield FACTOR_IMBALANCE.at(site, math.log(to_norm / from_norm), norms=[to_norm, from_norm])
    else:
        yield skip(site, "factor_imbalance: a factor is zero")


def _scale(block: "Block") -> tuple[float, str]:
    """The factor before B·A and where it is known from."""
    stored = block.one(Role.ADAPTER_SCALE)
    if stored is not None and stored.tensor.numel() == 1:
        return float(stored.tensor), "stored with the adapter"
    known = block.facts.get("lora_scale")
    if isinstance(known, int | float) and math.isfinite(known):
        return float(known), "configuration"
    return 1.0, "scale unknown"


def _ranks(site: str, first: "Weight", second: "Weight", values: "Tensor") -> Iterator[Measurement]:
    (rank, inputs), out = first.matrix.shape, second.matrix.shape[0]
    # scaled by σ₁, so that no square is lost
    energies = (values / values[0]).square()
    entropy_null, stable_null = kernels.low_rank.gaussian_product_ranks(out, rank, inputs)
    evidence = {"rank": rank, "sides": [out, inputs]}
    entropy_rank = kernels.spectrum.entropy_rank(energies)
    yield LORA_EFFECTIVE_RANK.at(
        site, entropy_rank, entropy_null, **evidence, singular_values=[float(f"{v:.4g}") for v in values[:128].tolist()]
    )
    ratio_null = kernels.low_rank.product_participation_null(out, rank, inputs)
    yield LORA_PARTICIPATION_RATIO.at(site, kernels.spectrum.participation_ratio(energies), ratio_null, **evidence)
    yield LORA_STABLE_RANK.at(site, float(energies.sum()), stable_null, **evidence)
    floor = max(1e-3 * float(values[0]), kernels.low_rank.product_rounding(second, first))
    used = int((values > floor).sum())
    yield USED_RANK_SHARE.at(site, used / rank, 1.0, **evidence, used=used, floor=floor)
