import numpy as np
import pytest
import torch

from collapse_cli.analyzers.views.variance_covariance import collapsed, variance_covariance
from collapse_cli.core.finding import Severity
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def test_the_terms_as_the_official_loss_has_them() -> None:
    """torch.var and the off-diagonal of xᵀx/(N−1), as in the reference implementation of VICReg."""
    a = 0.7 * gaussian(300, 10) @ gaussian(10, 10, seed=2) + 5.0
    b = a + 0.3 * gaussian(300, 10, seed=1)
    found = measured(variance_covariance, {"view_a": a, "view_b": b})
    std = [torch.sqrt(x.var(dim=0) + 0.0001) for x in (a, b)]
    variance = sum(float(torch.relu(1 - s).mean()) / 2 for s in std)
    covariances = [np.cov(x.numpy().T) for x in (a, b)]
    off = [c - np.diag(np.diag(c)) for c in covariances]
    assert found["vicreg_variance"].value == pytest.approx(variance, rel=1e-9)
    assert found["vicreg_covariance"].value == pytest.approx(sum((o**2).sum() / 10 for o in off), rel=1e-9)
    share = np.mean([(o**2).sum() / (c**2).sum() for o, c in zip(off, covariances, strict=True)])
    assert found["covariance_share"].value == pytest.approx(share, rel=1e-9)
    assert found["vicreg_invariance"].value == pytest.approx(float(((a - b) ** 2).mean()), rel=1e-9)


def test_variance_term_of_small_deviations_is_the_hinge() -> None:
    rows = gaussian(400, 3) * torch.tensor([0.1, 0.5, 3.0])
    expected = np.maximum(0, 1 - np.sqrt(rows.numpy().var(0, ddof=1) + 1e-4)).mean()
    assert expected > 0.4
    found = measured(variance_covariance, {"features": rows})
    assert found["vicreg_variance"].value == pytest.approx(expected, rel=1e-9)


def test_independent_dimensions_stand_at_the_nulls() -> None:
    pairs = [{"view_a": gaussian(500, 64, seed=s), "view_b": gaussian(500, 64, seed=99 + s)} for s in range(6)]
    found = [measured(variance_covariance, pair) for pair in pairs]
    for metric in ("vicreg_covariance", "covariance_share", "vicreg_invariance"):
        mean, null = np.mean([f[metric].value for f in found]), found[0][metric].null
        assert mean == pytest.approx(null, rel=0.02), metric
    one = measured(variance_covariance, {"features": gaussian(500, 64)})["vicreg_covariance"]
    assert one.null == pytest.approx(63 / 499)
    assert one.value == pytest.approx(0.1263, abs=0.004)


def test_a_duplicated_pair_of_dimensions() -> None:
    rows = gaussian(4000, 20)
    rows[:, 1] = rows[:, 0]
    variance = rows[:, 0].numpy().var(ddof=1)
    found = measured(variance_covariance, {"view_a": rows, "view_b": rows})["vicreg_covariance"]
    noise = 2 * (20 * 19 - 2) / 20 / 3999
    assert found.value == pytest.approx(2 * 2 * variance**2 / 20 + noise, rel=0.1)


def test_a_constant_is_found_and_reads_99_not_1() -> None:
    subject = judged(variance_covariance, collapsed())
    found = {m.metric: m.value for m in subject.measurements}
    assert found["vicreg_variance"] == pytest.approx(0.99, abs=1e-12)
    assert found["vicreg_covariance"] == pytest.approx(0.0, abs=1e-20)
    assert found["vicreg_invariance"] == 0.0
    assert [f.severity for f in subject.findings] == [Severity.ERROR]


@pytest.mark.parametrize(
    ("deviation", "expected"), [(0.011, []), (1e-3, []), (3e-4, [Severity.WARNING]), (1e-5, [Severity.ERROR])]
)
def test_only_what_is_as_good_as_constant_is_judged(deviation: float, expected: list[Severity]) -> None:
    assert findings(variance_covariance, {"features": 1.0 + deviation * gaussian(200, 32)}) == expected


@pytest.mark.parametrize(("rows", "width"), [(16, 8), (40, 2048), (300, 64)])
def test_gaussian_rows_are_silent(rows: int, width: int) -> None:
    views = {"view_a": gaussian(rows, width), "view_b": gaussian(rows, width, seed=5)}
    assert findings(variance_covariance, views) == []
    assert findings(variance_covariance, {"features": views["view_a"].float()}) == []


def test_one_dimension_few_rows_and_other_arrays() -> None:
    found = measured(variance_covariance, {"features": gaussian(50, 1)})
    assert found["covariance_share"].value == found["covariance_share"].null == 0.0
    assert reasons(results(variance_covariance, {"features": gaussian(15, 4)})) == ["finite rows 15 < 16"]
    assert reasons(results(variance_covariance, {"logits": gaussian(20, 4)})) == ["neither two views nor features"]
    mixed = results(variance_covariance, {"view_a": gaussian(20, 4), "view_b": gaussian(20, 3)})
    assert reasons(mixed) == ["vicreg_invariance: views of widths 4 and 3"]


def test_many_batches_give_the_batch_answer() -> None:
    rows = gaussian(9000, 4) + 1000.0
    found = measured(variance_covariance, {"features": rows})
    covariance = np.cov(rows.numpy().T)
    off = covariance - np.diag(np.diag(covariance))
    assert found["vicreg_covariance"].value == pytest.approx((off**2).sum() / 4, rel=1e-6)
