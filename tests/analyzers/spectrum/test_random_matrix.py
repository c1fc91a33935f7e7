import numpy as np
import pytest
import torch

from collapse_cli.analyzers.spectrum.random_matrix import random_matrix
from collapse_cli.kernels import random_matrix as law
from collapse_cli.kernels import spectrum
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def planted(*multiples: float) -> torch.Tensor:
    rows, columns, count = 256, 512, len(multiples)
    left, right = torch.linalg.qr(gaussian(rows, count, seed=1)).Q, torch.linalg.qr(gaussian(columns, count, seed=2)).Q
    return gaussian(rows, columns) + left * (torch.tensor(multiples) * (rows * columns) ** 0.25) @ right.T


def test_planted_directions_are_the_spikes() -> None:
    found = at(random_matrix.run(weight(planted(4, 3, 2))))
    assert found["spikes", "w"].value == 3
    assert found["spike_energy", "w"].value == pytest.approx(0.094, abs=0.005)
    assert found["mp_softrank", "w"].value == pytest.approx(0.220, abs=0.02)
    assert found["mp_sigma", "w"].value == pytest.approx(1.0, abs=0.01)
    # 1 − c(1+t)/(t(t+c)), t = multiple²·√c, c = ½
    assert found["spikes", "w"].evidence["strongest_overlaps"] == pytest.approx([0.954, 0.916, 0.797], abs=0.02)
    assert found["traps", "w"].value <= 1


def test_noise_is_noise() -> None:
    found = at(random_matrix.run(weight(0.05 * gaussian(128, 256, seed=3))))
    assert found["spikes", "w"].value == found["spike_energy", "w"].value == 0
    assert found["mp_softrank", "w"].value == pytest.approx(1.03, abs=0.04)
    assert found["mp_sigma", "w"].value == pytest.approx(found["mp_sigma", "w"].null, rel=0.02)
    for metric in ("bulk_distance", "rand_distance"):
        measured = found[metric, "w"]
        assert measured.value == pytest.approx(measured.null, rel=0.5), metric


def test_large_entries_are_traps_and_structure_is_none() -> None:
    rows, columns = 200, 400
    matrix = gaussian(rows, columns)
    matrix[7, 11] = 100.0  # (MN)^¼ = 16.8
    found = at(random_matrix.run(weight(matrix)))
    assert found["traps", "w"].value == pytest.approx(1.0, abs=0.4)
    assert found["traps", "w"].evidence["shuffles"] == 3
    shuffled = law.shuffled_singular_values(weight(matrix))[0]
    assert float(shuffled[0]) ** 2 == pytest.approx((100**2 + rows) * (100**2 + columns) / 100**2, rel=0.05)
    matrix[7, 11] = 10.0
    assert values(random_matrix.run(weight(matrix)))["traps"] == 0.0


def test_structure_is_far_from_its_shuffles() -> None:
    found = at(random_matrix.run(weight(planted(40, 30, 20))))
    assert found["rand_distance", "w"].value > 20 * found["rand_distance", "w"].null


def test_few_directions_over_next_to_no_noise_are_warned() -> None:
    metric = random_matrix.manual.metric("spike_energy")
    assert metric.warn is not None
    low = gaussian(64, 4) @ gaussian(4, 96, seed=1) + 0.002 * gaussian(64, 96, seed=2)
    assert metric.warn.is_crossed(values(random_matrix.run(weight(low)))["spike_energy"], None)
    assert not metric.warn.is_crossed(values(random_matrix.run(weight(planted(40, 30, 20))))["spike_energy"], None)


def test_a_table_of_sines_has_no_noise_to_compare_with() -> None:
    angles = torch.arange(512.0)[:, None] / 10000.0 ** (torch.arange(32) / 32)
    results = list(random_matrix.run(weight(torch.cat([angles.sin(), angles.cos()], 1))))
    assert values(results)["spikes"] > 64 / 3
    assert "spike_energy" not in values(results)
    assert any(reason.startswith("spike_energy: ") for reason in reasons(results))


@pytest.mark.parametrize("matrix", [torch.zeros(40, 48), torch.full((40, 48), 0.1)])
def test_without_a_bulk_it_is_skipped(matrix: torch.Tensor) -> None:
    results = list(random_matrix.run(weight(matrix)))
    assert values(results) == {}
    assert "no bulk" in reasons(results)[0]


def test_orthogonal_matrices_have_no_such_bulk() -> None:
    found = values(random_matrix.run(weight(torch.linalg.qr(gaussian(64, 64)).Q)))
    assert found["bulk_distance"] == pytest.approx(0.5, abs=0.05)


def test_more_entries_than_can_be_shuffled_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "MAX_SHUFFLED_ENTRIES", 40 * 50 - 1)
    results = list(random_matrix.run(weight(gaussian(40, 50))))
    assert "traps" not in values(results)
    assert reasons(results) == ["rand_distance, traps: 2000 entries, shuffled up to 1999"]


def test_beyond_the_exact_spectrum_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "MAX_EXACT_SIDE", 64)
    results = list(random_matrix.run(weight(gaussian(80, 120))))
    assert values(results) == {}
    assert "no exact spectrum" in reasons(results)[0]
