"""What the query, key, value and output weights of an attention head do together, without ever forming a d × d matrix.

With W_Q, W_K of a head (d_h × d) its logit matrix is M = W_QᵀW_K/√d_h: the part that no change of basis inside the head
moves. Its spectrum is that of R_Q·R_Kᵀ (d_h × d_h), R from the QR decompositions of W_Qᵀ and W_Kᵀ.
"""

import functools
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.core.site import Role
from collapse_cli.errors import NotConverged
from collapse_cli.kernels.views import Block, Weight

__all__ = [
    "TOKENS",
    "AttentionHeads",
    "attention_heads",
    "cosine_eigenvalues",
    "entropy_floor",
    "logit_matrix_null",
    "logit_spectrum",
    "map_cosines",
    "normalised_logit_bound",
    "output_value_products",
    "query_key_products",
    "softmax_entropy",
]

#: Length of the context for which entropies are stated.
TOKENS = 1024
#: float64 entries of one working block: 32 MiB.
_BLOCK_ENTRIES = 1 << 22
#: E H(softmax(s·z))/ln T for z ~ N(0, I), T = 1024, at s = ¼·2^(k/4), k = 0 … 36: E H = F − s·F′ with
#: F(s) = E ln Σe^{szᵢ} = ∫(e^{−e^u} − L(u)^T) du, L(u) = E exp(−e^{u+sz}) (Frullani), by the trapezoidal rule.
_ENTROPIES = (
    0.995496, 0.993631, 0.990994, 0.987264, 0.981992, 0.974538, 0.964003, 0.949122, 0.928125, 0.898572,
    0.857244, 0.800402, 0.725182, 0.632583, 0.529898, 0.428646, 0.338839, 0.265175, 0.207530, 0.163369,
    0.129669, 0.103806, 0.083761, 0.068052, 0.055612, 0.045666, 0.037651, 0.031145, 0.025835, 0.021478,
    0.017890, 0.014925, 0.012467, 0.010426, 0.008726, 0.007309, 0.006126,
)  # fmt: skip
_FIRST, _PER_OCTAVE = 0.25, 4
#: Draws of the null of one shape: the spectral norm of a 64 × 64 product then stands to 1 %.
_DRAWS = 4


@final
@dataclass(frozen=True, slots=True)
class AttentionHeads:
    """Heads of an attention block: `heads` of `width` query rows each, sharing the keys of `kv_heads`."""

    heads: int
    kv_heads: int
    width: int


