"""Closed forms of good, indifferent and fallen clusters; scipy and scikit-learn on random ones; groups of latents."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import silhouette_score

from collapse_cli.analyzers.codes.cluster_collapse import cluster_collapse
from collapse_cli.core.finding import Severity
from collapse_cli.core.metric import Measurement
from tests.view_dumps import findings, measured, results

METRICS = ("marginal_entropy", "sample_entropy", "assignment_information", "used_clusters", "largest_share")


def of(rows: torch.Tensor) -> dict[str, Measurement]:
    return measured(cluster_collapse, {"assignments": rows})


def certain(places: torch.Tensor) -> torch.Tensor:
    return torch.eye(4, dtype=torch.float64)[places]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (certain(torch.arange(400) % 4), (1.0, 0.0, math.log(4), 4, 0.25)),
        (torch.full((400, 4), 0.25, dtype=torch.float64), (1.0, 1.0, 0.0, 1, 1.0)),
        (certain(torch.ones(400).long()), (0.0, 0.0, 0.0, 1, 1.0)),
    ],
    ids=["good", "indifferent", "fallen"],
)
def test_closed_forms(rows: torch.Tensor, expected: tuple[float, ...]) -> None:
    found = of(rows)
    assert [found[name].value for name in METRICS] == pytest.approx(expected, abs=1e-12)
    assert found["target_divergence"].value == pytest.approx(0.0, abs=1e-12)
    assert found["used_clusters"].null == pytest.approx(4.0)


def test_target_of_deep_embedded_clustering() -> None:
    rows = (0.6 * torch.eye(4, dtype=torch.float64) + 0.1).repeat(50, 1)
    assert of(rows)["target_divergence"].value == pytest.approx(0.18499, abs=5e-6)
    q = np.random.default_rng(0).dirichlet([0.3, 0.5, 1.0], 90)
    q[:, 1] = 0.0
    q /= q.sum(1, keepdims=True)
    weight = q**2 / np.where(q.sum(0) > 0, q.sum(0), 1.0)
    p = weight / weight.sum(1, keepdims=True)
    expected = entropy(p[:, [0, 2]], q[:, [0, 2]], axis=1).mean()
    assert of(torch.tensor(q))["target_divergence"].value == pytest.approx(expected, rel=1e-9)


def test_rows_that_are_no_probabilities_are_logits() -> None:
    logits = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = softmax(logits.numpy(), axis=1)
    for rows, reading in ((logits, "softmax"), (torch.tensor(p), "probabilities")):
        found = of(rows)
        marginal, single = entropy(p.mean(0)), entropy(p, axis=1).mean()
        assert found["marginal_entropy"].value == pytest.approx(marginal / math.log(6), rel=1e-10)
        assert found["sample_entropy"].value == pytest.approx(single / math.log(6), rel=1e-10)
        assert found["assignment_information"].value == pytest.approx(marginal - single, rel=1e-9)
        assert found["largest_share"].evidence["sizes"] == sorted(np.bincount(p.argmax(1)).tolist(), reverse=True)
        assert found["marginal_entropy"].evidence["reading"] == reading


def test_structure_of_the_features_is_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.arange(300) % 3
    features = 9.0 * torch.eye(3, 5)[places] + torch.randn(300, 5, generator=generator)
    merged = certain(places.clamp(max=1))
    found = measured(cluster_collapse, {"assignments": merged, "features": features})["used_clusters"]
    assert found.evidence["silhouette"] == pytest.approx(
        silhouette_score(features.double().numpy(), places.clamp(max=1).numpy()), abs=1e-8
    )
    # the features have three clusters where the assignment uses two
    assert (found.value, found.evidence["eigengap_clusters"]) == (2.0, 3)
    equal = measured(cluster_collapse, {"assignments": merged, "features": torch.ones(300, 5)})["used_clusters"]
    assert "silhouette" not in equal.evidence


def test_groups_of_latents_are_clusterings_of_their_own() -> None:
    logits = torch.zeros(300, 3, 4)
    logits[torch.arange(300), 0, torch.arange(300) % 4] = 60.0
    logits[torch.arange(300), 1, torch.arange(300) % 2] = 60.0
    logits[:, 2, 3] = 60.0
    arrays = {"latent_logits": logits}
    found = measured(cluster_collapse, arrays)
    assert found["marginal_entropy"].value == pytest.approx(0.5)
    assert found["marginal_entropy"].evidence["by_group"] == pytest.approx([1.0, 0.5, 0.0])
    assert found["marginal_entropy"].evidence["least_group"] == 2
    assert found["assignment_information"].value == pytest.approx(math.log(2))
    assert (found["used_clusters"].value, found["used_clusters"].evidence["used_by_group"]) == (4.0, [4, 2, 1])
    assert found["used_clusters"].evidence["groups_with_one"] == 1
    assert found["largest_share"].value == pytest.approx((0.25 + 0.5 + 1.0) / 3)
    assert "target_divergence: no assignments" in str(results(cluster_collapse, arrays))
    assert findings(cluster_collapse, arrays) == []
    fallen = {"latent_logits": logits[:, 2:].repeat(1, 3, 1)}
    assert sorted(findings(cluster_collapse, fallen)) == [Severity.ERROR, Severity.ERROR, Severity.WARNING]


def test_limits_tell_total_collapse_from_uneven_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    assert findings(cluster_collapse, {"assignments": certain(torch.arange(400) % 4)}) == []
    rare = (torch.arange(400) % 100 == 0).long()
    assert findings(cluster_collapse, {"assignments": torch.eye(2)[rare]}) == []
    assert findings(cluster_collapse, {"assignments": torch.eye(2)[(torch.arange(2000) == 3).long()]}) == [
        Severity.WARNING
    ]
    assert findings(cluster_collapse, {"assignments": torch.full((400, 4), 0.25)}) == [Severity.ERROR] * 2
    for clusters, scale in ((2, 0.05), (64, 0.05), (64, 1.0)):
        untrained = scale * torch.randn(8 * clusters, clusters, generator=generator)
        assert findings(cluster_collapse, {"assignments": untrained}) == []


def test_few_rows_and_single_clusters_are_skipped() -> None:
    assert "19 rows < 5 for each of 4 clusters" in str(results(cluster_collapse, {"assignments": torch.rand(19, 4)}))
    assert "1 groups of 1 clusters" in str(results(cluster_collapse, {"assignments": torch.ones(19, 1)}))
    assert "0 rows < 5" in str(results(cluster_collapse, {"assignments": torch.full((40, 4), math.nan)}))


def test_a_dump_larger_than_the_sample_is_counted_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.softmax(torch.randn(9000, 3, generator=generator, dtype=torch.float64), 1)
    found = of(rows)
    assert found["marginal_entropy"].evidence["rows"] == 9000
    assert (found["target_divergence"].evidence["sampled"], found["target_divergence"].evidence["exact"]) == (
        8192,
        False,
    )
    weight = rows.numpy() ** 2 / rows.numpy().sum(0)
    p = weight / weight.sum(1, keepdims=True)
    assert found["target_divergence"].value == pytest.approx(entropy(p, rows.numpy(), axis=1).mean(), rel=0.02)
