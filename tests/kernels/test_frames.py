"""Frames of class vectors against numpy and closed forms."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Role
from collapse_cli.kernels import frames
from tests.views import block, weight


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simplex(count: int, features: int) -> torch.Tensor:
    basis = torch.linalg.qr(gaussian(features, count)).Q
    return (torch.eye(count, dtype=torch.float64) - 1.0 / count) @ basis.T


def dense_etf_error(rows: np.ndarray) -> float:
    centred = rows - rows.mean(0)
    gram = centred @ centred.T
    count = len(rows)
    target = (np.eye(count) - 1.0 / count) / np.sqrt(count - 1)
    return float(np.linalg.norm(gram / np.linalg.norm(gram) - target))


@pytest.mark.parametrize(("count", "features"), [(10, 64), (40, 40), (41, 40), (60, 20), (3, 2)])
def test_etf_error_is_the_dense_difference_on_both_sides_of_k_equal_d(count: int, features: int) -> None:
    rows = gaussian(count, features) + 0.3
    assert frames.etf_error(weight(rows)) == pytest.approx(dense_etf_error(rows.numpy()), abs=1e-12)


def test_etf_error_is_zero_for_a_simplex_and_for_orthonormal_rows() -> None:
    assert frames.etf_error(weight(3.0 * simplex(10, 64))) < 1e-14
    assert frames.etf_error(weight(torch.eye(12, 30, dtype=torch.float64))) < 1e-14


def test_etf_error_of_equal_or_zero_rows_is_the_worst_there_is() -> None:
    assert frames.etf_error(weight(torch.full((10, 64), 0.1))) == math.sqrt(2.0)
    assert frames.etf_error(weight(torch.full((64, 10), 0.1))) == math.sqrt(2.0)
    assert frames.etf_error(weight(torch.zeros(10, 64))) == math.sqrt(2.0)


@pytest.mark.parametrize(
    ("count", "features", "null", "measured"),
    [(100, 512, 0.4113, 0.4130), (1000, 512, 0.9142, 0.9149), (1000, 64, 1.2285, 1.2286)],
)
def test_etf_error_of_gaussian_rows_meets_its_null(count: int, features: int, null: float, measured: float) -> None:
    assert frames.etf_error_null(count, features)[0] == pytest.approx(null, abs=6e-5)
    assert frames.etf_error(weight(gaussian(count, features))) == pytest.approx(measured, abs=3e-3)


def test_floor_of_the_etf_error_is_reached_by_a_tight_frame() -> None:
    # a centred frame of 12 vectors in 4 dimensions with equal singular values
    half = torch.linalg.qr(gaussian(6, 4)).Q
    rows = torch.cat((half, -half))
    assert frames.etf_error(weight(rows)) == pytest.approx(frames.etf_error_null(12, 4)[1], abs=1e-12)
    assert frames.etf_error_null(5, 4)[1] == 0.0


def test_mean_cosine_is_the_mean_over_all_pairs_and_leaves_out_zero_rows() -> None:
    rows = gaussian(9, 5) + 0.5
    rows[4] = 0.0
    live = np.delete(rows.numpy(), 4, axis=0)
    units = live / np.linalg.norm(live, axis=1, keepdims=True)
    cosines = units @ units.T
    expected = (cosines.sum() - 8) / (8 * 7)
    assert frames.mean_cosine(frames.direction_sum(weight(rows)), 8) == pytest.approx(expected, abs=1e-14)
    chosen = torch.tensor([True, True, True] + 6 * [False])
    some = (cosines[:3, :3].sum() - 3) / 6
    assert frames.mean_cosine(frames.direction_sum(weight(rows), chosen), 3) == pytest.approx(some, abs=1e-14)


def test_angles_are_the_extremes_and_the_mean_deviation() -> None:
    rows = gaussian(20, 8)
    units = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    found = (units @ units.T)[~np.eye(20, dtype=bool)]
    angles = frames.frame_angles(weight(rows))
    assert (angles.smallest, angles.largest) == (pytest.approx(found.min()), pytest.approx(found.max()))
    assert angles.deviation == pytest.approx(np.abs(found + 1 / 19).mean(), abs=1e-14)
    assert angles.compared == 20


def test_many_rows_are_sampled_and_their_extremes_still_searched() -> None:
    rows = gaussian(2500, 6)
    rows[2400] = 2.0 * rows[17]
    angles = frames.frame_angles(weight(rows))
    assert angles.compared == frames.MAX_PAIRED_ROWS
    assert angles.largest == pytest.approx(1.0, abs=1e-12)
    # the exact mean of ∣cos∣ of uniform directions in six dimensions is Γ(3)/(√π·Γ(3.5)) = 0.3395
    assert angles.deviation == pytest.approx(math.gamma(3) / (math.sqrt(math.pi) * math.gamma(3.5)), abs=3e-3)
    assert frames.frame_angles(weight(gaussian(frames.MAX_EXTREME_ROWS + 1, 2))).coherence is None


def test_designs_are_named() -> None:
    golden = (1 + math.sqrt(5)) / 2
    icosahedron = torch.tensor(
        [[0, 1, golden], [0, 1, -golden], [1, golden, 0], [1, -golden, 0], [golden, 0, 1], [-golden, 0, 1]],
        dtype=torch.float64,
    )
    assert frames.recognised_design(weight(simplex(10, 64))) == "simplex"
    assert frames.recognised_design(weight(simplex(33, 40)[:10] @ torch.linalg.svd(simplex(33, 40)).Vh[:32].T)) == (
        "d-simplex"
    )
    assert frames.recognised_design(weight(torch.eye(8, 30))) == "orthonormal"
    assert frames.recognised_design(weight(icosahedron)) == "welch"
    assert frames.recognised_design(weight(gaussian(10, 64))) is None
    stretched = simplex(10, 64)
    stretched[0] *= 1.1
    assert frames.recognised_design(weight(stretched)) is None


def test_rounding_to_bfloat16_does_not_hide_a_design() -> None:
    assert frames.recognised_design(weight(simplex(100, 256).bfloat16())) == "simplex"


def test_welch_bound_of_six_lines_in_three_dimensions() -> None:
    assert frames.welch_bound(6, 3) == pytest.approx(1 / math.sqrt(5))
    assert frames.welch_bound(3, 6) == 0.0


def test_length_law_of_one_layer_is_recovered() -> None:
    counts = torch.tensor([400.0, 200.0, 100.0, 50.0, 10.0])
    norms = (counts.sqrt() - 2.292).sqrt()
    slope, offset, fit = frames.length_fit(norms, counts)
    assert (slope, offset, fit) == (pytest.approx(1.0), pytest.approx(2.292, rel=1e-6), pytest.approx(1.0))
    assert frames.length_fit(torch.ones(5), counts)[2] == 1.0
    noisy = norms + torch.tensor([0.3, -0.2, 0.1, 0.4, -0.3])
    line = np.polyfit(counts.sqrt().numpy(), noisy.square().numpy(), 1)
    correlation = np.corrcoef(counts.sqrt().numpy(), noisy.square().numpy())[0, 1]
    slope, offset, fit = frames.length_fit(noisy, counts)
    assert (slope, -offset, fit) == (
        pytest.approx(line[0], rel=1e-5),
        pytest.approx(line[1], rel=1e-4),
        pytest.approx(correlation**2, rel=1e-5),
    )


def test_trailing_layers_are_multiplied() -> None:
    first, second = gaussian(7, 5), gaussian(4, 7)
    head = frames.class_vectors(block({Role.HEAD: (first, second)}))
    assert head is not None
    assert torch.allclose(head.matrix, second @ first, atol=1e-14)
    assert frames.class_vectors(block({Role.HEAD: (second, first)})) is None


def test_padded_vocabulary_rows_are_removed_from_language_models_only() -> None:
    rows = gaussian(70, 5)
    facts = {"vocab_size": 66, "is_language_model": True}
    padded = frames.class_vectors(block({Role.HEAD: rows}, facts))
    plain = frames.class_vectors(block({Role.HEAD: rows}, {"vocab_size": 66}))
    assert padded is not None
    assert plain is not None
    assert (padded.matrix.shape[0], plain.matrix.shape[0]) == (66, 70)
