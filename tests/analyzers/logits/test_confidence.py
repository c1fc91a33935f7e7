from math import comb

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from collapse_cli.analyzers.logits.confidence import confidence, healthy
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.attempts import pass_at
from collapse_cli.kernels.calibration import CalibrationBins, calibration_error, calibration_noise
from collapse_cli.sources.dump import memory_dump
from tests.views import at, reasons, values


def analysed(arrays, *more):  # type: ignore[no-untyped-def]
    return analyse_dump(memory_dump(arrays, *more, metadata={}), [confidence])


def sure(share: float, right: int, rows: int = 1000) -> dict[str, torch.Tensor]:
    """Two classes: so sure of class 0 in every row, which is the label of so many."""
    logits = torch.tensor([[share / (1.0 - share), 1.0]], dtype=torch.float64).log().repeat(rows, 1)
    return {"logits": logits, "labels": (torch.arange(rows) >= right).long()}


def test_as_sure_as_right_and_surer_than_right() -> None:
    found = values(analysed(sure(0.75, 750)).measurements)
    assert found["ece"] == pytest.approx(0.0, abs=1e-12)
    assert found["adaptive_ece"] == pytest.approx(0.0, abs=1e-12)
    assert found["overconfidence"] == pytest.approx(0.0, abs=1e-12)
    found = values(analysed(sure(0.99, 500)).measurements)
    assert found["ece"] == pytest.approx(0.49, abs=1e-12)
    assert found["overconfidence"] == pytest.approx(0.49, abs=1e-12)
    noise = (2 / np.pi * 0.99 * 0.01 / 1000) ** 0.5
    assert found["ece_excess"] == pytest.approx(0.49 - noise, abs=1e-12)
    # equal confidences are dealt out over the 15 bins in proportion
    assert found["adaptive_ece"] == pytest.approx(0.49, abs=1e-12)


def test_random_rows_agree_with_the_definition() -> None:
    g = np.random.default_rng(0)
    logits = 2.0 * g.standard_normal((1500, 6))
    labels = np.where(g.random(1500) < 0.4, logits.argmax(1), g.integers(0, 6, 1500))
    labels[:60] = -1
    found = at(analysed({"logits": logits, "labels": labels}).measurements)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    known = labels >= 0
    c, right = p.max(1)[known], (logits.argmax(1) == labels)[known]
    bins = np.ceil(c * 15).astype(int)
    error = sum(abs((right[bins == b] - c[bins == b]).sum()) for b in range(1, 16)) / known.sum()
    noise = sum(np.sqrt(2 / np.pi * (c * (1 - c))[bins == b].sum()) for b in range(1, 16)) / known.sum()
    assert found["ece", "output"].value == pytest.approx(error, rel=1e-9)
    assert found["ece", "output"].null == pytest.approx(noise, rel=1e-9)
    assert found["ece_excess", "output"].value == pytest.approx(error - noise, rel=1e-9)
    order = np.argsort(c).reshape(15, -1)
    adaptive = sum(abs((right[rows] - c[rows]).sum()) for rows in order) / known.sum()
    assert found["adaptive_ece", "output"].value == pytest.approx(adaptive, abs=1e-3)
    assert found["overconfidence", "output"].value == pytest.approx((c - right).mean(), rel=1e-9)


def test_the_null_is_the_error_of_calibrated_models() -> None:
    # 200 draws of the outcomes: the standard error of their mean is about 3·10⁻⁴
    g = np.random.default_rng(1)
    c = g.uniform(0.3, 1.0, 2000)
    rest = torch.from_numpy(1.0 / c - 1.0)
    errors = []
    for _ in range(200):
        bins = CalibrationBins()
        bins.add(rest, torch.from_numpy(g.random(2000) < c))
        errors.append(calibration_error(bins.equal_width))
    assert np.mean(errors) == pytest.approx(calibration_noise(bins.equal_width), rel=0.04)


def test_pass_at_n_is_the_share_of_draws_with_a_success() -> None:
    assert pass_at(torch.bincount(torch.tensor([3]), minlength=11), 5) == pytest.approx(0.91667, abs=5e-6)
    counts = torch.tensor([4, 0, 3, 1, 0, 2, 5])
    for draws in range(1, 7):
        expected = sum(int(n) * (1 - comb(6 - c, draws) / comb(6, draws)) for c, n in enumerate(counts)) / 15
        assert pass_at(counts, draws) == pytest.approx(expected, rel=1e-12)
    # beyond the range of float64's binomials
    many = torch.zeros(3001, dtype=torch.int64)
    many[1] = 1
    assert pass_at(many, 1500) == pytest.approx(0.5, rel=1e-9)


def gains(correct: torch.Tensor) -> dict[str, float]:
    arrays = {"features": torch.zeros(correct.shape[0], 2), "correct": correct}
    return values(analysed(arrays).measurements)


