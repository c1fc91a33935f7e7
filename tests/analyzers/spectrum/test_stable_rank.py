import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.spectrum.stable_rank import stable_rank
from collapse_cli.kernels import spectrum
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def test_weightwatchers_figure() -> None:
    matrix = torch.tensor((0.05 * np.random.default_rng(0).standard_normal((256, 512))).astype(np.float32))
    assert values(stable_rank.run(weight(matrix)))["stable_rank"] == pytest.approx(90.652443, rel=1e-6)


def test_closed_form_of_a_diagonal_matrix() -> None:
    sigma = torch.tensor([4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    found = values(stable_rank.run(weight(torch.diag(sigma))))
    assert found["stable_rank"] == pytest.approx(34 / 16, rel=1e-12)
    assert found["nuclear_rank"] == pytest.approx(14 / 4, rel=1e-12)
    assert found["nuclear_frobenius"] == pytest.approx(14**2 / 34, rel=1e-12)
    assert found["spectral_norm"] == pytest.approx(4.0, rel=1e-12)
    assert found["root_mean_square"] == pytest.approx(math.sqrt(34 / 64), rel=1e-12)


def test_gaussian_matrices_stand_at_the_null() -> None:
    mean = np.mean([values(stable_rank.run(weight(gaussian(100, 100, seed=s))))["stable_rank"] for s in range(20)])
    assert mean == pytest.approx(26.3, abs=0.4)
    found = at(stable_rank.run(weight(0.1 * gaussian(200, 300))))
    for metric in ("stable_rank", "nuclear_rank", "nuclear_frobenius", "spectral_norm"):
        measured = found[metric, "w"]
        assert measured.value == pytest.approx(measured.null, rel=0.06), metric


def test_one_direction_is_found_and_zeros_are_an_error() -> None:
    metric, scale = stable_rank.manual.metric("stable_rank"), stable_rank.manual.metric("root_mean_square")
    unit = [torch.nn.functional.normalize(gaussian(512, seed=s), dim=0) for s in (1, 2)]
    spiked = gaussian(512, 512) + 100 * math.sqrt(512) * torch.outer(*unit)
    found = values(stable_rank.run(weight(spiked)))
    assert found["stable_rank"] == pytest.approx(1.05, abs=0.005)
    assert metric.warn is not None
    assert metric.warn.is_crossed(found["stable_rank"], None)
    zeros = values(stable_rank.run(weight(torch.zeros(9, 8))))
    assert set(zeros.values()) == {0.0}
    assert len(zeros) == 5
    assert scale.error is not None
    assert scale.error.is_crossed(0.0, None)
    assert not scale.error.is_crossed(1e-30, None)
    assert scale.warn is not None
    assert scale.warn.is_crossed(1e-7, None)


def test_rank_one_is_one() -> None:
    found = values(stable_rank.run(weight(torch.full((16, 24), 0.25))))
    for metric in ("stable_rank", "nuclear_rank", "nuclear_frobenius"):
        assert found[metric] == pytest.approx(1.0, abs=1e-6)


def test_beyond_the_exact_spectrum_the_nuclear_forms_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = gaussian(80, 120)
    expected = values(stable_rank.run(weight(matrix)))
    monkeypatch.setattr(spectrum, "MAX_EXACT_SIDE", 64)
    results = list(stable_rank.run(weight(matrix)))
    assert values(results)["stable_rank"] == pytest.approx(expected["stable_rank"], rel=1e-6)
    assert set(values(results)) == {"stable_rank", "spectral_norm", "root_mean_square"}
    assert "nuclear_rank" in reasons(results)[0]
