"""Profiles with known quotients, ranks and accuracies, and the definitions in numpy."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.neural_collapse.layerwise_collapse import layerwise_collapse
from tests.analyzers.probe.depth import Arrays, layers, subject
from tests.views import at, reasons

CLASSES, ROWS = 4, 400


def simplex(spread: float, *, width: int = 8) -> dict[str, torch.Tensor]:
    """Class means on a regular simplex, rows at m_k ± spread along the last axis: tr Σ_W = spread², tr Σ_B = 3/4."""
    labels = torch.arange(ROWS) % CLASSES
    features = torch.eye(CLASSES, width, dtype=torch.float64)[labels]
    features[:, -1] = spread * (1.0 - 2.0 * ((torch.arange(ROWS) // CLASSES) % 2)).double()
    return {"features": features, "labels": labels}


def flipped(wrong: int, *, rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Two classes at ±1 on one axis with so many of 1000 rows on the wrong side, in `rank` dimensions of 64."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(1000) % 2
    sides = 2.0 * labels.double() - 1.0
    order = torch.cat([torch.randperm(500, generator=generator)[: wrong // 2] * 2 + side for side in (0, 1)])
    sides[order] *= -1.0
    features = torch.zeros(1000, 64, dtype=torch.float64)
    features[:, 0] = sides
    features[:, 1:rank] = 0.01 * torch.randn(1000, rank - 1, generator=generator, dtype=torch.float64)
    return {"features": features, "labels": labels}


def test_quotients_that_fall_tenfold_are_monotone_without_reversals() -> None:
    points: list[Arrays] = [simplex(math.sqrt(0.75 * 10.0**-layer)) for layer in range(1, 6)]
    found = at(layerwise_collapse.run(layers(layerwise_collapse, points)))
    for layer in range(5):
        profile = found["quotient_profile", f"layers.{layer}"]
        assert profile.value == pytest.approx(10.0 ** -(layer + 1), rel=1e-9)
        # (1 − K/N)νK/(K − 1) of 4 classes of 100 rows
        assert profile.null == pytest.approx(0.99 * 100 * 4 / 3)
    monotone = found["depth_monotonicity", "#layers"]
    assert (monotone.value, found["nc1_reversals", "#layers"].value) == (pytest.approx(1.0), 0.0)
    assert monotone.evidence["layer"] == [0, 1, 2, 3, 4]
    assert monotone.evidence["value"] == pytest.approx([0.1, 0.01, 0.001, 1e-4, 1e-5])


def test_a_profile_upside_down_is_reversed_at_every_clear_step() -> None:
    # relative error of the spread in one direction: √(2(1/396 + 1/3)) = 0.82, of a ratio of two 1.16: e^{3.48} = 32
    points: list[Arrays] = [simplex(math.sqrt(q)) for q in (1e-6, 1e-3, 0.025, 1.0)]
    found = at(layerwise_collapse.run(layers(layerwise_collapse, points)))
    assert found["depth_monotonicity", "#layers"].value == pytest.approx(-1.0)
    assert found["nc1_reversals", "#layers"].value == 2.0
    assert found["nc1_reversals", "#layers"].evidence["rises"] == ["layers.1", "layers.3"]
    error = found["quotient_profile", "layers.3"].evidence["error"]
    assert error == pytest.approx(1.0 / 0.75 * math.sqrt(2.0 * (1 / 396 + 1 / 3)))


def test_quotient_is_that_of_the_dense_scatters() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (200,), generator=generator)
    features = torch.randn(200, 10, generator=generator, dtype=torch.float64) + labels[:, None]
    x, y = features.numpy(), labels.numpy()
    means = np.stack([x[y == k].mean(0) for k in range(3)])
    within = sum(np.square(x[y == k] - means[k]).sum() for k in range(3)) / 200
    between = np.square(means - means.mean(0)).sum() / 3
    points: list[Arrays] = [{"features": features, "labels": labels}] * 3
    found = at(layerwise_collapse.run(layers(layerwise_collapse, points, batches=4)))
    assert found["quotient_profile", "layers.1"].value == pytest.approx(within / between, rel=1e-9)


def test_the_tunnel_begins_behind_the_first_layer_that_reads_as_well_as_the_last() -> None:
    points: list[Arrays] = [
        flipped(wrong, rank=rank)
        for wrong, rank in ((400, 60), (100, 40), (10, 9), (10, 9), (10, 9))  # accuracies .6 .9 .99 .99 .99
    ]
    found = at(layerwise_collapse.run(layers(layerwise_collapse, points)))
    tunnel = found["tunnel_share", "#layers"]
    assert tunnel.evidence["value"] == pytest.approx([0.6, 0.9, 0.99, 0.99, 0.99])
    assert (tunnel.value, tunnel.evidence["begins_behind"]) == (pytest.approx(2 / 5), "layers.2")
    assert [found["numerical_rank", f"layers.{i}"].value for i in range(5)] == [60, 40, 9, 9, 9]


def test_numerical_rank_counts_above_a_thousandth_of_the_strongest() -> None:
    generator = torch.Generator().manual_seed(5)
    directions = torch.linalg.qr(torch.randn(300, 6, generator=generator, dtype=torch.float64)).Q
    directions = torch.linalg.qr(directions - directions.mean(0)).Q
    features = directions * torch.tensor([1.0, 0.1, 2e-3, 1.1e-3, 0.9e-3, 1e-5], dtype=torch.float64) + 7.0
    points: list[Arrays] = [{"features": features, "labels": torch.arange(300) % 3}] * 3
    found = at(layerwise_collapse.run(layers(layerwise_collapse, points)))["numerical_rank", "layers.0"]
    assert (found.value, found.null) == (4.0, 6.0)


def test_a_constant_layer_and_one_at_chance_are_stated() -> None:
    constant = {"features": torch.ones(ROWS, 8), "labels": torch.arange(ROWS) % CLASSES}
    result = subject(layerwise_collapse, [simplex(0.5), simplex(0.1), simplex(0.1), constant])
    said = "; ".join(skip.reason for skip in result.skips)
    assert "quotient_profile: all class means are equal" in said
    assert "numerical_rank: all rows are equal" in said
    assert "tunnel_share: the last layer reads the class no better than chance" in said
    assert {m.metric for m in result.measurements if m.site == "#layers"} == {"depth_monotonicity", "nc1_reversals"}


def test_equal_layers_have_no_order() -> None:
    assert "the quotient is the same" in "; ".join(
        reasons(layerwise_collapse.run(layers(layerwise_collapse, [simplex(0.1)] * 3)))
    )


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_layers_are_a_stated_skip(count: int) -> None:
    results = list(layerwise_collapse.run(layers(layerwise_collapse, [simplex(0.1)] * count)))
    assert reasons(results) == [f"fewer than 3 ordered sites: {count}"]
    assert len(results) == 1
