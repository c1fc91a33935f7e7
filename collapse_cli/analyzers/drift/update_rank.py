"""Update rank: whether an update is broad, confined to few directions, or a foreign direction on top."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, on, pair_analyzer, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.comparisons import Comparison
    from collapse_cli.kernels.update_spectrum import Update

GAUSSIAN = "a Gaussian update of the same shape"

UPDATE_EFFECTIVE_RANK = Metric(
    "update_effective_rank",
    "directions",
    "The exponential of the entropy of the energies of the update, of its singular values above rounding.",
    null=GAUSSIAN,
)
UPDATE_STABLE_RANK = Metric(
    "update_stable_rank", "directions", "The energy of the update over that of its strongest direction.", null=GAUSSIAN
)
UPDATE_RANK_90 = Metric(
    "update_rank_90",
    "directions",
    "The number of leading directions that hold 90 % of the energy of the update.",
    null=GAUSSIAN,
)
CORE_ENERGY = Metric(
    "core_energy",
    "1",
    "The share of the energy of the update between the top tenth of the singular directions before, on both sides.",
    null="an update in random directions",
)
SUBSPACE_OVERLAP = Metric(
    "subspace_overlap",
    "1",
    "The share of the top tenth of the left singular directions before that the top tenth after still spans.",
    better="higher",
    null="two random subspaces of that size",
)
INTRUDER_DIMENSIONS = Metric(
    "intruder_dimensions",
    "directions",
    "Of the ten leading left singular directions after, those with a cosine below 0.5 to every one before.",
    better="lower",
    null="no direction is new",
)
TUCKER_RANK_99 = Metric(
    "tucker_rank_99",
    "directions",
    "For each axis of a convolution, the rank that holds 99 % of the energy of the update unfolded along it.",
)


def _layer(scale: float, *shape: int, seed: int) -> object:
    import torch

    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _before() -> dict[str, object]:
    return {"features.0.weight": _layer(0.1, 16, 8, 3, 3, seed=0), "classifier.weight": _layer(0.1, 64, 96, seed=1)}


def healthy() -> Example:
    """A convolution and a linear layer that moved a little in every direction."""
    before = _before()
    after = {name: old + _layer(0.005, *old.shape, seed=2) for name, old in before.items()}  # type: ignore[attr-defined,operator]
    return Example(before, others=(after,))


def collapsed() -> Example:
    """A strong update of rank one in a direction the layer did not know."""
    import torch

    before = _before()
    after = dict(before)
    left, right = torch.nn.functional.normalize(_layer(1.0, 64, seed=3), dim=0), _layer(1.0, 96, seed=4)  # type: ignore[arg-type]
    after["classifier.weight"] = before["classifier.weight"] + torch.outer(left, right)  # type: ignore[arg-type,operator]
    return Example(before, others=(after,))


@pair_analyzer(
    name="update-rank",
    family="drift",
    title="Rank of the update",
    metrics=(
        UPDATE_EFFECTIVE_RANK,
        UPDATE_STABLE_RANK,
        UPDATE_RANK_90,
        CORE_ENERGY,
        SUBSPACE_OVERLAP,
        INTRUDER_DIMENSIONS,
        TUCKER_RANK_99,
    ),
    accepts=on.matrices(8),
    remedy="Intruder directions: shrink them (0.75 of their strength is the published mitigation), or train again with "
    "a lower rate, a lower alpha or a higher rank. An overwritten core: project the update off the top directions, or "
    "begin an adapter in the directions that the base uses least.",
    references=(
        Reference(
            "Shuttleworth et al. LoRA vs Full Fine-tuning: An Illusion of Equivalence. 2024",
            "https://arxiv.org/abs/2410.21228",
        ),
        Reference(
            "Zhao et al. GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection. 2024",
            "https://arxiv.org/abs/2403.03507",
        ),
        Reference(
            "Yang et al. CorDA: Context-Oriented Decomposition Adaptation of Large Language Models. 2024",
            "https://arxiv.org/abs/2406.05223",
        ),
        Reference(
            "Sun et al. SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values. 2024",
            "https://arxiv.org/abs/2409.05926",
        ),
        Reference(
            "Yan et al. Orthogonal Subspace Decomposition for Generalizable AI-Generated Image Detection. 2024",
            "https://arxiv.org/abs/2411.15633",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rotated", "rows_permuted"),
    # what is counted against the rounding floor moves with the largest row; the axes of a convolution do not rotate
    unmoved_metrics=("update_stable_rank", "core_energy", "subspace_overlap", "intruder_dimensions"),
)
def update_rank(view: "Comparison") -> Iterator[Measurement | Skip]:
    """Is the update broad, confined, or a foreign direction?

    ## Why it matters
    Full fine-tuning moves a weight a little in many directions and leaves its strongest ones in place. A low-rank
    update of too high a rate adds singular directions that the model never had, above those it relied on; such
    intruders go with forgetting of what is not in the fine-tuning data. An update inside the top directions rewrites
    what everything else is built on.

    ## How to read it
    `update_effective_rank`, `update_stable_rank` and `update_rank_90` say how broad the change is, against a Gaussian
    change of the same shape. `core_energy` is the share of it inside the top tenth of the directions before, on both
    sides; 1 means that only the core was rewritten. `subspace_overlap` near 1 says that the top tenth still is the
    same space. `intruder_dimensions` counts new directions among the ten strongest; the evidence gives the cosine of
    each and what a random direction would have. `tucker_rank_99` is given for each axis of a convolution.

    ## Limits
    Two files in bf16 differ by rounding in every direction: the spectrum is cut at what rounding can make, and a change
    below it is a skip. Neighbouring singular values swap order, so `subspace_overlap` falls without harm where there is
    no gap at the cut. A low rank is what adapters and closed-form edits are meant to have, and two checkpoints of early
    training, or of two seeds, have ten intruders in good health; hence nothing here is judged. Sides above 4096 are
    skipped.
    """
    kernel, name = kernels.update_spectrum, view.site.name
    rows, columns = view.before.matrix.shape
    side = min(rows, columns)
    if side > kernel.MAX_SIDE:
        yield skip(name, f"min side {side} > {kernel.MAX_SIDE}")
        return
    found = kernel.update(view)
    strongest = math.sqrt(float(found.energies[0]))
    if strongest == 0.0:
        yield skip(name, "unchanged")
        return
    if strongest <= found.floor:
        yield skip(name, "all of the change is below rounding")
        return
    yield from _ranks(name, found, (rows, columns))
    yield from _against_before(name, found, (rows, columns))
    if view.before.tensor.dim() == 4:
        for axis, rank in enumerate(kernel.tucker_ranks(view, 0.99)):
            yield TUCKER_RANK_99.at(f"{name}#mode={axis}", rank, side=view.before.tensor.shape[axis])


def _ranks(name: str, found: "Update", shape: tuple[int, int]) -> Iterator[Measurement]:
    spectrum, nulls = kernels.spectrum, kernels.random_matrix
    values = found.energies.sqrt()
    count = int((values > found.floor).sum())
    above = found.energies[:count]
    total = float(found.energies.sum())
    edge = math.sqrt(total / (shape[0] * shape[1])) * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    yield UPDATE_EFFECTIVE_RANK.at(
        name,
        spectrum.entropy_rank(above),
        nulls.effective_rank_lambda_null(*shape),
        side=min(shape),
        above_rounding=count,
        floor=found.floor,
        spectrum=spectrum.spectrum_curve(values, edge),
    )
    yield UPDATE_STABLE_RANK.at(name, total / float(above[0]), nulls.stable_rank_null(*shape), side=min(shape))
    rank, null = spectrum.energy_rank(above, 0.9), nulls.energy_rank_null(*shape, 0.9)
    yield UPDATE_RANK_90.at(name, rank, null, side=min(shape))


def _against_before(name: str, found: "Update", shape: tuple[int, int]) -> Iterator[Measurement | Skip]:
    if found.core_energy is None or found.overlap is None:
        yield skip(name, "core_energy, subspace_overlap, intruder_dimensions: all zero before")
        return
    rows, columns = shape
    yield CORE_ENERGY.at(name, found.core_energy, found.core**2 / (rows * columns), directions=found.core)
    yield SUBSPACE_OVERLAP.at(name, found.overlap, found.core / rows, directions=found.core)
    yield INTRUDER_DIMENSIONS.at(
        name,
        sum(cosine < kernels.update_spectrum.FOREIGN for cosine in found.cosines),
        0.0,
        directions=len(found.cosines),
        largest_cosines=[round(cosine, 4) for cosine in found.cosines],
        random_cosine=kernels.update_spectrum.random_cosine(rows, columns),
    )
