"""How often the codes of a quantiser are used, and what as many tokens at random could show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import BadValues, NotConverged
from collapse_cli.kernels.counts import CATEGORY_LIMIT, Counts
from collapse_cli.kernels.spectrum import MAX_EXACT_SIDE, entropy_rank
from collapse_cli.kernels.views import Activations

__all__ = [
    "CodeUsage",
    "code_usage",
    "group_perplexities",
    "perplexity",
    "perplexity_null",
    "stated_size",
    "usage_ceiling",
    "used_code_rank",
]

_BLOCK_ENTRIES = 1 << 20
#: Share of Σp‖c‖² that rounding of the mean leaves in equal codes, squared: 1e-32 in float64, with room.
_CONSTANT = 1e-28
#: Standard deviations of a binomial beyond which its tails hold less than 1e-18, on the heavy side with room for e^−x.
_TAIL, _TAIL_ROOM = 10.0, 60


@final
@dataclass(frozen=True, slots=True)
class CodeUsage:
    """Tokens per code; `source` is what says how many codes there are. Groups are empty where there are none."""

    counts: Int[Tensor, " codes"]
    source: str
    groups: Int[Tensor, " groups"]
    by_group: Int[Tensor, "groups seen"]
    has_too_many_groups: bool

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def codes(self) -> int:
        """K."""
        return self.counts.numel()


def stated_size(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> tuple[int, str] | None:
    """The number of codes and what says so: the rows of `codebook`, else the metadata; None if nothing does.

    Raises:
        BadValues: the metadata `codebook_size` is no number of codes.
    """
    if "codebook" in shapes:
        return shapes["codebook"][0], "codebook"
    if "codebook_size" not in metadata:
        return None
    stated = metadata["codebook_size"].strip()
    if not (stated.isascii() and stated.isdecimal() and 0 < len(stated) <= 18 and int(stated) > 0):
        raise BadValues(
            "the metadata codebook_size",
            expected="should be a whole number above 0",
            got=f"it is {stated[:40]!r}",
            hint="write the number of codes of the quantiser, or dump its codebook",
        )
    return int(stated), "codebook_size"


def code_usage(point: Activations) -> CodeUsage | None:
    """The usage of the codes of a hook point; None if nothing says how many codes there are, or it is beyond 2²².

    Raises:
        BadValues: a code that does not exist, or a size that is none.
    """
    size = stated_size(point.shapes, point.metadata)
    if size is None or size[0] > CATEGORY_LIMIT:
        return None
    counts: Counts = point.read("counts(codes)")
    if counts.negative or counts.beyond or counts.largest >= size[0]:
        largest = f"the largest is {counts.largest:,}" + (" or more" if counts.beyond else "")
        raise BadValues(
            "codes",
            expected=f"should lie from 0 to {size[0] - 1:,}, as {size[1]} says",
            got=f"{counts.negative:,} are negative" if counts.negative else largest,
            hint="leave padding out; dump each level of a residual quantiser as a site of its own",
        )
    grouped: Counts | None = point.read("counts(codes,groups)") if point.has("counts(codes,groups)") else None
    return CodeUsage(
        counts.histogram(size[0]),
        size[1],
        torch.zeros(0, dtype=torch.int64) if grouped is None else grouped.groups,
        torch.zeros(0, 0, dtype=torch.int64) if grouped is None else grouped.by_group,
        grouped is not None and grouped.has_too_many_groups,
    )


def perplexity(counts: Int[Tensor, " codes"]) -> float:
    """exp(−Σp log p): how many equally frequent codes have the same entropy."""
    return float(group_perplexities(counts[None])[0])


def group_perplexities(table: Int[Tensor, "groups codes"]) -> Float[Tensor, " groups"]:
    """The perplexity of every row of a table of counts."""
    shares = table.double() / table.sum(1, keepdim=True).double().clamp_min(1.0)
    result: Tensor = torch.special.entr(shares).sum(1).exp()
    return result


# --- what N tokens can show of K equally likely codes ----------------------------------------------------------------


def usage_ceiling(tokens: int, codes: int) -> float:
    """1 − (1 − 1/K)^N, the expected share of codes that N tokens meet."""
    return 1.0 if codes == 1 else -math.expm1(tokens * math.log1p(-1.0 / codes))


@cache
def perplexity_null(tokens: int, codes: int) -> float:
    """The exponential of the expected entropy log K − E[(n/λ)·log(n/λ)] of N uniform tokens, n ~ Bin(N, 1/K), λ = N/K.

    The probabilities are taken relative to the mode, by their ratios, and the tails are cut where they hold 1e-18.
    """
    if codes == 1 or tokens == 0:
        return 1.0
    mean = tokens / codes
    reach = _TAIL * math.sqrt(mean) + _TAIL_ROOM
    first, last = max(0, math.floor(mean - reach)), min(tokens, math.ceil(mean + reach))
    counts = torch.arange(first, last + 1, dtype=torch.float64)
    ratios = torch.log((tokens - counts[:-1]) / (counts[1:] * (codes - 1.0)))
    logarithms = torch.cat((torch.zeros(1, dtype=torch.float64), ratios.cumsum(0)))
    weights = (logarithms - logarithms.max()).exp()
    relative = counts / mean
    expected = float((weights * torch.special.xlogy(relative, relative)).sum() / weights.sum())
    return math.exp(math.log(codes) - expected)


# --- the codes that are used, as vectors -----------------------------------------------------------------------------


def used_code_rank(codebook: Tensor, counts: Int[Tensor, " codes"]) -> tuple[float, float] | None:
    """Entropy rank of the covariance of the codes weighted by their usage, and the same with every code alike.

    0 where the codes are equal; None where the smaller side is too large for an exact spectrum.

    Raises:
        NotConverged: LAPACK gave up.
    """
    if min(codebook.shape) > MAX_EXACT_SIDE:
        return None
    shares = counts.to(codebook.device).double() / max(int(counts.sum()), 1)
    alike = torch.full_like(shares, 1.0 / shares.numel())
    return _weighted_rank(codebook[shares > 0.0], shares[shares > 0.0]), _weighted_rank(codebook, alike)


def _weighted_rank(codes: Float[Tensor, "codes features"], weights: Float[Tensor, " codes"]) -> float:
    """Of Σp(c − m)(c − m)ᵀ, or of the Gram matrix of √p(c − m) where that is smaller."""
    side = min(codes.shape)
    step = max(1, _BLOCK_ENTRIES // max(codes.shape[1], 1))
    blocks = list(zip(torch.split(codes, step), torch.split(weights, step), strict=True))
    mean = sum((part @ block.double() for block, part in blocks), weights.new_zeros(codes.shape[1]))
    energy = sum(float(part @ block.double().square().sum(1)) for block, part in blocks)
    if codes.shape[0] <= codes.shape[1]:
        rows = (codes.double() - mean) * weights.sqrt()[:, None]
        scatter = rows @ rows.T
    else:
        scatter = weights.new_zeros(side, side)
        for block, part in blocks:
            rows = (block.double() - mean) * part.sqrt()[:, None]
            scatter.addmm_(rows.T, rows)
    if float(scatter.trace()) <= _CONSTANT * energy:
        return 0.0
    try:
        return entropy_rank(torch.linalg.eigvalsh(scatter).clamp_min(0.0))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", got=str(error)) from error
