"""Task vectors τᵢ = θᵢ − θ₀ of several descendants of one base: their Gram matrix, signs, largest entries, spaces.

All members are walked together in blocks, so that no task vector exists as a whole; sums are float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.weight_change import BINS, SHIFT, magnitude_words, places

__all__ = [
    "MAX_SIDE",
    "Residual",
    "Signs",
    "TopEntries",
    "best_combination",
    "cross_talk",
    "disagreement_null",
    "shared_energy",
    "sign_null",
    "signs",
    "task_gram",
    "top_energy_null",
    "top_entries",
]

#: Share of the entries that trimming keeps (Yadav et al. 2023).
TOP_SHARE = 0.2
#: Outputs, and inputs, up to which Gram matrices of task vectors are formed, and the bytes of all of them together.
MAX_SIDE, MAX_BYTES = 4096, 1 << 29
#: Share of the outputs in the space that is compared.
_SPACE = 10
#: float64 entries of one block of a Gram accumulation: 16 MiB.
_BLOCK_ENTRIES = 1 << 21


def _matrices(view: Comparison) -> tuple[tuple[Tensor, ...], Tensor | None]:
    base = view.base
    return tuple(one.matrix for one in view.descendants), None if base is None else base.matrix


def _blocks(view: Comparison) -> Iterator[Float[Tensor, "members entries"]]:
    """The task vectors (the weights themselves where there is no base), entry by entry, in float64."""
    matrices, base = _matrices(view)
    for place in places(matrices[0].shape, matrices[0].device):
        block = torch.stack([one[place].to(torch.float64).reshape(-1) for one in matrices])
        yield block if base is None else block - base[place].to(torch.float64).reshape(-1)


def task_gram(view: Comparison) -> Float[Tensor, "members members"]:
    """Inner products of the task vectors; of the weights themselves where there is no base."""
    count = len(view.descendants)
    total = torch.zeros(count, count, dtype=torch.float64, device=view.before.matrix.device)
    for block in _blocks(view):
        total += block @ block.T
    return total.cpu()


# --- signs ------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Signs:
    """`entries[j]`: how many entries j task vectors move; `agreement`: the sum of ∣#pos − #neg∣/#non-zero over them."""

    entries: tuple[int, ...]
    agreement: float


def signs(view: Comparison) -> Signs:
    """Whether the task vectors move entries to the same side."""
    counts = torch.zeros(len(view.descendants) + 1, dtype=torch.int64)
    agreement = 0.0
    for block in _blocks(view):
        moving = block.count_nonzero(0)
        excess = block.sign().sum(0).abs()
        agreement += float((excess / moving.clamp_min(1)).sum())
        counts += torch.bincount(moving, minlength=counts.numel()).cpu()
    return Signs(tuple(counts.tolist()), agreement)


