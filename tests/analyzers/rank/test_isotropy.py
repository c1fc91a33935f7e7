import numpy as np
import pytest
import torch

from collapse_cli.analyzers.rank.isotropy import isotropy
from tests.analyzers.rank.dumps import found, nulls, severities, skipped, split


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def by_definition(rows: torch.Tensor) -> dict[str, float]:
    exact = rows.double().numpy()
    count, width = exact.shape
    units = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = units @ units.T
    values = np.linalg.eigvalsh(np.cov(exact.T))
    # IsoScore step by step: the diagonal of the rotated covariance, scaled to norm √D, and its distance to ones
    diagonal = np.sqrt(width) * values / np.linalg.norm(values)
    defect = np.linalg.norm(diagonal - 1) / np.sqrt(2 * (width - np.sqrt(width)))
    share = (width - defect**2 * (width - np.sqrt(width))) ** 2 / width**2
    expected = count + count * (count - 1) / width
    _, axes = np.linalg.eigh(units.T @ units)
    sums = np.exp(units @ np.hstack((axes, -axes))).sum(0)
    return {
        "mean_cosine": float((cosines.sum() - count) / (count * (count - 1))),
        "isoscore": float((width * share - 1) / (width - 1)),
        "self_clustering": float(((cosines**2).sum() - expected) / (count**2 - expected)),
        "top_pc_share": float(values[-1] / values.sum()),
        "partition_isotropy": float(sums.min() / sums.max()),
    }


def test_every_metric_by_its_definition() -> None:
    rows = gaussian(150, 12) * torch.linspace(2.0, 0.2, 12) + 0.7
    assert found(isotropy, rows) == pytest.approx(by_definition(rows), rel=1e-9)


def test_isotropic_rows_stand_at_the_null() -> None:
    rows = gaussian(2000, 64)
    values, chance = found(isotropy, rows), nulls(isotropy, rows)
    assert abs(values["mean_cosine"]) < 4 * (2 / (2000 * 1999 * 64)) ** 0.5
    assert values["isoscore"] == pytest.approx(chance["isoscore"], abs=5e-3)
    assert values["top_pc_share"] == pytest.approx(chance["top_pc_share"], rel=0.05)
    assert values["self_clustering"] == pytest.approx(0.0, abs=1e-3)
    assert values["partition_isotropy"] == pytest.approx(0.984, abs=3e-3)
    assert nulls(isotropy, gaussian(5000, 64))["isoscore"] == pytest.approx(0.98697, abs=1e-5)
    assert nulls(isotropy, gaussian(1000, 1024)[:, :1024])["isoscore"] == pytest.approx(0.4931, abs=1e-4)


def test_a_square_is_less_clustered_than_chance_and_one_point_is_all_clustered() -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    # each of the 12 rows is on a line with 6 of them: Σcos² = 72, E = 12 + 12·11/2 = 78
    repeated = corners.repeat(3, 1)
    assert found(isotropy, repeated)["self_clustering"] == pytest.approx((72 - 78) / (144 - 78), rel=1e-12)
    equal = torch.ones(20, 5)
    values = found(isotropy, equal)
    assert values["mean_cosine"] == pytest.approx(1.0, abs=1e-12)
    assert values["self_clustering"] == pytest.approx(1.0, abs=1e-12)
    assert "all rows are equal" in skipped(isotropy, equal)
    assert severities(isotropy, equal) == {"warning"}


def test_an_offset_moves_the_cosine_and_not_the_isoscore() -> None:
    rows = gaussian(500, 16)
    centred, moved = found(isotropy, rows), found(isotropy, rows.double() + 3.0)
    assert moved["mean_cosine"] == pytest.approx(0.9, abs=0.03)
    assert abs(centred["mean_cosine"]) < 0.01
    assert moved["isoscore"] == pytest.approx(centred["isoscore"], rel=1e-9)


def test_opposite_vectors_have_no_mean_cosine_and_are_one_line() -> None:
    rows = torch.cat((torch.ones(50, 8), -torch.ones(50, 8)))
    values = found(isotropy, rows)
    assert values["mean_cosine"] == pytest.approx(-1 / 99, abs=1e-12)
    assert values["self_clustering"] == pytest.approx(1.0, abs=1e-12)
    assert values["isoscore"] == pytest.approx(0.0, abs=1e-12)
    assert values["top_pc_share"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("shape", [(10, 512), (10, 8), (400, 128)])
def test_random_rows_are_never_a_finding(shape: tuple[int, int]) -> None:
    assert severities(isotropy, gaussian(*shape)) == set()


def test_degenerate_rows_are_measured_or_skipped() -> None:
    assert skipped(isotropy, torch.ones(9, 4)) == "fewer than 10 finite rows"
    zeros = skipped(isotropy, torch.zeros(30, 4))
    assert "mean_cosine" in zeros
    assert "isoscore" in zeros
    rows = gaussian(40, 6)
    with_zeros = torch.cat((rows, torch.zeros(5, 6)))
    for metric in ("mean_cosine", "self_clustering", "partition_isotropy"):
        assert found(isotropy, with_zeros)[metric] == pytest.approx(found(isotropy, rows)[metric], rel=1e-9)
    assert "self_clustering" in skipped(isotropy, gaussian(30, 1))
    assert "isoscore" in skipped(isotropy, gaussian(30, 1))


def test_in_batches_as_in_one() -> None:
    rows = gaussian(300, 12) + 4.0
    assert split(isotropy, rows) == pytest.approx(found(isotropy, rows), rel=1e-8)
