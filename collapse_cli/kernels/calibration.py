"""How sure against how right: calibration bins that add up, and the error that is read from them."""

import math
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["BINS", "CalibrationBins", "calibration_error", "calibration_noise"]

#: Bins of the expected calibration error of Guo et al. 2017.
BINS = 15
#: Bins of equal counts are cut out of log-odds buckets 1/128 wide, hence at most .002 of confidence: from odds of
#: e⁻²⁰ (no softmax over fewer than 5·10⁸ classes gets there) to e⁴⁰ (1 − confidence below float64's rounding).
_PER_UNIT, _LEAST, _MOST = 128, -20, 40


@final
class CalibrationBins:
    """Per bin of the confidence c: rows, Σc, rows that are right, Σc(1 − c), of labelled rows.

    `equal_width` has 15 bins (lo, hi] of [0, 1]; `equal_count` cuts 15 bins with as many rows each, a bucket of nearly
    equal confidence in proportion. What is read is float64 on the CPU.
    """

    def __init__(self) -> None:
        self._wide = torch.zeros(BINS, 4, dtype=torch.float64)
        self._fine = torch.zeros(_PER_UNIT * (_MOST - _LEAST), 4, dtype=torch.float64)

    def add(self, rest: Float[Tensor, " rows"], is_right: Bool[Tensor, " rows"]) -> None:
        """Adds rows with odds 1 : S of the predicted class against all others."""
        confidence = (1.0 + rest).reciprocal()
        doubt = rest * confidence
        columns = torch.stack((torch.ones_like(rest), confidence, is_right.double(), confidence * doubt), 1)
        wide = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
        odds = rest.log().neg_().clamp_(_LEAST, _MOST)
        fine = (odds - _LEAST).mul_(_PER_UNIT).floor_().long().clamp_(0, self._fine.shape[0] - 1)
        self._wide, self._fine = self._wide.to(rest.device), self._fine.to(rest.device)
        self._wide.index_add_(0, wide, columns)
        self._fine.index_add_(0, fine, columns)

    def merge(self, other: "CalibrationBins") -> None:
        """Adds all rows of other bins."""
        self._wide += other._wide.to(self._wide.device)
        self._fine += other._fine.to(self._fine.device)

    @property
    def equal_width(self) -> Float[Tensor, "bins 4"]:
        """Rows, Σc, right rows, Σc(1 − c) of 15 bins of equal width."""
        return self._wide.cpu()

    @property
    def equal_count(self) -> Float[Tensor, "bins 4"]:
        """The same of 15 bins with as many rows each."""
        fine = self._fine[self._fine[:, 0] > 0.0].cpu().numpy()
        if fine.shape[0] == 0:
            return torch.zeros(BINS, 4, dtype=torch.float64)
        sums = np.concatenate((np.zeros((1, 4)), fine.cumsum(0)))
        edges = np.linspace(0.0, sums[-1, 0], BINS + 1)
        cut = np.stack([np.interp(edges, sums[:, 0], sums[:, column]) for column in range(4)], 1)
        return torch.from_numpy(np.diff(cut, axis=0))


def calibration_error(bins: Float[Tensor, "bins 4"]) -> float:
    """Σ_b (n_b/N)·|acc_b − conf_b| (Naeini, Cooper & Hauskrecht 2015); 0 without rows."""
    rows = float(bins[:, 0].sum())
    return float((bins[:, 2] - bins[:, 1]).abs().sum()) / rows if rows else 0.0


def calibration_noise(bins: Float[Tensor, "bins 4"]) -> float:
    """What that error is for a perfectly calibrated model: Σ_b √((2/π)·Σ_{i∈b} c_i(1 − c_i))/N.

    A sum of independent Bernoulli errors is nearly normal, and E|N(0, σ²)| = σ√(2/π).
    """
    rows = float(bins[:, 0].sum())
    deviations = bins[:, 3].clamp_min(0.0).mul(2.0 / math.pi).sqrt()
    return float(deviations.sum()) / rows if rows else 0.0