def sign_null(tasks: int) -> float:
    """Expected ∣#pos − #neg∣/tasks of random signs: C(K−1, ⌊(K−1)/2⌋)/2^{K−1}."""
    return math.comb(tasks - 1, (tasks - 1) // 2) / 2.0 ** (tasks - 1) if tasks else 0.0


def disagreement_null(tasks: int) -> float:
    """Probability that random signs of so many tasks are not all the same."""
    return 1.0 - 2.0 ** (1 - tasks)


# --- the largest fifth ------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class TopEntries:
    """The largest fifth of each task vector: `sizes`, `energies` (their Σ over Στ²), and what they have in `common`.

    `keepers[j]`: entries that j of the sets hold; `contested`: those in two or more whose signs differ.
    """

    sizes: tuple[int, ...]
    energies: tuple[float, ...]
    common: Int[Tensor, "members members"]
    keepers: tuple[int, ...]
    contested: int


def top_energy_null() -> float:
    """Energy of the largest fifth of Gaussian entries, 2(zφ(z) + 1 − Φ(z)) with Φ(z) = 0.9: .6498."""
    normal = NormalDist()
    z = normal.inv_cdf(1.0 - TOP_SHARE / 2.0)
    return 2.0 * (z * normal.pdf(z) + 1.0 - normal.cdf(z))


def top_entries(view: Comparison) -> TopEntries:
    """The largest fifth of each task vector, exact to float32; equal entries at the cut are all in it, zeros never."""
    count = len(view.descendants)
    cuts = _cuts(view, count)
    energies, squares = torch.zeros(2, count, dtype=torch.float64)
    common = torch.zeros(count, count, dtype=torch.float64)
    keepers, contested = torch.zeros(count + 1, dtype=torch.int64), 0
    for block in _blocks(view):
        kept = torch.stack([magnitude_words(one) >= cut for one, cut in zip(block, cuts, strict=True)])
        large = torch.where(kept, block, 0.0)
        energies += large.square().sum(1).cpu()
        squares += block.square().sum(1).cpu()
        common += (kept.double() @ kept.double().T).cpu()
        keepers += torch.bincount(kept.sum(0), minlength=count + 1).cpu()
        contested += int(((large > 0).any(0) & (large < 0).any(0)).sum())
    return TopEntries(
        tuple(common.diagonal().long().tolist()),
        tuple((energies / squares.clamp_min(1e-300)).tolist()),
        common.long(),
        tuple(keepers.tolist()),
        contested,
    )


def _cuts(view: Comparison, count: int) -> list[int]:
    """For each task vector the float32 word of the smallest entry of its largest fifth, by a histogram in two steps."""
    wanted = math.ceil(TOP_SHARE * view.before.matrix.numel())
    coarse = _histogram(view, count, lambda _place, words: words >> SHIFT)
    bins = [_from_top(one, wanted) for one in coarse]
    rest = [wanted - int(one[place + 1 :].sum()) for one, place in zip(coarse, bins, strict=True)]
    fine = _histogram(view, count, lambda place, words: words[words >> SHIFT == bins[place]] & 0xFFFF)
    ends = [_from_top(one, least) for one, least in zip(fine, rest, strict=True)]
    return [max((place << SHIFT) | end, 1) for place, end in zip(bins, ends, strict=True)]


def _histogram(view: Comparison, count: int, key: Callable[[int, Tensor], Tensor]) -> Int[Tensor, "members bins"]:
    total = torch.zeros(count, max(BINS, 1 << SHIFT), dtype=torch.int64, device=view.before.matrix.device)
    for block in _blocks(view):
        for place in range(count):
            total[place] += torch.bincount(key(place, magnitude_words(block[place])), minlength=total.shape[1])
    return total.cpu()


def _from_top(histogram: Int[Tensor, " bins"], wanted: int) -> int:
    """The bin in which the `wanted` largest end."""
    above = histogram.flip(0).cumsum(0)
    return histogram.numel() - 1 - min(int((above < wanted).sum()), histogram.numel() - 1)


# --- spaces -----------------------------------------------------------------------------------------------------------


def _left_grams(view: Comparison, chosen: Sequence[int]) -> Float[Tensor, "members out out"]:
    """τᵢτᵢᵀ of the chosen task vectors, divided by its trace."""
    matrices, base = _matrices(view)
    rows = matrices[0].shape[0]
    total = torch.zeros(len(chosen), rows, rows, dtype=torch.float64, device=matrices[0].device)
    step = max(1, _BLOCK_ENTRIES // rows)
    for start in range(0, matrices[0].shape[1], step):
        columns = slice(start, start + step)
        before = 0.0 if base is None else base[:, columns].to(torch.float64)
        for place, member in enumerate(chosen):
            block = matrices[member][:, columns].to(torch.float64) - before
            total[place].addmm_(block, block.T)
    return total / total.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


def _right_products(view: Comparison, first: int, second: int) -> float:
    """‖τᵢᵀτⱼ‖_F from the inputs' side."""
    matrices, base = _matrices(view)
    rows, columns = matrices[0].shape
    total = torch.zeros(columns, columns, dtype=torch.float64, device=matrices[0].device)
    step = max(1, _BLOCK_ENTRIES // columns)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        before = 0.0 if base is None else base[block].to(torch.float64)
        left, right = (matrices[member][block].to(torch.float64) - before for member in (first, second))
        total.addmm_(left.T, right)
    return float(total.norm())


def has_left_grams(view: Comparison, members: int) -> bool:
    """Whether the Gram matrices of the outputs fit."""
    rows = view.before.matrix.shape[0]
    return rows <= MAX_SIDE and 8 * members * rows * rows <= MAX_BYTES


def cross_talk(view: Comparison, norms: Sequence[float], chosen: Sequence[int]) -> float | None:
    """Largest ‖τᵢᵀτⱼ‖_F/(‖τᵢ‖‖τⱼ‖) of two chosen task vectors; None beyond the side up to which it is computed."""
    if view.before.matrix.shape[1] > MAX_SIDE:
        return None
    return max(
        _right_products(view, one, other) / norms[one] / norms[other]
        for place, one in enumerate(chosen)
        for other in chosen[:place]
    )


def shared_energy(view: Comparison, chosen: Sequence[int]) -> tuple[float, float]:
    """Mean share of each task vector's energy in the leading tenth of the others' left space; and `cross_talk`.

    Raises:
        NotConverged: LAPACK gave up.
    """
    grams = _left_grams(view, chosen)
    everything, size = grams.sum(0), math.ceil(grams.shape[1] / _SPACE)
    shares = []
    try:
        for gram in grams:
            space = torch.linalg.eigh(everything - gram).eigenvectors[:, -size:]
            shares.append(float((space * (gram @ space)).sum()))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=view.site.name, got=str(error)) from error
    products = grams.flatten(1) @ grams.flatten(1).T
    products.fill_diagonal_(0.0)
    return sum(shares) / len(shares), math.sqrt(max(float(products.max()), 0.0))


# --- combinations -----------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Residual:
    """The member that is nearest to a combination of the others: what is left of it, and the weights of the others."""

    member: int
    residual: float
    weights: tuple[float, ...]


def best_combination(gram: Float[Tensor, "members members"]) -> Residual:
    """Least squares of each member on the rest, from their inner products; the one with the least left."""
    found = []
    scale = gram.diagonal().sqrt()
    unit = gram / scale / scale[:, None]
    for member in range(gram.shape[0]):
        rest = [other for other in range(gram.shape[0]) if other != member]
        among, with_it = unit[rest][:, rest], unit[rest, member]
        weights = torch.linalg.pinv(among, rtol=1e-12, hermitian=True) @ with_it
        left = 1.0 - 2.0 * float(weights @ with_it) + float(weights @ among @ weights)
        scaled = (weights * scale[member] / scale[rest]).tolist()
        found.append(Residual(member, math.sqrt(max(left, 0.0)), tuple(scaled)))
    return min(found, key=lambda one: one.residual)
