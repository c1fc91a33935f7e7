"""How alike the tokens of a sequence are: sums over sequences of what is measured inside each."""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch, finite_rows
from collapse_cli.kernels.real_rows import real_positions
from collapse_cli.kernels.token_pairs import TokenPairs

__all__ = ["MIN_TOKENS", "WHITE_HIGH_FREQUENCY", "ScalarSums", "TokenMoments", "content_positions"]

#: Shorter sequences are left out: the residual of T tokens is bounded by √((T − 1)/T), 6 % below one at 8.
MIN_TOKENS = 8
#: Where no entry is larger, squares are 0 in float64, and the sequence counts as zero.
_SMALLEST = 1e-150
#: ‖DC‖ beside ‖X‖ that float64 sums leave of tokens whose mean is zero.
_ROUNDING = 1e-12
#: E log of a Rayleigh amplitude minus that of ∣N(0, 1)∣ of the same power: −γ/2 + (γ + log 2)/2.
WHITE_HIGH_FREQUENCY: Final = 0.5 * math.log(2.0)
#: Added to the amplitude inside the logarithm (`fourier` of the code of Park et al. 2023).
_AMPLITUDE_FLOOR = 1e-6


@final
@dataclass(slots=True)
class ScalarSums:
    """Count, mean, Σ(x − mean)², smallest and largest of a number that each sequence has; mean 0 of none."""

    count: int = 0
    mean: float = 0.0
    scatter: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    def add(self, values: Float[Tensor, " sequences"]) -> None:
        """Adds the numbers of some sequences."""
        if values.numel():
            mean = values.mean()
            scatter = float((values - mean).square().sum())
            self.join(ScalarSums(values.numel(), float(mean), scatter, float(values.min()), float(values.max())))

    def join(self, other: "ScalarSums") -> None:
        """Adds those of other sequences."""
        both = self.count + other.count
        if both == 0:
            return
        step = other.mean - self.mean
        self.scatter += other.scatter + step * step * self.count * other.count / both
        self.mean += step * other.count / both
        self.count = both
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)

    @property
    def standard_error(self) -> float:
        """That of the mean, from the spread between sequences; 0 of fewer than two."""
        return math.sqrt(self.scatter / (self.count - 1) / self.count) if self.count > 1 else 0.0