def test_gain_is_none_for_the_same_answer_and_whole_for_equal_problems() -> None:
    same = (torch.arange(60) < 20)[:, None].expand(60, 8).contiguous()
    found = gains(same)
    assert found == {"pass_at_n": pytest.approx(1 / 3), "pass_gain": 0.0}
    # every problem solved by exactly 512 of 1024: draws without replacement gain a little more than independent ones
    half = (torch.arange(1024) % 2 == 0)[None].expand(40, 1024).contiguous()
    assert gains(half)["pass_gain"] == pytest.approx(1.0, abs=1e-9)
    four = torch.tensor([[True, True, False, False]]).expand(40, 4).contiguous()
    assert gains(four)["pass_gain"] == pytest.approx((1 - 1 / 6 - 1 / 2) / (1 / 4), rel=1e-12)
    assert "pass_gain" not in gains(torch.ones(60, 4, dtype=torch.bool))


def test_curve_of_attempts() -> None:
    correct = torch.rand(50, 300, generator=torch.Generator().manual_seed(0)) < 0.1
    analysis = analysed({"features": torch.zeros(50, 2), "correct": correct})
    facts = at(analysis.measurements)["pass_at_n", "output"].evidence
    assert len(facts["prefix"]) == len(facts["by_prefix"]) <= 128
    assert facts["by_prefix"] == sorted(facts["by_prefix"])
    assert facts["by_prefix"][0] == pytest.approx(float(correct.double().mean()))


def test_mixtures_agree_with_scipy() -> None:
    arrays = dict(healthy().tensors)
    found = at(analysed(arrays).measurements)["mix_rank_correlation", "head"]
    p = torch.softmax(arrays["head/logits"].double(), 1).numpy()
    mix = arrays["head/mix"].double().numpy()
    assert found.value == pytest.approx(spearmanr(p.max(1), np.maximum(mix, 1 - mix)).statistic, abs=1e-9)
    assert found.value > 0.99
    assert found.evidence["pair_mass"] == pytest.approx(1.0)  # there are two classes
    assert found.evidence["decoupled_probability"] == pytest.approx(1.0)


def test_mass_of_the_two_mixed_classes() -> None:
    g = torch.Generator().manual_seed(2)
    logits, mix = torch.randn(200, 5, generator=g, dtype=torch.float64), torch.rand(200, generator=g)
    first, second = torch.randint(0, 5, (200,), generator=g), torch.randint(0, 5, (200,), generator=g)
    first[0], second[1] = -1, -100
    arrays = {"logits": logits, "labels": first, "labels_b": second, "mix": mix}
    facts = at(analysed(arrays).measurements)["mix_rank_correlation", "output"].evidence
    p = torch.softmax(logits, 1).numpy()
    a, b = first.numpy(), second.numpy()
    kept = (a != b) & (a >= 0) & (b >= 0)
    rows = np.flatnonzero(kept)
    own, other = p[rows, a[kept]], p[rows, b[kept]]
    assert facts["pairs"] == kept.sum()
    assert facts["pair_mass"] == pytest.approx((own + other).mean(), rel=1e-12)
    assert facts["decoupled_probability"] == pytest.approx((own / (1 - other)).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (sure(0.9, 90, rows=499), "499 labelled rows < 500"),
        (sure(0.9, 90), "no correct"),
        (sure(0.9, 90), "mix_rank_correlation: no mix"),
        ({"features": torch.zeros(9, 2), "correct": torch.ones(9, 8, dtype=torch.bool)}, "no logits"),
        ({"features": torch.zeros(9, 2), "correct": torch.ones(9, 8, dtype=torch.bool)}, "9 problems < 30"),
        ({"features": torch.zeros(9, 2), "correct": torch.ones(9, 3, dtype=torch.bool)}, "3 attempts < 4"),
    ],
)
def test_what_does_not_apply_is_said(arrays, says) -> None:  # type: ignore[no-untyped-def]
    assert any(says in reason for reason in reasons(analysed(arrays).skips))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": torch.full((600,), 2)}, "labels"),
        ({"labels_b": torch.full((600,), -7)}, "labels_b"),
        ({"mix": torch.full((600,), 1.5)}, "mix"),
        ({"correct": torch.full((600, 4), 2)}, "correct"),
    ],
)
def test_what_cannot_be_is_a_failure(change, says) -> None:  # type: ignore[no-untyped-def]
    arrays = dict(healthy().tensors) | {f"head/{role}": tensor for role, tensor in change.items()}
    failures = analysed(arrays).failures
    assert [failure.message.startswith(f"{says} should") for failure in failures] == [True], failures


def test_streamed_and_whole_agree() -> None:
    arrays = dict(healthy().tensors)
    parts = [{name: tensor[rows] for name, tensor in arrays.items()} for rows in (slice(0, 90), slice(90, 600))]
    whole = values(analysed(arrays).measurements)
    assert values(analysed(*parts).measurements) == pytest.approx(whole, rel=1e-9)
