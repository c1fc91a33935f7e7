"""Vendi score against the eigenvalues of the whole kernel; entropy of nearest distances against a Gaussian's."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from collapse_cli.kernels.vendi import nearest_entropy, vendi_null, vendi_scores


def dense(rows: np.ndarray, order: float) -> float:
    """The definition of Friedman & Dieng 2023 on the M × M kernel of cosines (arXiv:2210.02410, definitions 3.1, 7)."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.svd(units @ units.T / len(rows), compute_uv=False)
    values = values[values > 1e-14]
    if order == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    return float((values**order).sum() ** (1.0 / (1.0 - order)))


def gaussian(count: int = 300, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, width))


def test_golden_numbers_of_the_published_package() -> None:
    # vendi-score's `score_dual` on these rows, q = 1 and q = 2
    scores = vendi_scores(torch.from_numpy(gaussian()))
    assert scores == pytest.approx((15.6629, 15.3476), abs=5e-5)
    assert vendi_null(300, 16) == pytest.approx(15.579, abs=5e-4) == vendi_null(16, 300)


@pytest.mark.parametrize("shape", [(300, 16), (20, 64), (16, 16)])
def test_is_the_definition_whichever_gram_is_smaller(shape: tuple[int, int]) -> None:
    rows = gaussian(*shape)
    scores = vendi_scores(torch.from_numpy(rows))
    assert scores == pytest.approx((dense(rows, 1), dense(rows, 2)), rel=1e-8)


def test_orthogonal_points_count_as_many() -> None:
    assert vendi_scores(torch.eye(5, 8).repeat_interleave(16, 0)) == pytest.approx((5.0, 5.0), rel=1e-12)


@pytest.mark.parametrize("shape", [(200, 16), (16, 200)])
def test_one_point_counts_as_one(shape: tuple[int, int]) -> None:
    assert vendi_scores(torch.full(shape, 0.1)) == pytest.approx((1.0, 1.0), abs=1e-12)


def test_zero_rows_are_left_out() -> None:
    rows = torch.cat((torch.eye(3), torch.zeros(7, 3)))
    assert vendi_scores(rows) == pytest.approx((3.0, 3.0))
    assert vendi_scores(torch.zeros(4, 3)) is None
    assert vendi_scores(torch.zeros(0, 3)) is None


def test_entropy_of_a_gaussian() -> None:
    rows = np.random.default_rng(1).standard_normal((4000, 2))
    distances = torch.from_numpy(cKDTree(rows).query(rows, k=2)[0][:, 1])
    # D/2·log(2πe); standard error √(Var log r² + …)/√M ≈ .02
    assert nearest_entropy(distances, 2) == pytest.approx(math.log(2.0 * math.pi * math.e), abs=0.06)
    assert nearest_entropy(torch.tensor([0.0, 1.0]), 2) is None
