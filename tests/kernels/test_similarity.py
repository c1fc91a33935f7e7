"""Kernel alignment and isotropy from moments against N × N matrices."""

import numpy as np
import pytest
import torch

from collapse_cli.kernels import isotropy, similarity
from collapse_cli.kernels.accumulators import Batch, CrossMoments, Moments


def moments(x: np.ndarray, y: np.ndarray, *, step: int = 23) -> tuple[Moments, Moments, CrossMoments]:
    found = Moments("left"), Moments("right"), CrossMoments("left", "right")
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        batch = Batch({"left": torch.tensor(x[rows]), "right": torch.tensor(y[rows])}, start=start)
        for accumulator in found:
            accumulator.update(batch)
    return found


def dependence(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC₁ as published: two kernels with zero diagonals."""
    k, el, m = x @ x.T, y @ y.T, len(x)
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(el, 0.0)
    one = np.ones(m)
    value = np.trace(k @ el) + (one @ k @ one) * (one @ el @ one) / ((m - 1) * (m - 2))
    return float((value - 2.0 / (m - 2) * (one @ k @ el @ one)) / (m * (m - 3)))


@pytest.mark.parametrize("offset", [0.0, 40.0])
@pytest.mark.parametrize("widths", [(4, 9), (60, 50)])
def test_debiased_alignment_is_that_of_the_published_estimator(offset: float, widths: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(150, widths[0]))
    y = x[:, :3] @ generator.normal(size=(3, widths[1])) + generator.normal(size=(150, widths[1]))
    left, right, pairs = moments(x + offset, y - offset)
    wanted = dependence(x, y) / np.sqrt(dependence(x, x) * dependence(y, y))
    assert similarity.debiased_kernel_alignment(left, right, pairs) == pytest.approx(wanted, rel=1e-9)
    assert similarity.unbiased_dependence(pairs) == pytest.approx(dependence(x, y), rel=1e-9)
    assert similarity.debiased_self_dependence(right) == pytest.approx(dependence(y, y), rel=1e-9)
    u, v = x - x.mean(0), y - y.mean(0)
    biased = np.linalg.norm(u.T @ v) ** 2 / (np.linalg.norm(u.T @ u) * np.linalg.norm(v.T @ v))
    assert similarity.centred_kernel_alignment(left, right, pairs) == pytest.approx(biased, rel=1e-9)


def test_the_debiased_alignment_of_noise_is_about_nothing() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(300, 200)), generator.normal(size=(300, 150))
    left, right, pairs = moments(x, y)
    assert abs(similarity.debiased_kernel_alignment(left, right, pairs) or 1.0) < 0.02
    # √(D₁D₂/((N+D₁)(N+D₂)))
    assert similarity.centred_kernel_alignment(left, right, pairs) == pytest.approx(0.365, abs=0.02)


def test_alignment_needs_the_same_rows_and_enough_of_them() -> None:
    x = np.random.default_rng(2).normal(size=(10, 3))
    left, right, pairs = moments(x, x)
    with pytest.raises(ValueError, match="rows"):
        similarity.centred_kernel_alignment(left, moments(x[:5], x[:5])[1], pairs)
    assert similarity.debiased_kernel_alignment(*moments(x[:3], x[:3])) is None
    assert similarity.centred_kernel_alignment(*moments(np.ones((8, 2)), x[:8])) is None
    assert similarity.debiased_kernel_alignment(left, right, pairs) == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(ValueError, match="4 rows"):
        similarity.unbiased_dependence(moments(x[:3], x[:3])[2])


@pytest.mark.parametrize(("count", "raw"), [(500, 302.0), (100, 88.0)])
def test_the_debiased_participation_ratio_of_isotropic_rows_is_the_width(count: int, raw: float) -> None:
    x = np.random.default_rng(0).normal(size=(count, 768))
    centred = torch.tensor(x - x.mean(0))
    scatter = centred.T @ centred
    energies = np.linalg.svd(centred.numpy(), compute_uv=False) ** 2
    assert isotropy.second_moment_ratio(scatter) == pytest.approx(energies.sum() ** 2 / (energies**2).sum(), rel=1e-9)
    assert isotropy.second_moment_ratio(scatter) == pytest.approx(raw, rel=0.01)
    assert isotropy.debiased_participation_ratio(scatter, count) == pytest.approx(768, rel=0.03)
    n, s = count - 1, np.cov(x.T)
    wanted = np.trace(s) ** 2 * (n - 1) * (n + 2) / (n**2 * ((s * s).sum() - np.trace(s) ** 2 / n))
    assert isotropy.debiased_participation_ratio(scatter, count) == pytest.approx(wanted, rel=1e-9)


def test_isoscore_is_that_of_the_published_steps() -> None:
    x = np.random.default_rng(0).normal(size=(400, 9)) * np.linspace(1, 3, 9) + 5.0
    left, _, _ = moments(x, x)
    values = np.linalg.eigvalsh(np.cov(x.T))
    scaled = np.sqrt(9) * values / np.linalg.norm(values)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (9 - np.sqrt(9)))
    share = (9 - defect**2 * (9 - np.sqrt(9))) ** 2 / 81
    assert isotropy.isoscore(left.centred_scatter) == pytest.approx((9 * share - 1) / 8, rel=1e-9)
    line = torch.outer(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    assert isotropy.isoscore(line) == pytest.approx(0.0, abs=1e-15)
    assert isotropy.isoscore(torch.zeros(3, 3, dtype=torch.float64)) is None


def test_cosines_of_all_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(80, 6)) + 0.5
    left, _, _ = moments(x, x)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = z @ z.T
    off = cosines[~np.eye(80, dtype=bool)]
    assert isotropy.mean_cosine(left.unit_sum, left.unit_count) == pytest.approx(off.mean(), rel=1e-9)
    expected = 80 + 80 * 79 / 6
    wanted = ((cosines**2).sum() - expected) / (80**2 - expected)
    assert isotropy.self_clustering(left.unit_gram, left.unit_count) == pytest.approx(wanted, rel=1e-9)


def test_published_values_of_self_clustering() -> None:
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    left, right, _ = moments(corners, np.ones((4, 2)))
    assert isotropy.self_clustering(left.unit_gram, left.unit_count) == pytest.approx(-1 / 3, rel=1e-9)
    assert isotropy.self_clustering(right.unit_gram, right.unit_count) == pytest.approx(1.0, rel=1e-9)
    assert isotropy.mean_cosine(right.unit_sum, 1) is None
    assert isotropy.self_clustering(left.unit_gram, 1) is None


def test_too_few_rows_and_a_line_have_no_debiased_ratio() -> None:
    line = torch.outer(torch.arange(3.0), torch.arange(3.0)).double()
    assert isotropy.debiased_participation_ratio(line, 2) is None
    assert isotropy.debiased_participation_ratio(torch.zeros(3, 3, dtype=torch.float64), 9) is None
    assert isotropy.second_moment_ratio(torch.zeros(3, 3, dtype=torch.float64)) == 0.0
    assert isotropy.debiased_participation_ratio(line, 1000) == pytest.approx(1.0, rel=0.01)
