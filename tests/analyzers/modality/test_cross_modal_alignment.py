import math

import numpy as np
import pytest
from scipy.linalg import orth, svdvals
from sklearn.neighbors import NearestNeighbors

from collapse_cli.analyzers.modality.cross_modal_alignment import cross_modal_alignment
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import reasons, values


def analysed(left: np.ndarray, right: np.ndarray, metadata: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
    dump = memory_dump({"modality_a": left, "modality_b": right}, metadata=metadata or {})
    analysis = analyse_dump(dump, [cross_modal_alignment])
    assert not analysis.failures
    return analysis


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    left = rng.normal(size=(500, 40)) + 5
    right = np.concatenate([left[:, :10] @ rng.normal(size=(10, 30)), rng.normal(size=(500, 20))], axis=1) - 3
    return left, right


def test_debiased_cka_is_that_of_the_published_implementations() -> None:
    found = values(analysed(*pair()).measurements)
    assert found["cka_debiased"] == pytest.approx(0.40064227187, abs=1e-10)
    assert found["cka_debiased_z"] == pytest.approx(0.40064227187 * math.sqrt(500 * 497 / 2), rel=1e-9)


def test_on_wide_noise_the_biased_form_reads_high_and_the_debiased_zero() -> None:
    rng = np.random.default_rng(1)
    by_name = {m.metric: m for m in analysed(rng.normal(size=(200, 50)), rng.normal(size=(200, 300))).measurements}
    cka = by_name["cka_debiased"]
    assert cka.evidence["biased"] == pytest.approx(math.sqrt(50 * 300 / (250 * 500)), abs=0.02)
    assert cka.value == pytest.approx(0.0, abs=0.02)
    assert abs(by_name["cka_debiased_z"].value) < 3


def test_canonical_correlations_are_those_of_orthonormal_bases() -> None:
    left, right = pair()
    by_name = {m.metric: m for m in analysed(left, right).measurements}
    cosines = svdvals(orth(left - left.mean(0)).T @ orth(right - right.mean(0)))
    assert by_name["cca_mean_r2"].value == pytest.approx(np.square(cosines).mean(), rel=1e-9)
    # of the right side's 50 features thirty lie in ten directions
    assert by_name["cca_mean_r2"].evidence["rank_b"] == 30
    assert by_name["shared_rank"].value == 10
    assert by_name["shared_rank"].evidence["largest_by_chance"] == pytest.approx(
        math.sqrt(0.08 * 0.94) + math.sqrt(0.06 * 0.92), rel=1e-12
    )


def test_neighbours_and_recall_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    left = rng.normal(size=(300, 20)) + 1
    right = left + rng.normal(size=(300, 20))
    found = values(analysed(left, right).measurements)
    lists = [
        NearestNeighbors(n_neighbors=10, metric="cosine").fit(x).kneighbors(return_distance=False)
        for x in (left, right)
    ]
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*lists, strict=True)])
    assert found["mutual_knn"] == pytest.approx(share, abs=1e-12)
    first = NearestNeighbors(n_neighbors=1, metric="cosine").fit(right).kneighbors(left, return_distance=False)[:, 0]
    assert found["recall_at_1"] == pytest.approx((first == np.arange(300)).mean(), abs=1e-12)
    assert 0.1 < found["recall_at_1"] < 0.99


def test_a_copy_has_everything_in_common_and_a_rotated_one_all_but_the_space() -> None:
    left = np.random.default_rng(3).normal(size=(400, 16)) * np.linspace(0.2, 3, 16)
    turn = orth(np.random.default_rng(4).normal(size=(16, 16)))
    for right, recall in ((left, 1.0), (left @ turn, None)):
        found = values(analysed(left, right).measurements)
        for metric in ("cka_debiased", "mutual_knn", "cca_mean_r2"):
            assert found[metric] == pytest.approx(1.0, abs=1e-9), metric
        assert found["shared_rank"] == 16
        assert recall is None or found["recall_at_1"] == recall
        assert found["cka_debiased_z"] > 100


def test_unrelated_rows_stand_at_their_nulls() -> None:
    z_scores = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        by_name = {m.metric: m for m in analysed(rng.normal(size=(300, 8)), rng.normal(size=(300, 8))).measurements}
        z_scores.append([by_name[f"{name}_z"].value for name in ("cka_debiased", "mutual_knn", "recall_at_1")])
        assert by_name["cca_mean_r2"].value == pytest.approx(by_name["cca_mean_r2"].null, rel=0.8)
        assert by_name["shared_rank"].value <= 1
    assert np.abs(np.mean(z_scores, axis=0)).max() < 0.75
    # the standard errors are right to what 20 draws can show
    assert (np.std(z_scores, axis=0) > 0.4).all()
    assert (np.std(z_scores, axis=0) < 1.8).all()


@pytest.mark.parametrize(
    ("rows", "widths", "metadata", "says"),
    [
        (99, (8, 8), {}, "99 rows < 100"),
        (200, (8, 8), {"paired": "false"}, "rows not paired"),
        (200, (60, 60), {}, "twice as many rows"),
        (200, (8, 9), {}, "different width"),
    ],
)
def test_what_does_not_apply_is_said(rows: int, widths: tuple[int, int], metadata: dict[str, str], says: str) -> None:
    rng = np.random.default_rng(0)
    analysis = analysed(rng.normal(size=(rows, widths[0])), rng.normal(size=(rows, widths[1])), metadata)
    assert any(says in reason for reason in reasons(analysis.skips))


def test_a_constant_modality_is_not_measured() -> None:
    analysis = analysed(np.full((200, 8), 0.1), np.random.default_rng(0).normal(size=(200, 8)))
    assert reasons(analysis.skips) == ["all rows of a modality are equal"]
    assert values(analysis.measurements) == {}


def test_streamed_and_whole_agree() -> None:
    left, right = pair()
    parts = [{"modality_a": left[s], "modality_b": right[s]} for s in (slice(0, 123), slice(123, None))]
    streamed = values(analyse_dump(memory_dump(*parts, metadata={}), [cross_modal_alignment]).measurements)
    assert streamed == {k: pytest.approx(v, rel=1e-8) for k, v in values(analysed(left, right).measurements).items()}
