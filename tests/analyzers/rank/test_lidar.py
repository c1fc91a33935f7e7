import numpy as np
import pytest
import torch
from scipy.stats import f

from collapse_cli.analyzers.rank.lidar import lidar
from collapse_cli.kernels.object_discrimination import signal_null
from tests.analyzers.rank.dumps import judged_views


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def values(views: torch.Tensor) -> dict[str, float]:
    return {m.metric: m.value for m in judged_views(lidar, views).measurements}


def reasons(views: torch.Tensor) -> str:
    return "; ".join(skip.reason for skip in judged_views(lidar, views).skips)


def severities(views: torch.Tensor) -> set[str]:
    return {str(finding.severity) for finding in judged_views(lidar, views).findings}


def by_definition(views: torch.Tensor) -> tuple[float, float]:
    """The paper's steps with dense inverse square roots."""
    stacks = views.double().numpy()
    objects, count, width = stacks.shape
    means = stacks.mean(1)
    centred = means - means.mean(0)
    between = sum(np.outer(row, row) for row in centred) / (objects - 1)
    own = (stacks - means[:, None]).reshape(-1, width)
    within = own.T @ own / (objects * (count - 1))
    spectrum, vectors = np.linalg.eigh(within + 1e-4 * np.eye(width))
    root = vectors @ np.diag(spectrum**-0.5) @ vectors.T
    shares = np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None) + 1e-8
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())), float(np.trace(np.linalg.inv(within) @ between) / width)


@pytest.mark.parametrize("rank", [16, 3])
def test_both_numbers_by_their_definition(rank: int) -> None:
    objects = gaussian(80, 1, rank) @ gaussian(rank, 16, seed=1)
    views = objects + 0.3 * gaussian(80, 5, 16, seed=2) + 2.0
    found = values(views)
    expected, signal = by_definition(views)
    assert found["lidar"] == pytest.approx(expected, rel=1e-7)
    assert found["lidar_signal"] == pytest.approx(signal, rel=1e-7)
    assert found["lidar_signal_z"] > 100
    assert severities(views) == set()


def test_a_simplex_of_identical_views_fills_the_width() -> None:
    corners = torch.linalg.qr(torch.cat((torch.ones(33, 1), gaussian(33, 32)), 1).double()).Q[:, 1:]
    views = corners[:, None].repeat(1, 2, 1)
    assert values(views)["lidar"] == pytest.approx(32.0, rel=1e-9)
    assert "do not span" in reasons(views) or "do not differ" in reasons(views)


def test_noise_scores_near_the_width_and_is_told_by_its_signal() -> None:
    views = gaussian(300, 20, 32)
    subject = judged_views(lidar, views)
    found = {m.metric: m for m in subject.measurements}
    assert found["lidar"].value == pytest.approx(found["lidar"].null, rel=0.01)
    assert found["lidar"].value > 0.9 * 32
    assert found["lidar_signal"].value == pytest.approx(found["lidar_signal"].null, rel=0.03)
    assert severities(views) == {"warning"}


def test_null_of_the_signal_is_what_noise_gives() -> None:
    mean, error = signal_null(40, 3, 12) or (0.0, 0.0)
    # m/(V(m − D − 1))
    assert mean == pytest.approx(80 / (3 * (80 - 13)), rel=1e-12)
    drawn = np.array([by_definition(gaussian(40, 3, 12, seed=seed).double())[1] for seed in range(300)])
    assert drawn.mean() == pytest.approx(mean, abs=4 * error / 300**0.5)
    assert drawn.std() == pytest.approx(error, rel=0.15)
    assert signal_null(10, 2, 7) is None
    # of one feature, V times the signal is F with N − 1 and N(V − 1) degrees of freedom
    assert signal_null(9, 3, 1) == pytest.approx((f(8, 18).mean() / 3, f(8, 18).std() / 3), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_features_are_no_perfect_score(dtype: torch.dtype) -> None:
    constant = gaussian(32).repeat(50, 3, 1)
    assert reasons(constant.to(dtype)) == "no between-object variance beyond rounding"
    assert "no between-object" in reasons((constant + 1e-9 * gaussian(50, 3, 32, seed=1)).to(dtype))


def test_too_few_objects_views_or_rows() -> None:
    assert "fewer than 10" in reasons(gaussian(9, 4, 8))
    assert reasons(gaussian(40, 1, 8)) == "one view per object"
    assert "do not span" in reasons(gaussian(12, 2, 30))
    assert "lidar" in values(gaussian(12, 2, 30))
    assert "no between-object" in reasons(torch.zeros(40, 3, 8))
    assert "do not differ" in reasons(torch.cat((gaussian(60, 3, 8), torch.ones(60, 3, 2)), 2))