def attention_heads(block: Block) -> AttentionHeads | str:
    """The division into heads from the configuration and the shapes, or the reason why there is none."""
    query, key, heads = block.one(Role.ATTENTION_Q), block.one(Role.ATTENTION_K), block.facts.get("heads")
    if query is None or key is None:
        return "companion tensor missing: query or key weight"
    if not isinstance(heads, int) or heads < 1:
        return "number of heads unknown: no config.json beside the file gives it"
    rows, key_rows = query.matrix.shape[0], key.matrix.shape[0]
    width = rows // heads
    if width == 0 or rows % heads:
        return f"{rows} query rows do not divide into {heads} heads"
    if key_rows % width or key_rows == 0 or heads % (key_rows // width):
        return f"{key_rows} key rows do not divide into groups of {heads} heads of {width}"
    return AttentionHeads(heads, key_rows // width, width)


@final
@dataclass(frozen=True, slots=True)
class _HeadRows:
    """A weight whose rows divide into heads; a few heads at a time become float64, with the input gain folded in."""

    matrix: Float[Tensor, "out in"]
    heads: int
    gain: Float[Tensor, " in"] | None = None

    @property
    def width(self) -> int:
        return self.matrix.shape[0] // self.heads

    def some(self, start: int, stop: int) -> Float[Tensor, "heads rows in"]:
        rows = self.matrix[start * self.width : stop * self.width].double()
        if self.gain is not None:
            rows = rows * self.gain
        return rows.reshape(stop - start, self.width, -1)

    def groups_per_step(self, group: int) -> int:
        return max(1, _BLOCK_ENTRIES // max(group * self.width * self.matrix.shape[1], 1))


def _head_rows(weight: Weight, block: Block, heads: int) -> _HeadRows:
    gain = block.one(Role.NORM_GAIN)
    if gain is None or gain.matrix.numel() != weight.matrix.shape[1]:
        return _HeadRows(weight.matrix, heads)
    offset = float(block.facts.get("norm_offset") or 0.0)
    return _HeadRows(weight.matrix, heads, gain.matrix.double().reshape(-1) + offset)


def _factors(block: Block) -> tuple[_HeadRows, _HeadRows]:
    division = block.get(attention_heads)
    query, key = block.one(Role.ATTENTION_Q), block.one(Role.ATTENTION_K)
    if isinstance(division, str) or query is None or key is None:
        raise ValueError(f"{block.site.name}: ask attention_heads first")
    return _head_rows(query, block, division.heads), _head_rows(key, block, division.kv_heads)


def logit_spectrum(block: Block) -> Float[Tensor, "heads rank"]:
    """Singular values of M = W_QᵀW_K/√d_h of every head, descending, float64 on the CPU; grouped keys are repeated.

    Raises:
        ValueError: the block does not divide into heads; ask `attention_heads` first.
        NotConverged: LAPACK gave up.
    """
    queries, keys = block.get(_factors)
    group = queries.heads // keys.heads
    step = queries.groups_per_step(group)
    parts = []
    for start in range(0, keys.heads, step):
        stop = min(start + step, keys.heads)
        try:
            first = torch.linalg.qr(queries.some(start * group, stop * group).mT, mode="r").R
            second = torch.linalg.qr(keys.some(start, stop).mT, mode="r").R.repeat_interleave(group, dim=0)
            parts.append(torch.linalg.svdvals(first @ second.mT).cpu())
        except LinAlgError as error:
            where = block.site.name
            raise NotConverged("the singular value solver did not converge", where=where, got=str(error)) from error
    return torch.cat(parts) / math.sqrt(queries.width)


@functools.cache
def logit_matrix_null(inputs: tuple[int, int], width: int) -> tuple[float, float, float]:
    """‖M‖₂, stable rank and ‖M‖_*²/(d_h‖M‖_F²) of M for Gaussian W_Q, W_K (width × inputs) of variance 1/inputs.

    The mean of four seeded draws of the triangular factors, whose law is exact: diagonal χ with d, d − 1, … degrees of
    freedom, standard normal above it (Bartlett 1933).
    """
    generator = np.random.default_rng(0)
    norms, ranks, shares = [], [], []
    for _ in range(_DRAWS):
        first, second = (_gaussian_triangle(d, width, generator) / math.sqrt(d) for d in inputs)
        values = np.linalg.svd(first @ second.T / math.sqrt(width), compute_uv=False)
        norms.append(float(values[0]))
        energy = float((values**2).sum())
        ranks.append(energy / norms[-1] ** 2)
        shares.append(float(values.sum()) ** 2 / (width * energy))
    return sum(norms) / _DRAWS, sum(ranks) / _DRAWS, sum(shares) / _DRAWS


def _gaussian_triangle(rows: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    size = min(rows, columns)
    triangle = np.triu(generator.standard_normal((size, columns)), 1)
    triangle[np.arange(size), np.arange(size)] = np.sqrt(generator.chisquare(rows - np.arange(size)))
    return triangle


def normalised_logit_bound(block: Block) -> list[float] | None:
    """√d_h·max∣γ_qγ_k∣ per head, or one for all: the largest logit after query and key are normalised with gains γ.

    Gains of one head's width serve all heads alike; gains of the whole width normalise all heads together, whose length
    √(H·d_h) a single head may then hold. `None` without gains.
    """
    gains = block.all(Role.ATTENTION_QK_NORM)
    division = block.get(attention_heads)
    if len(gains) < 2 or isinstance(division, str):
        return None
    offset = float(block.facts.get("norm_offset") or 0.0)
    first, second = ((gain.tensor.double() + offset).abs() for gain in gains[:2])
    scale = math.sqrt(division.width)
    if first.numel() == second.numel() == division.width:
        return [scale * float((first.reshape(-1) * second.reshape(-1)).max())]
    if first.dim() == 2 and first.shape == second.shape and first.shape[0] == division.heads:
        return [scale * float(peak) for peak in (first * second).amax(1)]
    if first.numel() == 0 or second.numel() == 0:
        return None
    together = math.sqrt(first.numel() * second.numel()) / division.width
    return [scale * together * float(first.max()) * float(second.max())]


def softmax_entropy(scale: float) -> float:
    """E H(softmax(s·z))/ln T for z ~ N(0, I_T), T = 1024: 1 uniform, 0 one token. To 1e-4, by interpolation in ln s."""
    if scale < _FIRST * 2.0 ** (1 / _PER_OCTAVE):
        return 1.0 - scale * scale / (2.0 * math.log(TOKENS))
    last = len(_ENTROPIES) - 1
    position = _PER_OCTAVE * math.log2(scale / _FIRST)
    if position >= last:
        # beyond the freezing point s = √(2 ln T) the entropy falls like 1/s
        return _ENTROPIES[last] * math.exp2((last - position) / _PER_OCTAVE)
    start = min(int(position) - 1, last - 3)
    value = 0.0
    for node in range(start, start + 4):
        others = (other for other in range(start, start + 4) if other != node)
        value += _ENTROPIES[node] * math.prod((position - other) / (node - other) for other in others)
    return value


def entropy_floor(norm: float, tokens: int = TOKENS) -> float:
    """The least entropy, over ln T, of the softmax of T logits with Euclidean norm `norm` about their mean.

    [ln(1+(T−1)β) + a√(T(T−1))β/(1+(T−1)β)]/ln T, β = exp(−a√(T/(T−1))); reached by one logit apart from equal others
    (Zhai et al. 2023).
    """
    decay = math.exp(-norm * math.sqrt(tokens / (tokens - 1)))
    if decay == 0.0:
        return 0.0
    total = 1.0 + (tokens - 1) * decay
    gap = norm * math.sqrt(tokens * (tokens - 1)) * decay / total
    return (math.log(total) + gap) / math.log(tokens)


def query_key_products(block: Block) -> Float[Tensor, "heads heads"]:
    """⟨M_h, M_g⟩_F of the logit matrices W_QᵀW_K of every two heads, float64 on the CPU, without the factor 1/d_h."""
    return _map_products(*block.get(_factors))


def output_value_products(block: Block) -> Float[Tensor, "heads heads"] | None:
    """⟨M_h, M_g⟩_F of M = W_O·W_V of every two heads, float64, CPU; `None` if weights are missing or do not fit."""
    division = block.get(attention_heads)
    value, output = block.one(Role.ATTENTION_V), block.one(Role.ATTENTION_O)
    if isinstance(division, str) or value is None or output is None:
        return None
    rows, columns = value.matrix.shape[0], output.matrix.shape[1]
    if rows == 0 or rows % division.kv_heads or columns != rows // division.kv_heads * division.heads:
        return None
    outputs = _HeadRows(output.matrix.T, division.heads)
    return _map_products(outputs, _head_rows(value, block, division.kv_heads))


def _map_products(left: _HeadRows, right: _HeadRows) -> Float[Tensor, "heads heads"]:
    """⟨AᵀB, CᵀD⟩ = ⟨ACᵀ, BDᵀ⟩ for all pairs of heads: row products only, in blocks of whole groups, each pair once."""
    group, width = left.heads // right.heads, left.width
    step = left.groups_per_step(group)
    result = torch.zeros(left.heads, left.heads, dtype=torch.float64)
    bounds = [(start, min(start + step, right.heads)) for start in range(0, right.heads, step)]
    for place, (start, stop) in enumerate(bounds):
        ours, theirs = left.some(start * group, stop * group).flatten(0, 1), right.some(start, stop).flatten(0, 1)
        for low, high in bounds[place:]:
            first = ours @ left.some(low * group, high * group).flatten(0, 1).T
            second = theirs @ right.some(low, high).flatten(0, 1).T
            first = first.reshape(stop - start, group, width, high - low, group, width)
            # the product of keys or values is shared by all heads of its group
            second = second.reshape(stop - start, 1, width, high - low, 1, width)
            inner = (first * second).sum((2, 5)).reshape((stop - start) * group, (high - low) * group).cpu()
            result[start * group : stop * group, low * group : high * group] = inner
            result[low * group : high * group, start * group : stop * group] = inner.T
    return result


def map_cosines(products: Float[Tensor, "heads heads"]) -> tuple[Float[Tensor, "live live"], Float[Tensor, " heads"]]:
    """Cosines of the maps of the heads that are not zero, and the norm of every head."""
    norms = products.diagonal().clamp_min(0.0).sqrt()
    live = norms > 0.0
    scale = norms[live]
    cosines = (products[live][:, live] / torch.outer(scale, scale)).clamp(-1.0, 1.0)
    return cosines, norms


def cosine_eigenvalues(cosines: Float[Tensor, "live live"]) -> Float[Tensor, " live"]:
    """Eigenvalues of a matrix of cosines; rounding below 1e-12 of their sum is set to 0.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        values: Tensor = torch.linalg.eigvalsh(cosines)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", got=str(error)) from error
    return values.masked_fill(values < 1e-12 * cosines.shape[0], 0.0)
