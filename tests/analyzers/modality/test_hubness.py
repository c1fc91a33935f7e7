import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.neighbors import NearestNeighbors

from collapse_cli.analyzers.modality.hubness import hubness
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.hubs import gaussian_like, hubs
from collapse_cli.sources.dump import memory_dump
from tests.views import at, reasons, values


def analysed(arrays: dict[str, np.ndarray]):  # type: ignore[no-untyped-def]
    analysis = analyse_dump(memory_dump(arrays, metadata={}), [hubness])
    assert not analysis.failures
    return analysis


def cloud(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


def counts(queries: np.ndarray, gallery: np.ndarray | None = None) -> np.ndarray:
    fitted = NearestNeighbors(n_neighbors=10, metric="cosine").fit(queries if gallery is None else gallery)
    lists = fitted.kneighbors(None if gallery is None else queries, return_distance=False)
    return np.bincount(lists.ravel(), minlength=len(queries if gallery is None else gallery))


def test_a_ring_has_no_hubs_and_a_star_has_one() -> None:
    angles = 2 * torch.pi * torch.arange(60, dtype=torch.float64) / 60
    ring = hubs(torch.stack((angles.cos(), angles.sin()), 1), count=2)
    assert (ring.skewness, ring.antihub_share, ring.hub_occurrence, ring.largest) == (0.0, 0.0, 0.0, 2)
    corners = torch.eye(100, dtype=torch.float64)
    star = hubs(torch.cat((corners, corners.mean(0, keepdim=True))), count=1)
    assert star.skewness == pytest.approx(9.8985, abs=1e-4)
    assert star.antihub_share == pytest.approx(99 / 101)
    assert star.hub_occurrence == pytest.approx(100 / 101)


def test_agrees_with_scipy_and_scikit_learn() -> None:
    rows = cloud(1100, 30) + 0.5
    found = values(analysed({"features": rows}).measurements)
    times = counts(rows)
    assert found["hub_skewness"] == pytest.approx(skew(times), rel=1e-9)
    assert found["antihub_share"] == pytest.approx((times == 0).mean())
    assert found["hub_occurrence"] == pytest.approx(times[times >= 20].sum() / 11000)
    assert found["antihub_share"] > 0.01


def test_queries_of_one_modality_in_the_gallery_of_another() -> None:
    queries, gallery = cloud(1000, 20), cloud(1000, 20, seed=1) + 0.3
    found = at(analysed({"modality_a": queries, "modality_b": gallery}).measurements)
    times = counts(queries, gallery)
    assert found["hub_skewness", "output#a-to-b"].value == pytest.approx(skew(times), rel=1e-9)
    assert found["antihub_share", "output#a-to-b"].value == pytest.approx((times == 0).mean())
    # a query is not left out of the gallery's rows: they are others
    assert times.sum() == 10_000


def test_gaussian_rows_with_any_covariance_stand_at_the_null() -> None:
    rows = cloud(1500, 60) * np.linspace(0.1, 4, 60) + np.linspace(-2, 2, 60)
    found = at(analysed({"features": rows}).measurements)
    skewness = found["hub_skewness", "output"]
    assert skewness.value > 0.5
    assert skewness.value == pytest.approx(skewness.null, rel=0.25)
    assert found["antihub_share", "output"].value == pytest.approx(found["antihub_share", "output"].null, abs=0.03)


def test_the_surrogate_has_the_mean_and_covariance_of_the_rows() -> None:
    rows = torch.tensor(cloud(3000, 4) @ np.array([[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]]) + 7.0)
    drawn = gaussian_like(rows, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.mean(0), rows.mean(0), atol=0.2)
    assert torch.allclose(drawn.T.cov(), rows.T.cov(), atol=0.6)
    assert float(drawn[:, 3].std()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"features": cloud(999, 4)}, "fewer than 1,000 distinct rows"),
        ({"features": np.tile(cloud(500, 4), (4, 1))}, "500 of 2,000"),
        ({"modality_a": cloud(1000, 4), "modality_b": cloud(1000, 5)}, "share no space"),
        ({"view_a": cloud(1000, 4), "view_b": cloud(1000, 4)}, "neither features nor two modalities"),
    ],
)
def test_what_does_not_apply_is_said(arrays: dict[str, np.ndarray], says: str) -> None:
    analysis = analysed(arrays)
    assert values(analysis.measurements) == {}
    assert any(says in reason for reason in reasons(analysis.skips))


def test_streamed_and_whole_agree() -> None:
    rows = cloud(1200, 8)
    whole = values(analysed({"features": rows}).measurements)
    parts = [{"features": rows[:500]}, {"features": rows[500:]}]
    assert values(analyse_dump(memory_dump(*parts, metadata={}), [hubness]).measurements) == whole
