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
    """How the rows of an attention block divide into heads: `heads` of `width` rows, `kv_heads` of them with own keys."""

    heads: int
    kv_heads: int
    width: int


def attention_heads(block: Block) -> AttentionHeads | str:
    """The division into heads from the configuration and the shapes, or the reason why there is none."""
    query, key, heads = block.one(Role.ATTENTION_Q), block.one(Role.ATTENTION_K), block.facts.get("heads")
    if query is None or key is None:
        return "companion tensor missing: query or key weight"
    if not isinstance(heads, int) or heads < 1:
        return "number of heads unknown: no config.json beside the file"
    rows, key_rows = query.matrix.shape[0], key.matrix.shape[0]
    width = rows // heads
    if width == 0 or rows % heads:
        return f"{rows} query rows do not divide into {heads} heads"
    if key_rows % width or key_rows == 0 or heads % (key_rows // width):
        return f"{key_rows} key rows do not divide into groups of {heads} heads of {width}"
    return AttentionHeads(heads, key_rows // width, width)


def _per_head(weight: Weight, block: Block, count: int) -> Float[Tensor, "heads rows in"]:
    """A weight as float64 heads, with the gain of the norm before the block folded into its input."""
    matrix = weight.matrix.double()
    gain = block.one(Role.NORM_GAIN)
    if gain is not None and gain.matrix.numel() == matrix.shape[1]:
        matrix = matrix * (gain.matrix.double().reshape(-1) + float(block.facts.get("norm_offset") or 0.0))
    return matrix.reshape(count, -1, matrix.shape[1])


def _factors(block: Block) -> tuple[Float[Tensor, "heads rows in"], Float[Tensor, "kv_heads rows in"], AttentionHeads]:
    division = block.get(attention_heads)
    query, key = block.one(Role.ATTENTION_Q), block.one(Role.ATTENTION_K)
    if isinstance(division, str) or query is None or key is None:
        raise ValueError(f"{block.site.name}: ask attention_heads first")
    return _per_head(query, block, division.heads), _per_head(key, block, division.kv_heads), division


def logit_spectrum(block: Block) -> Float[Tensor, "heads rank"]:
    """Singular values of M = W_QᵀW_K/√d_h of every head, descending, float64 on the CPU; grouped keys are repeated.

    Raises:
        ValueError: the block does not divide into heads; ask `attention_heads` first.
        NotConverged: LAPACK gave up.
    """
    queries, keys, division = block.get(_factors)
    try:
        values = _product_singular_values(queries, keys, division.heads // division.kv_heads)
    except LinAlgError as error:
        raise NotConverged("the singular value solver did not converge", where=block.site.name, got=str(error)) from error
    return values / math.sqrt(division.width)


def _product_singular_values(
    left: Float[Tensor, "heads rows in"], right: Float[Tensor, "kv_heads rows in"], repeats: int
) -> Float[Tensor, "heads rank"]:
    """Singular values of leftᵀ·right per head, from the triangular factors."""
    first = torch.linalg.qr(left.mT, mode="r").R
    second = torch.linalg.qr(right.mT, mode="r").R.repeat_interleave(repeats, dim=0)
    values: Tensor = torch.linalg.svdvals(first @ second.mT)
    return values.cpu()


@functools.cache
def logit_matrix_null(inputs: tuple[int, int], width: int) -> tuple[float, float]:
    """‖M‖₂ and stable rank of M when W_Q and W_K (width × inputs) have Gaussian entries of variance 1/inputs.

    The mean of four seeded draws of the triangular factors, whose law is exact: diagonal χ with d, d − 1, … degrees of
    freedom, standard normal above it (Bartlett 1933).
    """
    generator = np.random.default_rng(0)
    norms, ranks = [], []
    for _ in range(_DRAWS):
        first, second = (_gaussian_triangle(d, width, generator) / math.sqrt(d) for d in inputs)
        values = np.linalg.svd(first @ second.T / math.sqrt(width), compute_uv=False)
        norms.append(float(values[0]))
        ranks.append(float((values**2).sum() / values[0] ** 2))
    return sum(norms) / _DRAWS, sum(ranks) / _DRAWS


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
    first, second = (gain.tensor.double().abs() if offset == 0.0 else (gain.tensor.double() + offset).abs() for gain in gains[:2])
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
        return _ENTROPIES[last] * 2.0 ** ((last - position) / _PER_OCTAVE)
    start = min(int(position) - 1, last - 3)
    nodes = range(start, start + 4)
    return sum(
        _ENTROPIES[node] * math.prod((position - other) / (node - other) for other in nodes if other != node)
        for node in nodes
    )


def entropy_floor(norm: float, tokens: int = TOKENS) -> float:
    """The least entropy, over ln T, of the softmax of T logits with Euclidean norm `norm` about their mean.

    [ln(1+(T−1)β) + a√(T(T−1))β/(1+(T−1)β)]/ln T, β = exp(−a√(T/(T−1))); reached by one logit apart from equal others
    (Zhai et al. 2023, theorem 3.1).
    """
    decay = math.exp(-norm * math.sqrt(tokens / (tokens - 1)))
    if decay == 0.0:
        return 0.0
    total = 1.0 + (tokens - 1) * decay
    gap = norm * math.sqrt(tokens * (tokens - 1)) * decay / total
    return (math.log(total) + gap) / math.log(tokens)


def query_key_products(block: Block) -> Float[Tensor, "heads heads"]:
    """⟨M_h, M_g⟩_F of the logit matrices W_QᵀW_K of every two heads, float64 on the CPU, without the factor 1/d_h."""
    queries, keys, _ = block.get(_factors)
    return _map_products(queries, keys)


def output_value_products(block: Block) -> Float[Tensor, "heads heads"] | None:
    """⟨M_h, M_g⟩_F of M = W_O·W_V of every two heads, float64 on the CPU; `None` where weights are missing or do not fit."""
    division = block.get(attention_heads)
    value, output = block.one(Role.ATTENTION_V), block.one(Role.ATTENTION_O)
    if isinstance(division, str) or value is None or output is None:
        return None
    heads, kv_heads = division.heads, division.kv_heads
    rows, columns = value.matrix.shape[0], output.matrix.shape[1]
    if rows == 0 or rows % kv_heads or columns != rows // kv_heads * heads:
        return None
    outputs = output.matrix.double().T.reshape(heads, rows // kv_heads, -1)
    return _map_products(outputs, _per_head(value, block, kv_heads))


def _map_products(
    left: Float[Tensor, "heads rows out"], right: Float[Tensor, "kv_heads rows in"]
) -> Float[Tensor, "heads heads"]:
    """⟨AᵀB, CᵀD⟩ = ⟨ACᵀ, BDᵀ⟩ for all pairs of heads: row products only, in blocks of heads, each pair once."""
    heads, rows, _ = left.shape
    group = heads // right.shape[0]
    flat_left = left.reshape(heads * rows, -1)
    flat_right = right.reshape(right.shape[0] * rows, -1)
    result = torch.zeros(heads, heads, dtype=torch.float64, device=left.device)
    # whole groups per step, so that the product of keys is shared by its heads
    step = max(1, _BLOCK_ENTRIES // max(rows * rows * heads * group, 1))
    for start in range(0, right.shape[0], step):
        stop = min(start + step, right.shape[0])
        first = start * group
        ours = left[first : stop * group].reshape(-1, flat_left.shape[1]) @ flat_left[first * rows :].T
        theirs = right[start:stop].reshape(-1, flat_right.shape[1]) @ flat_right[start * rows :].T
        ours = ours.reshape(stop - start, group, rows, -1, group, rows)
        theirs = theirs.reshape(stop - start, 1, rows, -1, 1, rows)
        inner = (ours * theirs).sum((2, 5)).reshape((stop - start) * group, heads - first)
        result[first : stop * group, first:] = inner
        result[first:, first : stop * group] = inner.T
    return result.cpu()


def map_cosines(products: Float[Tensor, "heads heads"]) -> tuple[Float[Tensor, "live live"], Float[Tensor, " heads"]]:
    """Cosines of the maps of the heads that are not zero, and the norm of every head."""
    norms = products.diagonal().clamp_min(0.0).sqrt()
    live = norms > 0.0
    scale = norms[live]
    cosines = (products[live][:, live] / torch.outer(scale, scale)).clamp(-1.0, 1.0)
    return cosines, norms
