import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from collapse_cli.analyzers.rank.intrinsic_dimension import intrinsic_dimension
from tests.analyzers.rank.dumps import found, nulls, severities, skipped, split


def reference_sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    sheet = generator.random((2000, 5)) @ generator.normal(size=(5, 50))
    return sheet, generator.normal(size=(2000, 10)), generator.normal(size=(2000, 64))


@pytest.mark.parametrize(
    ("which", "twonn", "likelihood"), [(0, 4.59626, 4.46454), (1, 9.48050, 9.17169), (2, 35.7204, 32.2459)]
)
def test_reference_estimates_of_scikit_dimension(which: int, twonn: float, likelihood: float) -> None:
    values = found(intrinsic_dimension, torch.tensor(reference_sets()[which]))
    assert values["twonn"] == pytest.approx(twonn, rel=2e-6)
    assert values["mle_k20"] == pytest.approx(likelihood, rel=2e-6)
    assert values["rows_per_dimension"] == pytest.approx(2000 / twonn, rel=2e-6)


def test_estimates_from_a_neighbour_tree() -> None:
    rows = np.random.default_rng(1).normal(size=(1100, 4)) + 1e4
    distances = cKDTree(rows).query(rows, 21)[0][:, 1:]
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))[: int(0.9 * 1100)]
    heights = -np.log(1 - np.arange(1, len(ratios) + 1) / 1100)
    slope = np.linalg.lstsq(ratios[:, None], heights, rcond=None)[0][0]
    inverse = [np.log(row[-1] / row[:-1]).sum() / 19 for row in distances]
    values = found(intrinsic_dimension, torch.tensor(rows))
    assert values["twonn"] == pytest.approx(slope, rel=1e-6)
    assert values["mle_k20"] == pytest.approx(1 / np.mean(inverse), rel=1e-6)


def test_gaussian_rows_stand_at_their_null() -> None:
    rows = torch.tensor(reference_sets()[2])
    values, chance = found(intrinsic_dimension, rows), nulls(intrinsic_dimension, rows)
    assert values["id_share"] == pytest.approx(1.0, abs=0.1)
    assert values["mle_k20"] == pytest.approx(chance["mle_k20"], rel=0.03)
    assert severities(intrinsic_dimension, rows) == set()


def test_a_curved_sheet_has_fewer_dimensions_than_its_covariance() -> None:
    angles = 2 * np.pi * np.random.default_rng(0).random(1500)
    orders = np.arange(1, 6)
    rows = torch.tensor(np.hstack((np.cos(np.outer(angles, orders)), np.sin(np.outer(angles, orders)))))
    values = found(intrinsic_dimension, rows)
    assert values["twonn"] == pytest.approx(1.0, abs=0.08)
    assert values["id_share"] < 0.2


def test_a_line_is_one_dimension_and_repetitions_do_not_count() -> None:
    generator = np.random.default_rng(0)
    line = torch.tensor(generator.random((1500, 1)) * generator.normal(size=(1, 8)))
    once = found(intrinsic_dimension, line)
    assert once["twonn"] == pytest.approx(1.0, abs=0.06)
    twice = found(intrinsic_dimension, torch.cat((line, line[:500])))
    assert twice["twonn"] == pytest.approx(once["twonn"], rel=1e-12)
    assert "above 50 %" in skipped(intrinsic_dimension, line[:700].repeat(3, 1))


def test_few_constant_or_lattice_rows_are_skipped() -> None:
    assert "fewer than 1,000" in skipped(intrinsic_dimension, torch.rand(999, 3))
    assert "above 50 %" in skipped(intrinsic_dimension, torch.ones(2000, 3))
    assert "fewer than 1,000 distinct" in skipped(intrinsic_dimension, torch.eye(900).repeat(2, 1)[:1500])
    assert "lattice" in skipped(intrinsic_dimension, torch.eye(1000))


def test_in_batches_as_in_one() -> None:
    rows = torch.tensor(np.random.default_rng(1).normal(size=(1050, 3)))
    batches, whole = split(intrinsic_dimension, rows), found(intrinsic_dimension, rows)
    assert batches == pytest.approx(whole, rel=1e-6)
