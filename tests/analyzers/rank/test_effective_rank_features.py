import numpy as np
import pytest
import torch

from collapse_cli.analyzers.rank.effective_rank_features import effective_rank_features
from tests.analyzers.rank.dumps import found, nulls, point, severities, skipped, split


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def by_definition(rows: torch.Tensor) -> dict[str, float]:
    values = np.clip(np.linalg.eigvalsh(np.cov(rows.double().numpy().T)), 0.0, None)[::-1]
    shares = values / values.sum()
    return {
        "erank": float(np.exp(-(shares[shares > 1e-14] * np.log(shares[shares > 1e-14])).sum())),
        "participation_ratio": float(1 / (shares**2).sum()),
        "stable_rank": float(1 / shares[0]),
        "rank_95": float(np.argmax(np.cumsum(shares) >= 0.95) + 1),
    }


@pytest.mark.parametrize("shape", [(300, 40), (50, 80)])
def test_every_count_by_its_definition(shape: tuple[int, int]) -> None:
    rows = gaussian(*shape) * torch.linspace(3.0, 0.1, shape[1]) + 7.0
    values = found(effective_rank_features, rows)
    for metric, expected in by_definition(rows).items():
        assert values[metric] == pytest.approx(expected, rel=1e-9), metric


def test_debiased_ratio_finds_the_width_from_few_rows() -> None:
    values = found(effective_rank_features, gaussian(500, 768))
    assert values["participation_ratio"] == pytest.approx(302, abs=2)
    assert values["participation_ratio_debiased"] == pytest.approx(768, rel=0.02)
    assert found(effective_rank_features, gaussian(2000, 64))["participation_ratio"] == pytest.approx(62.0, abs=0.3)


def test_nulls_are_what_random_rows_give() -> None:
    rows = gaussian(500, 768)
    values, chance = found(effective_rank_features, rows), nulls(effective_rank_features, rows)
    assert chance["erank"] == pytest.approx(360.6, abs=0.5)
    for metric, tolerance in {
        "erank": 0.005,
        "participation_ratio": 0.005,
        "stable_rank": 0.03,
        "rank_95": 0.01,
    }.items():
        assert values[metric] == pytest.approx(chance[metric], rel=tolerance), metric
    square = nulls(effective_rank_features, gaussian(1000, 1024))
    assert square["erank"] == pytest.approx(613.2, abs=0.5)
    assert square["participation_ratio"] == pytest.approx(505.4, abs=0.1)
    assert square["stable_rank"] == pytest.approx(252.9, abs=0.1)


def test_signed_axes_use_all_directions() -> None:
    values = found(effective_rank_features, torch.cat((torch.eye(64), -torch.eye(64))))
    for metric in ("erank", "participation_ratio", "stable_rank"):
        assert values[metric] == pytest.approx(64.0, rel=1e-12)
    assert values["rank_95"] == 61


def rank_one(dtype: torch.dtype, offset: float = 0.0) -> torch.Tensor:
    return ((gaussian(512, 1, seed=1) + offset) @ gaussian(1, 64, seed=2)).to(dtype)


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rank_one_and_rounding_is_an_error_in_every_stored_format(dtype: torch.dtype, offset: float) -> None:
    rows = rank_one(dtype, offset)
    values = found(effective_rank_features, rows)
    assert values["stable_rank"] == pytest.approx(1.0, abs=1e-4)
    # rounding is uniform within an ulp; a few per cent of it lie along the one direction
    assert values["rank_one_over_rounding"] == pytest.approx(0.96, abs=0.06)
    assert severities(effective_rank_features, rows) == {"error"}


def test_rank_one_beyond_rounding_is_no_error() -> None:
    for dtype, noise in ((torch.bfloat16, 0.05), (torch.float32, 1e-6)):
        rows = (rank_one(torch.float32) + noise * gaussian(512, 64, seed=3)).to(dtype)
        assert severities(effective_rank_features, rows) == set(), dtype
        assert found(effective_rank_features, rows)["rank_one_over_rounding"] > 10


def test_rank_one_in_float64_is_an_error_and_rank_two_is_not() -> None:
    rows = gaussian(300, 1, seed=1).double() @ gaussian(1, 40, seed=2).double() / 3
    assert severities(effective_rank_features, rows) == {"error"}
    assert severities(effective_rank_features, rows + 1e-8 * gaussian(300, 40).double()) == set()


@pytest.mark.parametrize("shape", [(10, 512), (10, 8), (400, 256)])
def test_random_rows_are_never_a_finding(shape: tuple[int, int]) -> None:
    assert severities(effective_rank_features, gaussian(*shape)) == set()


def test_equal_or_few_rows_are_skipped() -> None:
    assert skipped(effective_rank_features, torch.full((50, 8), 0.1)) == "all rows are equal"
    assert skipped(effective_rank_features, torch.zeros(50, 8)) == "all rows are equal"
    assert skipped(effective_rank_features, torch.ones(2, 8)) == "fewer than 3 finite rows"
    assert "rank_one_over_rounding" in skipped(effective_rank_features, rank_one(torch.float32)[:9])
    assert "one feature" in skipped(effective_rank_features, gaussian(30, 1))


def test_in_batches_as_in_one() -> None:
    rows = gaussian(300, 12) + 40.0
    assert split(effective_rank_features, rows) == pytest.approx(found(effective_rank_features, rows), rel=1e-8)
    assert point(effective_rank_features, 5, features=rows).read("moments").count == 300
