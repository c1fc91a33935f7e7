"""Class geometry from moments against the direct formulas over all rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from collapse_cli.errors import NotConverged
from collapse_cli.kernels import class_geometry
from collapse_cli.kernels.accumulators import Batch, ClassMoments

SIMPLEX = torch.eye(4, dtype=torch.float64) - 0.25


def classes(*, count: int = 600, width: int = 12, many: int = 7) -> tuple[np.ndarray, np.ndarray, ClassMoments]:
    generator = np.random.default_rng(0)
    y = generator.integers(0, many, count)
    x = generator.normal(size=(count, width)) + 3.0 * generator.normal(size=(many, width))[y] + 20.0
    found = ClassMoments()
    for start in range(0, count, 111):
        rows = slice(start, start + 111)
        roles = {"features": torch.tensor(x[rows]), "labels": torch.tensor(y[rows])}
        found.update(Batch(roles, start=start))
    return x, y, found


@pytest.mark.parametrize(("width", "many"), [(12, 7), (5, 9)])
def test_within_class_variability_is_the_trace_with_the_pseudo_inverse(width: int, many: int) -> None:
    x, y, found = classes(width=width, many=many)
    means = np.stack([x[y == k].mean(0) for k in range(many)])
    centred = means - means.mean(0)
    within = sum((x[y == k] - means[k]).T @ (x[y == k] - means[k]) for k in range(many)) / len(x)
    wanted = np.trace(np.linalg.pinv(centred.T @ centred / many, rcond=1e-9) @ within) / many
    got = class_geometry.within_class_variability(found.means, found.within_scatter / found.count)
    assert got == pytest.approx(wanted, rel=1e-9)


def test_equal_means_have_no_within_class_variability() -> None:
    means = torch.ones(3, 4, dtype=torch.float64) * 0.1
    assert class_geometry.within_class_variability(means, torch.eye(4, dtype=torch.float64)) is None
    assert class_geometry.within_class_variability(means[:1], torch.eye(4, dtype=torch.float64)) is None


def test_variability_of_the_simplex_with_spread_in_the_class_span() -> None:
    # K = 4, unit means, x = m_k ± δe, e in the span: NC1 = (K−1)δ²/(Kρ²) = .0075
    means = SIMPLEX / SIMPLEX[0].norm()
    e = means[0]
    within = 0.01 * torch.outer(e, e)
    assert class_geometry.within_class_variability(means, within) == pytest.approx(0.0075, rel=1e-12)
    off_span = torch.full((4,), 0.5, dtype=torch.float64)
    nothing = class_geometry.within_class_variability(means, 0.01 * torch.outer(off_span, off_span))
    assert nothing == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("shape", [(6, 9), (9, 4)])
def test_simplex_and_duality_errors_are_distances_of_normalised_grams(shape: tuple[int, int]) -> None:
    many = shape[0]
    generator = torch.Generator().manual_seed(1)
    means, head = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    centred = means - means.mean(0)
    ideal = (torch.eye(many, dtype=torch.float64) - 1.0 / many) / (many - 1) ** 0.5
    gram, product = centred @ centred.T, head @ centred.T
    assert class_geometry.simplex_error(means) == pytest.approx(float((gram / gram.norm() - ideal).norm()), rel=1e-9)
    wanted = float((product / product.norm() - ideal).norm())
    assert class_geometry.self_duality_error(means, head) == pytest.approx(wanted, rel=1e-9)


def test_the_simplex_is_perfect_and_a_merged_pair_is_not() -> None:
    assert class_geometry.simplex_error(SIMPLEX) == pytest.approx(0.0, abs=1e-7)
    assert class_geometry.self_duality_error(SIMPLEX, SIMPLEX) == pytest.approx(0.0, abs=1e-7)
    assert class_geometry.self_duality_error(SIMPLEX, torch.zeros(4, 4, dtype=torch.float64)) == 2.0**0.5
    assert class_geometry.class_mean_rank(SIMPLEX) == pytest.approx(3.0, rel=1e-12)
    merged = SIMPLEX.clone()
    merged[1] = merged[0]
    assert class_geometry.simplex_error(merged) == pytest.approx(0.6314, abs=5e-5)
    assert class_geometry.class_mean_rank(merged) == pytest.approx(1.923, abs=5e-4)
    assert class_geometry.class_mean_rank(torch.ones(3, 2, dtype=torch.float64)) == 0.0


def test_class_separation_and_tolerance_are_means_over_pairs() -> None:
    x, y, found = classes(count=300)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = 1.0 - z @ z.T
    mean = np.array([[distance[np.ix_(y == i, y == j)].mean() for j in range(7)] for i in range(7)])
    got = class_geometry.class_separation(found.unit_sums, found.unit_counts)
    assert got == pytest.approx(1.0 - np.diag(mean).mean() / mean.mean(), rel=1e-9)
    same = (y[:, None] == y) & ~np.eye(len(y), dtype=bool)
    tolerance = class_geometry.within_class_cosine(found.unit_sums, found.unit_counts)
    assert tolerance == pytest.approx((z @ z.T)[same].mean(), rel=1e-9)
    alone = torch.ones(2, dtype=torch.int64)
    assert class_geometry.within_class_cosine(torch.eye(2, dtype=torch.float64), alone) is None
    agreed = torch.tensor([[2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    assert class_geometry.class_separation(agreed, torch.tensor([2, 3])) is None


def test_leaving_a_row_out_stretches_its_distance() -> None:
    x = np.random.default_rng(3).normal(size=(8, 3))
    others = np.delete(x, 2, axis=0).mean(0)
    wanted = ((x[2] - others) ** 2).sum() / ((x[2] - x.mean(0)) ** 2).sum()
    factor = class_geometry.leave_one_out_factor(torch.tensor([8]))
    assert float(factor) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 50.0])
def test_the_ridge_readout_is_that_of_scikit_learn(alpha: float) -> None:
    x, y, found = classes()
    wanted = Ridge(alpha=alpha, solver="cholesky").fit(x, np.eye(7)[y]).coef_.T
    cross = class_geometry.one_hot_cross(found.sums, found.counts)
    got = class_geometry.ridge_readout(found.centred_scatter, cross, alpha=alpha).numpy()
    assert np.abs(got - wanted).max() <= 5e-12 * np.abs(wanted).max()


def test_a_singular_ridge_system_is_an_error_of_ours() -> None:
    with pytest.raises(NotConverged, match="singular"):
        class_geometry.ridge_readout(
            torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64), alpha=0.0
        )
