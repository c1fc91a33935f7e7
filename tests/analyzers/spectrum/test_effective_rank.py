import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.spectrum.effective_rank import effective_rank
from collapse_cli.kernels import spectrum
from collapse_cli.kernels.views import Weight
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def equal(rank: int, rows: int, columns: int) -> torch.Tensor:
    """A matrix with `rank` equal singular values."""
    left, right = torch.linalg.qr(gaussian(rows, rank)).Q, torch.linalg.qr(gaussian(columns, rank, seed=1)).Q
    return left @ right.T


def is_error(view: Weight) -> bool:
    """Whether any measurement is beyond an error limit."""
    return any(
        (limit := effective_rank.manual.metric(m.metric).error) is not None and limit.is_crossed(m.value, m.null)
        for m in at(effective_rank.run(view)).values()
    )


def is_warned(view: Weight) -> bool:
    return any(
        (limit := effective_rank.manual.metric(m.metric).warn) is not None and limit.is_crossed(m.value, m.null)
        for m in at(effective_rank.run(view)).values()
    )


def test_gaussian_512_square() -> None:
    found = values(effective_rank.run(weight(gaussian(512, 512).float())))
    assert found["effective_rank_lambda"] == pytest.approx(310.3, rel=0.01)
    assert found["effective_rank_sigma"] == pytest.approx(411.9, rel=0.01)
    assert found["participation_ratio"] == pytest.approx(255.8, rel=0.01)
    assert found["numerical_rank"] == 512
    assert found["energy_rank_90"] == pytest.approx(0.510 * 512, abs=3)
    assert found["energy_rank_99"] == pytest.approx(0.771 * 512, abs=3)


def test_eight_equal_singular_values_in_bf16_are_eight_directions() -> None:
    view = weight(equal(8, 512, 1024).bfloat16())
    found = values(effective_rank.run(view))
    assert found["numerical_rank"] == 8
    # rounding adds 504 values of rms 1.7e-3: λ hears 1e-3 of it, σ would without the cut
    assert found["effective_rank_lambda"] == pytest.approx(8.0, rel=2e-3)
    assert found["effective_rank_sigma"] == pytest.approx(8.0, rel=1e-4)
    assert found["energy_rank_90"] == found["energy_rank_99"] == 8
    assert spectrum.entropy_rank(spectrum.singular_values(view)) > 8.5


def test_closed_form_of_a_diagonal_matrix() -> None:
    found = values(effective_rank.run(weight(torch.diag(0.5 ** torch.arange(30, dtype=torch.float64)))))
    # λ = 4^{−i}: p = ¾·4^{−i}, entropy ln(4/3) + ln 4/3, ratio (4/3)²·(15/16); σ = 2^{−i}: entropy 2 ln 2
    assert found["effective_rank_lambda"] == pytest.approx(math.exp(math.log(4 / 3) + math.log(4) / 3), rel=1e-6)
    assert found["participation_ratio"] == pytest.approx(16 / 9 * 15 / 16, rel=1e-6)
    assert found["effective_rank_sigma"] == pytest.approx(4.0, rel=1e-6)
    assert found["rank_1e3"] == 10  # 2^{−9} > 1e-3 > 2^{−10}
    assert found["energy_rank_90"] == 2  # ¾, 15/16
    assert found["numerical_rank"] == 30


def test_collapse_of_any_small_rank_is_an_error_and_random_matrices_are_not_found() -> None:
    for side in (256, 512):
        for rank in (1, 2, 4, 8):
            product = gaussian(side, rank) @ gaussian(rank, side, seed=1)
            assert is_error(weight(product.float())), (side, rank)
            assert is_error(weight(product.bfloat16())), (side, rank)
    for shape in ((64, 64), (64, 512), (300, 200), (8, 8)):
        assert not is_warned(weight(gaussian(*shape).float()))
        assert not is_warned(weight(gaussian(*shape).bfloat16()))


def test_trained_tables_that_are_low_by_role_are_not_found() -> None:
    # a spectrum like that of a learned position table: most energy in a dozen directions over a long tail
    ranks = torch.arange(1, 385, dtype=torch.float64)
    sigma = 4.0 * ranks.pow(-1.0) + 0.05
    table = torch.linalg.qr(gaussian(512, 384)).Q * sigma @ torch.linalg.qr(gaussian(384, 384, seed=1)).Q
    assert values(effective_rank.run(weight(table.float())))["effective_rank_lambda"] < 10
    assert not is_warned(weight(table.float()))


@pytest.mark.parametrize(("matrix", "rank"), [(torch.zeros(16, 24), 0), (torch.full((16, 24), 0.3), 1)])
def test_zeros_and_constants_have_ranks_and_are_errors(matrix: torch.Tensor, rank: int) -> None:
    found = values(effective_rank.run(weight(matrix)))
    assert {metric: round(value, 9) for metric, value in found.items()} == dict.fromkeys(found, rank)
    assert len(found) == 7
    assert is_error(weight(matrix))


def test_evidence_holds_the_spectrum_and_the_floor() -> None:
    found = at(effective_rank.run(weight(gaussian(40, 60))))
    curve = found["effective_rank_lambda", "w"].evidence["spectrum"]
    assert set(curve) == {"rank", "value", "null_edge"}
    assert curve["null_edge"][0] == pytest.approx(math.sqrt(40) + math.sqrt(60), rel=0.05)
    assert found["numerical_rank", "w"].evidence["floor"] < 1e-12


def test_coarse_format_with_one_heavy_row_is_not_counted() -> None:
    matrix = gaussian(64, 128)
    matrix[3, 5] = 150.0
    step = matrix.abs().amax(1, keepdim=True) / 7
    coarse = weight((matrix / step).round() * step, dtype="I4")
    results = list(effective_rank.run(Weight(coarse.site, coarse.tensor, quantisation_step=step)))
    assert "numerical_rank" not in values(results)
    assert any("numerical_rank" in reason for reason in reasons(results))


def test_wide_matrices_beyond_the_exact_spectrum_keep_the_participation_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = gaussian(80, 120)
    expected = values(effective_rank.run(weight(matrix)))["participation_ratio"]
    monkeypatch.setattr(spectrum, "MAX_EXACT_SIDE", 64)
    results = list(effective_rank.run(weight(matrix)))
    assert values(results) == {"participation_ratio": pytest.approx(expected, rel=1e-9)}
    assert "min side 80 > 64" in reasons(results)[0]
    assert values(effective_rank.run(weight(torch.zeros(80, 120)))) == {"participation_ratio": 0.0}


def test_folds_convolutions() -> None:
    kernel = gaussian(16, 8, 3, 3)
    folded = values(effective_rank.run(weight(kernel.reshape(16, 72))))
    assert values(effective_rank.run(weight(kernel))) == folded