@final
class TokenMoments:
    """Per sequence of at least 8 real tokens: cosine, residual, HC/DC, high frequency; and the sums Σ_t z_t of all.

    Real tokens are those of `mask`, without the `leading` first ones. `sequences` were used; `short`, `non_finite` and
    `zero` ones (all tokens 0) were left out. What stands in padding does not matter. A token that is zero has no
    direction and is in no cosine. `between_cosine` is the mean cosine of tokens of different sequences.
    """

    def __init__(self, role: str = "tokens", *, leading: int = 0, grid: tuple[int, ...] = (), seed: int = 0) -> None:
        self.role, self.leading, self.grid = role, leading, grid
        self.sequences = self.short = self.non_finite = self.zero = self.tokens = self.zero_tokens = 0
        self._sums = {name: ScalarSums() for name in _SCALARS}
        self._directions = torch.zeros(0, dtype=torch.float64)
        self._square_directions = 0.0
        self._directed = self._square_directed = 0
        self.pairs = TokenPairs(seed=seed)

    def update(self, batch: Batch) -> None:
        """Adds the sequences of a batch."""
        valid = content_positions(batch, self.leading)
        held = valid.any(0).nonzero().flatten()
        if held.numel() == 0:
            self.short += batch.count
            return
        # columns that hold padding alone cost as much as others
        columns = slice(int(held[0]), int(held[-1]) + 1)
        valid = valid[:, columns]
        filled = torch.where(valid[:, :, None], batch.roles[self.role][:, columns], 0.0)
        lengths = valid.sum(1)
        is_finite = finite_rows(filled)
        is_long = lengths >= MIN_TOKENS
        self.non_finite += int((~is_finite).sum())
        self.short += int((is_finite & ~is_long).sum())
        used = is_finite & is_long & (filled.abs() > _SMALLEST).flatten(1).any(1)
        self.zero += int((is_finite & is_long & ~used).sum())
        if not bool(used.any()):
            return
        sequences = _Sequences(filled[used].to(torch.float64), valid[used])
        self.sequences += sequences.rows.shape[0]
        self.tokens += int(lengths[used].sum())
        units = self._add_cosines(sequences)
        for name, values in _shape_scalars(sequences).items():
            self._sums[name].add(values)
        if len(self.grid) == 2:
            self._sums["high_frequency"].add(_half_band_log_ratio(sequences, (self.grid[0], self.grid[1])))
        labels = batch.roles.get("token_labels")
        if labels is not None and labels.shape == batch.roles[self.role].shape[:2]:
            labels = labels[:, columns].to(valid.device)[used]
            self.pairs.offer(units, labels, sequences.valid, index=batch.indices[used])

    def _add_cosines(self, sequences: "_Sequences") -> Float[Tensor, "sequences tokens features"]:
        norms: Tensor = torch.linalg.vector_norm(sequences.rows, dim=2)
        units = sequences.rows / torch.where(norms > 0.0, norms, 1.0)[:, :, None]
        directed = ((norms > 0.0) & sequences.valid).sum(1)
        self.zero_tokens += int(sequences.valid.sum() - directed.sum())
        sums = units.sum(1)
        squares = sums.square().sum(1)
        several = directed >= 2
        count = directed[several].to(torch.float64)
        self._sums["cosine"].add((squares[several] - count) / (count * (count - 1.0)))
        if self._directions.numel() == 0:
            self._directions = sums.new_zeros(sums.shape[1])
        self._directions = self._directions + sums.sum(0)
        self._square_directions += float(squares.sum())
        self._directed += int(directed.sum())
        self._square_directed += int(directed.square().sum())
        return units

    def merge(self, other: "TokenMoments") -> None:
        """Adds all sequences of another accumulator that looks at tokens in the same way."""
        if (other.role, other.leading, other.grid) != (self.role, self.leading, self.grid):
            raise ValueError("moments of tokens that are laid out differently do not merge")
        for name in ("sequences", "short", "non_finite", "zero", "tokens", "zero_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, sums in other._sums.items():
            self._sums[name].join(sums)
        if other._directions.numel():
            here = self._directions if self._directions.numel() else torch.zeros_like(other._directions)
            self._directions = here + other._directions.to(here.device)
        self._square_directions += other._square_directions
        self._directed += other._directed
        self._square_directed += other._square_directed
        self.pairs.merge(other.pairs)

    def of(self, name: str) -> ScalarSums:
        """Sums of `cosine`, `residual`, `hc_dc`, `high_frequency`, `composite`, or of their chance values."""
        return self._sums[name]

    @property
    def means(self) -> dict[str, float]:
        """The mean over sequences of every one of them."""
        return {name: sums.mean for name, sums in self._sums.items()}

    @property
    def standard_errors(self) -> dict[str, float]:
        """The standard error of each mean."""
        return {name: sums.standard_error for name, sums in self._sums.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many sequences have each of them."""
        return {name: sums.count for name, sums in self._sums.items()}

    @property
    def between_cosine(self) -> float | None:
        """(‖S‖² − Σ‖S_n‖²)/((ΣT_n)² − ΣT_n²); None with fewer than two sequences."""
        pairs = self._directed**2 - self._square_directed
        if pairs <= 0:
            return None
        return (float(self._directions.square().sum()) - self._square_directions) / pairs


_SCALARS = ("cosine", "residual", "hc_dc", "high_frequency", "composite", "residual_null", "hc_dc_null")


class _Sequences(NamedTuple):
    """Sequences in float64, zero where they hold no token, and where they hold one."""

    rows: Float[Tensor, "sequences tokens features"]
    valid: Bool[Tensor, "sequences tokens"]


def content_positions(batch: Batch, leading: int) -> Bool[Tensor, "samples tokens"]:
    """Positions of real tokens but the first `leading` real ones of each sequence, whichever side is padded."""
    valid = real_positions(batch)
    return valid & (valid.cumsum(1) > leading) if leading else valid


def _shape_scalars(sequences: _Sequences) -> dict[str, Float[Tensor, " some"]]:
    """Residual r = ‖X − 1x̄ᵀ‖/‖X‖, ‖HC‖/‖DC‖, the composite norm of Dong et al. 2021, and their values by chance."""
    rows, valid = sequences
    lengths = valid.sum(1).to(torch.float64)
    energy = rows.square().sum((1, 2))
    # about the first token, so that equal tokens leave exactly nothing
    first = rows[torch.arange(rows.shape[0], device=rows.device), valid.int().argmax(1)]
    steps = torch.where(valid[:, :, None], rows - first[:, None], 0.0)
    drift = steps.sum(1) / lengths[:, None]
    rest = torch.where(valid[:, :, None], steps - drift[:, None], 0.0)
    high: Tensor = torch.linalg.vector_norm(rest, dim=(1, 2))
    constant = lengths.sqrt() * torch.linalg.vector_norm(first + drift, dim=1)
    norm = energy.sqrt()
    has_energy = norm > 0.0
    has_constant = has_energy & (constant > _ROUNDING * norm)
    return {
        "residual": (high / norm)[has_energy],
        "residual_null": ((lengths - 1.0) / lengths).sqrt()[has_energy],
        "hc_dc": (high / constant)[has_constant],
        "hc_dc_null": (lengths - 1.0).sqrt()[has_constant],
        "composite": (_composite_norm(rest) / _composite_norm(rows))[has_energy],
    }


def _composite_norm(rows: Float[Tensor, "sequences tokens features"]) -> Float[Tensor, " sequences"]:
    """√(‖·‖₁‖·‖_∞): the largest absolute column sum times the largest absolute row sum."""
    magnitudes = rows.abs()
    return (magnitudes.sum(1).amax(1) * magnitudes.sum(2).amax(1)).sqrt()


def _half_band_log_ratio(sequences: _Sequences, grid: tuple[int, int]) -> Float[Tensor, " whole"]:
    """Mean over channels of log∣F∣ at the last bin of the half diagonal minus at bin 0 of the 2-D Fourier transform.

    Of the sequences that fill the grid. The two bins are sums over tokens, so no transform is taken.
    """
    rows, valid = sequences
    height, width = grid
    fills = valid.sum(1) == height * width
    whole = rows[fills][valid[fills]].reshape(-1, height * width, rows.shape[2])
    down, across = math.ceil(height / 2) - 1, math.ceil(width / 2) - 1
    place = torch.arange(height * width, device=rows.device)
    angle = 2.0 * math.pi * (down * (place // width) / height + across * (place % width) / width)
    real = torch.einsum("t,ntd->nd", angle.to(torch.float64).cos(), whole)
    imaginary = torch.einsum("t,ntd->nd", angle.to(torch.float64).sin(), whole)
    high = torch.hypot(real, imaginary) + _AMPLITUDE_FLOOR
    return (high.log() - (whole.sum(1).abs() + _AMPLITUDE_FLOOR).log()).mean(1)
