import numpy as np
import pytest
import torch

from collapse_cli.analyzers.rank.rankme import rankme
from tests.analyzers.rank.dumps import found, nulls, severities, skipped, split


def by_definition(rows: torch.Tensor, epsilon: float = 1e-7) -> float:
    values = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    shares = values / values.sum() + epsilon
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def test_the_papers_formula_on_a_known_matrix() -> None:
    rows = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(0))
    values = found(rankme, rows)
    assert values["rankme"] == pytest.approx(814.3570, abs=1e-3)
    # closed form 813.74, one draw 813.87
    assert nulls(rankme, rows)["rankme"] == pytest.approx(813.74, abs=0.01)
    assert values["rankme_share"] == pytest.approx(814.3570 / 813.74, abs=1e-4)


def test_power_law_with_an_offset_is_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, 65, dtype=torch.float64) ** -0.5
    rows = torch.randn(300, 64, generator=generator, dtype=torch.float64) * scales + 5.0
    values = found(rankme, rows)
    assert values["rankme"] == pytest.approx(by_definition(rows), rel=1e-8)
    assert values["rankme_centred"] == pytest.approx(by_definition(rows - rows.mean(0), 0.0), rel=1e-8)
    assert values["rankme_centred"] > 3 * values["rankme"]


def test_signed_axes_use_all_directions() -> None:
    values = found(rankme, torch.cat((torch.eye(64), -torch.eye(64))))
    # 64 equal shares of 1/64 + 1e-7: 64^(1 + 64e-7)·(1 + 64e-7)^−…
    assert values["rankme"] == pytest.approx(64.0013, abs=1e-4)
    assert values["rankme_centred"] == pytest.approx(64.0, rel=1e-12)


def test_equal_rows_are_one_direction() -> None:
    rows = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).repeat(100, 1)
    values = found(rankme, rows)
    assert values["rankme"] == pytest.approx(1.0001, abs=2e-5)
    assert "all rows are equal" in skipped(rankme, rows)
    assert severities(rankme, rows, intent="representation") == {"error"}
    assert severities(rankme, rows, intent="classifier") == set()


def test_a_few_directions_of_many_are_a_warning() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
    assert 0.05 < found(rankme, rows)["rankme_share"] < 0.1
    assert severities(rankme, rows, intent="representation") == {"warning"}
    assert severities(rankme, rows) == {"info"}


@pytest.mark.parametrize("shape", [(10, 512), (300, 8), (500, 256)])
def test_random_rows_are_never_a_finding(shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert severities(rankme, rows, intent="representation") == set()


def test_few_or_empty_rows() -> None:
    assert skipped(rankme, torch.ones(1, 8)) == "fewer than 2 finite rows"
    assert skipped(rankme, torch.ones(0, 8)) == "fewer than 2 finite rows"
    assert skipped(rankme, torch.zeros(20, 8)) == "all features are zero"
    assert found(rankme, torch.eye(2, 300))["rankme"] == pytest.approx(2.0, abs=1e-5)


def test_in_batches_as_in_one() -> None:
    rows = torch.randn(200, 16, generator=torch.Generator().manual_seed(2)) + 40.0
    assert split(rankme, rows) == pytest.approx(found(rankme, rows), rel=1e-8)
