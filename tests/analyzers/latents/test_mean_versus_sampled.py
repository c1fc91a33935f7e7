import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.latents.mean_versus_sampled import collapsed, mean_versus_sampled
from collapse_cli.core.finding import Severity
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def level(means: np.ndarray, variances: np.ndarray | float) -> dict[str, torch.Tensor]:
    logs = np.log(np.broadcast_to(variances, means.shape)).copy()
    return {"mu": torch.tensor(means), "logvar": torch.tensor(logs)}


def correlated(rows: int, covariance: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Rows with exactly that covariance, N − 1 below the line."""
    x = np.random.default_rng(seed).standard_normal((rows, covariance.shape[0]))
    q, _ = np.linalg.qr(x - x.mean(0))
    return math.sqrt(rows - 1) * q @ np.linalg.cholesky(covariance).T


def off_diagonal(matrix: np.ndarray) -> float:
    return float(np.abs(matrix[~np.eye(len(matrix), dtype=bool)]).mean())


def test_certain_posteriors_agree_up_to_their_variance() -> None:
    """s = 0.01, Var μ = 0.99, corr 0.5: corr of z is 0.495."""
    x = correlated(600, 0.99 * np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]))
    found = {metric: m.value for metric, m in measured(mean_versus_sampled, level(x, 0.01)).items()}
    assert found["mean_correlation"] == pytest.approx(0.5, abs=1e-12)
    assert found["sampled_correlation"] == pytest.approx(0.495, abs=1e-12)
    assert found["correlation_gap"] == pytest.approx(0.005, abs=1e-12)
    assert findings(mean_versus_sampled, level(x, 0.01)) == []


def test_two_passive_dimensions_that_are_one() -> None:
    """μ = (0.05x, −0.05x) and s = 1: |corr μ| = 1, |corr z| = 0.0025/1.0025."""
    x = 0.05 * correlated(600, np.eye(1))
    arrays = level(np.hstack((x, -x)), 1.0)
    found = {metric: m.value for metric, m in measured(mean_versus_sampled, arrays).items()}
    assert found["mean_correlation"] == pytest.approx(1.0, abs=1e-12)
    assert found["sampled_correlation"] == pytest.approx(0.0025 / 1.0025, abs=1e-12)
    assert found["passive_gap"] == pytest.approx(1.0 - 0.0025 / 1.0025, abs=1e-12)
    assert findings(mean_versus_sampled, arrays) == [Severity.WARNING]
    shares = np.array([1.005, 1.0]) / 2.005
    rank = math.exp(-(shares * np.log(shares)).sum())
    assert found["rank_ratio"] == pytest.approx(rank, rel=1e-9)


def test_every_metric_is_that_of_drawn_samples() -> None:
    """200 draws of z per row, correlations within 4 standard errors of the closed form."""
    rng = np.random.default_rng(3)
    means = rng.standard_normal((600, 5)) @ rng.standard_normal((5, 5))
    variances = np.exp(rng.standard_normal((600, 5)))
    found = measured(mean_versus_sampled, level(means, variances))
    z = (means + np.sqrt(variances) * rng.standard_normal((200, 600, 5))).reshape(-1, 5)
    drawn = np.corrcoef(z.T)
    assert found["sampled_correlation"].value == pytest.approx(off_diagonal(drawn), abs=4.0 / math.sqrt(120_000))
    assert found["mean_correlation"].value == pytest.approx(off_diagonal(np.corrcoef(means.T)), rel=1e-12)
    ranks = []
    for covariance in (np.cov(means.T), np.cov(means.T) + np.diag(variances.mean(0))):
        shares = np.linalg.eigvalsh(covariance)
        shares /= shares.sum()
        ranks.append(math.exp(-(shares * np.log(shares)).sum()))
    assert found["rank_ratio"].value == pytest.approx(ranks[1] / ranks[0], rel=1e-10)
    assert found["mean_correlation"].null == pytest.approx(math.sqrt(2.0 / (math.pi * 600)))


def test_the_null_is_that_of_unrelated_columns() -> None:
    x = np.random.default_rng(4).standard_normal((600, 30))
    found = measured(mean_versus_sampled, level(x, 0.01))["mean_correlation"]
    # |r| of one pair scatters by 0.6/√N, and there are 435 pairs
    assert found.value == pytest.approx(found.null, abs=4 * 0.6 / math.sqrt(600 * 435))


def test_constant_dimensions_are_left_out_and_counted() -> None:
    x = correlated(600, np.array([[1.0, 0.3], [0.3, 1.0]]))
    arrays = level(np.hstack((x, np.full((600, 2), 7.1))), 0.01)
    arrays = {role: tensor.float() for role, tensor in arrays.items()}
    arrays["mu"][::2, 3] = torch.nextafter(arrays["mu"][0, 3], torch.tensor(8.0))  # the same number, rounded up
    found = measured(mean_versus_sampled, arrays)
    assert found["mean_correlation"].value == pytest.approx(0.3, abs=1e-6)
    assert found["mean_correlation"].evidence["constant"] == 2


def test_passive_pairs_are_taken_apart() -> None:
    """Two active dimensions that agree and two passive ones that do: only the second pair loses its correlation."""
    whole = np.array([[1.0, 0.6], [0.6, 1.0]])
    x = correlated(600, np.block([[whole, np.zeros((2, 2))], [np.zeros((2, 2)), 0.01 * whole]]))
    found = measured(mean_versus_sampled, level(x, np.array([0.01, 0.01, 1.0, 1.0])))
    assert found["passive_gap"].value == pytest.approx(0.6 - 0.006 / 1.01, abs=1e-12)
    assert found["passive_gap"].evidence["passive"] == 2
    gap = ((0.6 - 0.6 / 1.01) + (0.6 - 0.006 / 1.01)) / 6
    assert found["correlation_gap"].value == pytest.approx(gap, abs=1e-12)


def test_degenerate_posteriors_are_skipped() -> None:
    assert reasons(results(mean_versus_sampled, level(np.zeros((600, 4)), 1.0))) == ["0 dimensions of μ vary, needs 2"]
    one = level(correlated(600, np.eye(1)), 1.0)
    assert reasons(results(mean_versus_sampled, one)) == ["1 dimensions of μ vary, needs 2"]
    few = level(correlated(499, np.eye(2)), 1.0)
    assert reasons(results(mean_versus_sampled, few)) == ["499 finite rows, needs 500"]
    single = results(mean_versus_sampled, level(correlated(600, np.eye(2)), np.array([0.01, 1.0])))
    assert reasons(single) == ["passive_gap: 1 passive dimensions vary, needs 2"]
    active = results(mean_versus_sampled, level(correlated(600, np.eye(2)), 0.01))
    assert reasons(active) == ["passive_gap: 0 passive dimensions vary, needs 2"]


def test_message_has_its_numbers() -> None:
    (text,) = [finding.message for finding in judged(mean_versus_sampled, collapsed()).findings]
    assert "correlate by 1 and of z by 0.002" in text
