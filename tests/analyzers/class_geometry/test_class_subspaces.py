"""Angles, separation, subspaces and neighbour scores against the definitions in numpy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.neighbors import NearestNeighbors

from collapse_cli import kernels
from collapse_cli.analyzer import Example
from collapse_cli.analyzers.class_geometry.class_subspaces import class_subspaces
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Subject
from tests.contract.examples import judged


def subject(features: torch.Tensor, labels: torch.Tensor) -> Subject:
    result = judged(class_subspaces, Example({"features": features, "labels": labels}, metadata={}))
    assert [failure.message for failure in result.failures] == []
    return result


def found(features: torch.Tensor, labels: torch.Tensor) -> dict[str, Measurement]:
    return {measurement.metric: measurement for measurement in subject(features, labels).measurements}


def random_dump(classes: int = 3, each: int = 40, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(classes * each) % classes
    means = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    spread = 0.5 + labels[:, None].double()
    return means[labels] + spread * torch.randn(len(labels), width, generator=generator, dtype=torch.float64), labels


def units_of(features: torch.Tensor) -> np.ndarray:
    return features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)


def test_angles_and_separation_are_those_of_all_pairs() -> None:
    features, labels = random_dump()
    z, y = units_of(features), labels.numpy()
    angles, same = np.degrees(np.arccos(np.clip(z @ z.T, -1, 1))), y[:, None] == y
    different_row = ~np.eye(len(y), dtype=bool)
    intra = np.mean([angles[(same & different_row) & (y == k)[:, None]].mean() for k in range(3)])
    inter = np.mean([angles[~same & (y == k)[:, None]].mean() for k in range(3)])
    measured = found(features, labels)
    assert measured["intra_angle"].value == pytest.approx(intra, rel=1e-9)
    assert measured["inter_angle"].value == pytest.approx(inter, rel=1e-9)
    # pairs of a row with itself included, classes weighted alike (Kornblith et al. 2021)
    distance = 1 - z @ z.T
    within = np.mean([distance[np.ix_(y == k, y == k)].mean() for k in range(3)])
    everything = np.mean([distance[np.ix_(y == i, y == j)].mean() for i in range(3) for j in range(3)])
    assert measured["class_separation"].value == pytest.approx(1 - within / everything, rel=1e-9)
    assert measured["class_separation"].null == pytest.approx((1 / 40 - 1 / 120) / (1 - 1 / 120))


def test_overlap_is_that_of_the_principal_angles() -> None:
    generator = np.random.default_rng(0)
    bases = [np.linalg.qr(generator.standard_normal((12, 3)))[0] for _ in range(3)]
    rows = [generator.standard_normal((50, 3)) @ basis.T for basis in bases]
    overlaps = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        tops = [np.linalg.svd(part - part.mean(0))[2][:3].T for part in (rows[i], rows[j])]
        overlaps.append(np.square(np.cos(subspace_angles(*tops))).mean())
    labels = torch.arange(3).repeat_interleave(50)
    measured = found(torch.tensor(np.concatenate(rows)), labels)["subspace_overlap"]
    assert measured.value == pytest.approx(np.mean(overlaps), rel=1e-9)
    assert measured.null == pytest.approx(3 / 12)
    assert measured.evidence["pairs"] == 3


def test_width_of_a_class_is_the_entropy_rank_of_its_covariance() -> None:
    features, labels = random_dump()
    ranks = []
    for k in range(3):
        shares = np.linalg.eigvalsh(np.cov(features.numpy()[labels.numpy() == k].T))
        shares = shares / shares.sum()
        ranks.append(np.exp(-(shares * np.log(shares)).sum()))
    measured = found(features, labels)["class_erank"]
    assert measured.value == pytest.approx(np.median(ranks), rel=1e-9)
    assert measured.evidence["narrowest"] == pytest.approx(min(ranks), rel=1e-9)
    assert measured.null == pytest.approx(8 * math.exp(-8 / (2 * 39)))


def test_spread_ratio_and_its_null() -> None:
    features, labels = random_dump()
    variances = [features[labels == k].var(0, correction=0).sum() for k in range(3)]
    measured = found(features, labels)["class_spread_ratio"]
    assert measured.value == pytest.approx(float(max(variances) / min(variances)), rel=1e-9)
    assert (measured.evidence["widest"], measured.evidence["narrowest"]) == (2, 0)
    generator = np.random.default_rng(0)
    for classes in (2, 10):
        draws = generator.chisquare(60, (4000, classes))
        expected = np.exp(np.log(draws.max(1) / draws.min(1)).mean())
        assert kernels.class_subspaces.largest_variance_ratio_null(classes, 60.0) == pytest.approx(expected, rel=0.02)


def test_neighbour_score_is_that_of_its_definition() -> None:
    features, labels = random_dump()
    x, y = features.numpy(), labels.numpy()
    distances, indices = (part[:, 1:] for part in NearestNeighbors(n_neighbors=6).fit(x).kneighbors(x))
    same = y[indices] == y[:, None]
    low, high = distances.min(1, keepdims=True), distances.max(1, keepdims=True)
    scaled = (distances - low) / (high - low)
    length = np.where(same, 1 - scaled, scaled).sum(1)
    expected = (np.sqrt(length / length.max()).mean() + np.sqrt(same.mean(1)).mean()) / 2
    measured = found(features, labels)["icnn"]
    assert measured.value == pytest.approx(expected, rel=1e-9)
    generator = np.random.default_rng(1)
    shares = generator.binomial(5, 39 / 119, 200_000) / 5
    assert measured.evidence["random_neighbours"] == pytest.approx(np.sqrt(shares).mean(), abs=0.003)


def test_separating_dimensions_are_as_many_as_were_planted() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(128) % 2
    noise = torch.randn(128, 20, generator=generator, dtype=torch.float64)
    one = noise.clone()
    one[:, 7] += 6.0 * labels
    assert found(one, labels)["separating_dims"].value == 1
    # the area of m independent dimensions a distance of 1 apart is Φ(√(m/2)): .95 from 5.4 on
    many = noise + 1.0 * labels[:, None]
    assert 4 <= found(many, labels)["separating_dims"].value <= 10
    # on the rows they were chosen from, a few of 200 dimensions of noise would separate
    noise = torch.randn(128, 200, generator=generator, dtype=torch.float64)
    none = found(noise, labels)["separating_dims"]
    assert (none.value, none.evidence["unseparated"]) == (200, 1)


def test_a_simplex_without_spread_in_closed_form() -> None:
    labels = torch.arange(160) % 4
    simplex = (torch.eye(4) - 0.25).double()
    result = subject(simplex[labels], labels)
    measured = {m.metric: m.value for m in result.measurements}
    assert measured["intra_angle"] == pytest.approx(0.0, abs=1e-4)
    assert measured["inter_angle"] == pytest.approx(math.degrees(math.acos(-1 / 3)))  # 109.47
    assert measured["class_separation"] == pytest.approx(1.0)
    assert measured["separating_dims"] == 1
    said = "; ".join(skip.reason for skip in result.skips)
    assert "subspace_overlap, class_erank: zero spread in every class" in said
    assert "class_spread_ratio: zero spread in 4 classes" in said


def test_orthogonal_classes_do_not_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 4
    own = (torch.arange(32) // 8 == labels[:, None]).double()
    measured = found(own * torch.randn(240, 32, generator=generator, dtype=torch.float64), labels)
    assert measured["subspace_overlap"].value == pytest.approx(0.0, abs=1e-12)
    assert measured["inter_angle"].value == pytest.approx(90.0, abs=1e-9)
    assert measured["intra_angle"].value == pytest.approx(90.0, abs=2.0)


def test_too_many_directions_for_the_rows_are_not_compared() -> None:
    features, labels = random_dump(each=24, width=64)
    assert "subspace_overlap: n_k < 2r" in "; ".join(skip.reason for skip in subject(features, labels).skips)


@pytest.mark.parametrize("labels", [torch.zeros(60), torch.arange(60) % 4, torch.full((60,), -1)])
def test_small_classes_are_a_stated_skip(labels: torch.Tensor) -> None:
    result = subject(torch.randn(60, 4), labels.long())
    assert result.measurements == ()
    assert result.skips[0].reason == "fewer than 2 classes with 20 rows"


def test_equal_rows_are_measured_or_skipped() -> None:
    result = subject(torch.full((100, 5), 0.3), torch.arange(100) % 4)
    said = "; ".join(skip.reason for skip in result.skips)
    assert "class_separation: all rows point one way" in said
    assert {m.metric: m.value for m in result.measurements}["separating_dims"] == 5


def test_many_classes_are_thinned() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 100
    measured = found(torch.randn(3000, 6, generator=generator), labels)["intra_angle"]
    assert (measured.evidence["classes"], measured.evidence["sampled_classes"]) == (100, 32)
