import math

import numpy as np
import pytest
import torch
from scipy.special import hyp0f1

from collapse_cli.analyzers.views.alignment_uniformity import alignment_uniformity, collapsed, healthy
from collapse_cli.core.finding import Severity
from collapse_cli.core.metric import Measurement
from collapse_cli.kernels.hypersphere import evenly_spaced, pair_potential, uniformity_ideal, unit_rows
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def uniformity_of(rows: np.ndarray) -> float:
    """Written out over all pairs of unit rows."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(units), 1)
    return math.log(np.exp(-2.0 * ((units[first] - units[second]) ** 2).sum(1)).mean())


def test_the_figure_of_align_uniform() -> None:
    rows = torch.randn(512, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    potential = pair_potential(unit_rows(rows))
    assert potential is not None
    assert potential.value == pytest.approx(-3.873222585, abs=1e-9)


@pytest.mark.parametrize(
    ("width", "value"), [(2, -1.5750), (8, -3.0825), (64, -3.8752), (512, -3.9844), (768, -3.9896)]
)
def test_uniform_directions(width: int, value: float) -> None:
    assert uniformity_ideal(width) == pytest.approx(value, abs=5e-5)
    assert uniformity_ideal(width) == pytest.approx(-4 + math.log(hyp0f1(width / 2, 4.0)), rel=1e-12)


def test_gaussian_directions_stand_at_the_ideal_within_the_standard_error() -> None:
    for width in (2, 8, 512):
        potential = pair_potential(unit_rows(gaussian(1500, width)))
        assert potential is not None
        assert abs(potential.value - uniformity_ideal(width)) < max(4 * potential.error, 1e-3)


def test_standard_error_is_the_spread_over_draws() -> None:
    potentials = [pair_potential(unit_rows(gaussian(300, 4, seed=s) + 1.0)) for s in range(60)]
    values = [p.value for p in potentials if p is not None]
    errors = [p.error for p in potentials if p is not None]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_every_metric_against_its_definition() -> None:
    rows, noise = gaussian(1100, 12).numpy() + 0.4, gaussian(2, 1100, 12, seed=1).numpy()
    a, b = rows + 0.05 * noise[0], rows + 0.3 * noise[1]
    labels = np.arange(1100) % 7
    found = measured(
        alignment_uniformity, {"view_a": torch.tensor(a), "view_b": torch.tensor(b), "labels": torch.tensor(labels)}
    )
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    assert found["alignment"].value == pytest.approx(((units[0] - units[1]) ** 2).sum(1).mean(), rel=1e-10)
    assert found["aligned_share"].value == ((units[0] * units[1]).sum(1) > 0.99).mean()
    assert 0.0 < found["aligned_share"].value < 1.0
    expected = (uniformity_of(a) + uniformity_of(b)) / 2
    assert found["uniformity"].value == pytest.approx(expected, abs=1e-10)
    assert found["uniformity_excess"].value == pytest.approx(expected + 4 - math.log(hyp0f1(6, 4.0)), abs=1e-10)
    cosines = units[0] @ units[0].T
    same = (labels[:, None] == labels) & ~np.eye(1100, dtype=bool)
    assert found["tolerance"].value == pytest.approx(cosines[same].mean(), abs=1e-10)
    assert found["tolerance"].null == pytest.approx(cosines[~np.eye(1100, dtype=bool)].mean(), abs=1e-10)


def test_features_alone_give_uniformity() -> None:
    features = gaussian(1200, 16)
    found = measured(alignment_uniformity, {"features": features})
    assert set(found) == {"uniformity", "uniformity_excess"}
    assert found["uniformity"].value == pytest.approx(uniformity_of(features.numpy()), abs=1e-10)


def test_collapse_to_one_point() -> None:
    subject = judged(alignment_uniformity, collapsed())
    found = {m.metric: m.value for m in subject.measurements}
    assert found["alignment"] == pytest.approx(0.0, abs=1e-12)
    assert found["uniformity"] == pytest.approx(0.0, abs=1e-12)
    assert found["uniformity_excess"] == pytest.approx(-uniformity_ideal(32), abs=1e-12)
    assert found["aligned_share"] == found["tolerance"] == pytest.approx(1.0)
    assert [f.severity for f in subject.findings] == [Severity.ERROR]


def test_the_limits_lie_where_they_say() -> None:
    """A common direction and a spread about it of 3e-4 of its energy is reported, of 2e-2 it is not."""
    for spread, expected in ((0.02, []), (3e-4, [Severity.WARNING]), (1e-5, [Severity.ERROR])):
        rows = gaussian(1024, 64) * math.sqrt(spread / 64)
        rows[:, 0] += 1.0
        assert findings(alignment_uniformity, {"features": rows}) == expected


@pytest.mark.parametrize("width", [8, 128, 2048])
def test_gaussian_rows_are_silent(width: int) -> None:
    rows = gaussian(1000, width).float()
    assert findings(alignment_uniformity, {"features": rows}) == []
    assert findings(alignment_uniformity, {"view_a": rows, "view_b": rows + 0.5 * gaussian(1000, width, seed=3)}) == []
    assert findings(alignment_uniformity, {"view_a": rows, "view_b": gaussian(1000, width, seed=3)}) == []


def test_few_rows_other_arrays_zeros_and_mixed_widths_are_said() -> None:
    assert reasons(results(alignment_uniformity, {"features": gaussian(999, 8)})) == ["finite rows 999 < 1,000"]
    mixed = results(alignment_uniformity, {"view_a": gaussian(1100, 8), "view_b": gaussian(1100, 6)})
    assert "alignment, aligned_share: views of widths 8 and 6" in reasons(mixed)
    assert reasons(results(alignment_uniformity, {"logits": gaussian(1100, 8)})) == ["neither two views nor features"]
    found = measured(alignment_uniformity, {"view_a": torch.zeros(1000, 8), "view_b": torch.zeros(1000, 8)})
    assert found["uniformity"].value == 0.0
    assert found["uniformity"].evidence["zero_rows"] == 2000
    assert "alignment" not in found


def test_many_rows_are_thinned_evenly() -> None:
    assert evenly_spaced(10, 20).tolist() == list(range(10))
    places = evenly_spaced(10_000, 4096)
    assert places.numel() == 4096
    assert set(places.diff().tolist()) == {2, 3}


def test_healthy_views_of_a_stack() -> None:
    example = healthy().tensors
    stack = torch.stack((example["projector/view_a"], example["projector/view_b"]), 1)
    found = measured(alignment_uniformity, {"views": stack})
    pair = measured(alignment_uniformity, {"view_a": stack[:, 0], "view_b": stack[:, 1]})
    for metric, measurement in found.items():
        assert isinstance(measurement, Measurement)
        assert measurement.value == pytest.approx(pair[metric].value, abs=1e-12)
    assert set(found) == {"alignment", "aligned_share", "uniformity", "uniformity_excess"}
