"""Sums of soft assignments against scipy, in both readings; the eigengap of blobs; whatever the batches."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from collapse_cli.kernels.accumulators import Batch, SoftAssignments
from collapse_cli.kernels.soft_assignments import eigengap_clusters
from tests.kernels.merging import assert_is_the_whole


def fed(rows: torch.Tensor, role: str = "assignments") -> SoftAssignments:
    accumulator = SoftAssignments(role)
    accumulator.update(Batch({role: rows}))
    return accumulator


def dirichlet(rows: int = 60, clusters: int = 5) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).dirichlet([0.5] * clusters, rows))


@pytest.mark.parametrize("spoil", ["no", "negative", "sum"])
def test_split_and_merged_it_is_the_whole(spoil: str) -> None:
    rows = dirichlet()
    if spoil == "negative":
        rows[41, :2] += torch.tensor([-1.0, 1.0])
    if spoil == "sum":
        rows[17] *= 1.02
    assert fed(rows).is_softmax == (spoil != "no")
    assert_is_the_whole(SoftAssignments, {"assignments": rows})


def test_groups_split_and_merged_are_the_whole() -> None:
    logits = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
    logits[::9, 1] = -torch.inf
    logits[1::9, 0, :3] = -torch.inf
    assert_is_the_whole(lambda: SoftAssignments("latent_logits"), {"latent_logits": logits})
    assert fed(logits, "latent_logits").masked_rows == 6


def test_probabilities_are_renormalised_and_anything_else_is_softmaxed() -> None:
    rows = dirichlet()
    rounded = fed((rows * 1.009).float())
    assert not rounded.is_softmax
    assert rounded.mass[0].numpy() == pytest.approx(rows.numpy().sum(0), rel=1e-6)
    assert float(rounded.entropy[0]) == pytest.approx(entropy(rows.numpy(), axis=1).sum(), rel=1e-6)
    for scores in (rows * 1.011, rows * 0.989, rows - 1e-3, torch.zeros(9, 5).double(), 7.0 * rows):
        found = fed(scores)
        expected = softmax(scores.numpy(), axis=1)
        assert found.is_softmax
        assert found.mass[0].numpy() == pytest.approx(expected.sum(0), rel=1e-12)
        assert float(found.entropy[0]) == pytest.approx(entropy(expected, axis=1).sum(), rel=1e-12)
        assert found.shares(scores).numpy() == pytest.approx(expected, rel=1e-12)
    assert found.decided[0].tolist() == np.bincount(rows.numpy().argmax(1), minlength=5).tolist()


def test_masked_categories_have_no_share() -> None:
    logits = torch.zeros(10, 1, 4, dtype=torch.float64)
    logits[:, :, 2:] = -torch.inf
    found = fed(logits, "latent_logits")
    assert found.mass.tolist() == [[5.0, 5.0, 0.0, 0.0]]
    assert float(found.entropy[0]) == pytest.approx(10 * math.log(2))


@pytest.mark.parametrize("clusters", [1, 3, 6])
def test_eigengap_counts_well_separated_blobs(clusters: int) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 30.0 * torch.eye(8, dtype=torch.float64)
    rows = centres[torch.arange(240) % clusters] + torch.randn(240, 8, generator=generator, dtype=torch.float64)
    assert eigengap_clusters(rows, 12) == clusters


def test_eigengap_of_few_or_equal_rows_is_none() -> None:
    assert eigengap_clusters(torch.zeros(40, 3, dtype=torch.float64), 5) is None
    assert eigengap_clusters(torch.randn(15, 3, generator=torch.Generator().manual_seed(0)).double(), 5) is None


def test_assignments_of_different_roles_do_not_merge() -> None:
    with pytest.raises(ValueError, match="do not merge"):
        SoftAssignments().merge(SoftAssignments("latent_logits"))
