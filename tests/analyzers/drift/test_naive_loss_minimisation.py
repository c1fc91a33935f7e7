import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.drift.naive_loss_minimisation import naive_loss_minimisation
from collapse_cli.core.site import Site
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.engine.options import Options
from collapse_cli.kernels.comparisons import Comparison, Model
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.paired import paired_dump
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def run(*members: torch.Tensor) -> Comparison:
    views = tuple(weight(member) for member in members)
    return Comparison(views[0].site, views, labels=tuple(f"m{place}" for place in range(len(members))))


def of_logits(before: torch.Tensor, after: torch.Tensor, options: Options = Options()) -> dict[str, float]:
    paired = paired_dump(memory_dump({"head/logits": before}), memory_dump({"head/logits": after}))
    analysis = analyse_dump(paired, [naive_loss_minimisation], options)
    assert not analysis.failures
    return {m.metric: m.value for m in analysis.measurements}


@pytest.mark.parametrize("factor", [1.1, 0.9, 1.0 + 1e-9, 30.0])
def test_scaling_is_aligned_and_grows_by_its_logarithm(factor: float) -> None:
    found = values(naive_loss_minimisation.run(run(gaussian(40, 30), factor * gaussian(40, 30))))
    assert found["update_alignment"] == pytest.approx(math.copysign(1.0, factor - 1), rel=1e-6)
    assert found["norm_growth"] == pytest.approx(math.log(factor), rel=1e-6)


def test_an_orthogonal_step_of_a_tenth() -> None:
    old, step = gaussian(300, 300), gaussian(300, 300, seed=1)
    step -= old * (old * step).sum() / (old * old).sum()
    found = at(naive_loss_minimisation.run(run(old, old + 0.1 * step * old.norm() / step.norm())))
    assert found["update_alignment", "w"].value == pytest.approx(0.0, abs=1e-9)
    assert found["norm_growth", "w"].value == pytest.approx(0.5 * math.log(1.01), rel=1e-9)
    assert found["norm_growth", "w"].value == pytest.approx(0.00498, abs=1e-5)
    assert found["update_alignment", "w"].evidence["by_chance"] == pytest.approx(1 / 300)


def test_a_run_is_read_at_its_last_interval() -> None:
    members = [gaussian(20, 20)]
    for seed, factor in enumerate((1.0, 1.05, 1.0, 1.02)):
        members.append(factor * members[-1] + 0.01 * gaussian(20, 20, seed=seed + 1))
    found = at(naive_loss_minimisation.run(run(*members)))
    flat = [member.flatten().numpy() for member in members]
    expected = [
        (later - earlier) @ earlier / np.linalg.norm(later - earlier) / np.linalg.norm(earlier)
        for earlier, later in pairwise(flat)
    ]
    growth = [math.log(np.linalg.norm(b) / np.linalg.norm(a)) for a, b in pairwise(flat)]
    assert found["update_alignment", "w"].evidence["intervals"] == pytest.approx(expected, abs=1e-6)
    assert found["update_alignment", "w"].value == pytest.approx(expected[-1], rel=1e-9)
    assert found["norm_growth", "w"].evidence["intervals"] == pytest.approx(growth, abs=1e-8)
    assert found["norm_growth", "w"].value == pytest.approx(growth[-1], rel=1e-9)


def test_the_whole_model_is_all_matrices_as_one() -> None:
    parts = []
    for seed, factor in enumerate((1.5, 0.8)):
        parts.append(run(gaussian(12, 12, seed=seed), factor * gaussian(12, 12, seed=seed)))
        list(naive_loss_minimisation.run(parts[-1]))
    other = run(gaussian(5), 9 * gaussian(5))
    found = values(naive_loss_minimisation.run(Model(Site("#model", (), ""), (*parts, other), labels=("a", "b"))))
    old = torch.cat([gaussian(12, 12, seed=seed).flatten() for seed in range(2)])
    new = torch.cat([factor * gaussian(12, 12, seed=seed).flatten() for seed, factor in enumerate((1.5, 0.8))])
    assert found["norm_growth"] == pytest.approx(float((new.norm() / old.norm()).log()), rel=1e-9)
    cosine = float((new - old) @ old / (new - old).norm() / old.norm())
    assert found["update_alignment"] == pytest.approx(cosine, rel=1e-9)


def test_standing_still_vanishing_and_beginning_at_zero_are_skips() -> None:
    old, zero = gaussian(10, 10), torch.zeros(10, 10, dtype=torch.float64)
    for before, after in ((old, old), (zero, old), (old, zero), (zero, zero)):
        assert reasons(naive_loss_minimisation.run(run(before, after))) == ["unchanged, or all zero"]
    assert values(naive_loss_minimisation.run(run(old, old, 2 * old)))["update_alignment"] == pytest.approx(1.0)


def test_logits_that_only_grew() -> None:
    z = gaussian(500, 10) + 3 * gaussian(500, 1, seed=1)
    offset = 7 * gaussian(500, 1, seed=2)
    found = of_logits(z, 1.1 * z + offset)
    assert found == pytest.approx(
        {"logit_scale_growth": 0.1, "logit_shape_r2": 1.0, "argmax_agreement": 1.0}, rel=1e-9, abs=1e-9
    )


def test_fit_of_other_logits_against_numpy() -> None:
    z, w = gaussian(400, 6), 0.5 * gaussian(400, 6) + gaussian(400, 6, seed=1)
    x, y = (one.numpy() - one.numpy().mean(1, keepdims=True) for one in (z, w))
    slope, residual, *_ = np.linalg.lstsq(x.reshape(-1, 1), y.reshape(-1), rcond=None)
    found = of_logits(z, w)
    assert found["logit_scale_growth"] == pytest.approx(float(slope[0]) - 1, rel=1e-9)
    assert found["logit_shape_r2"] == pytest.approx(1 - float(residual[0]) / float((y**2).sum()), rel=1e-9)
    assert found["argmax_agreement"] == float((z.argmax(1) == w.argmax(1)).double().mean())


def test_chance_of_agreement() -> None:
    from collapse_cli.kernels.scale_growth import logit_growth

    z, w = gaussian(20_000, 4) + torch.tensor([2.0, 0, 0, 0]), gaussian(20_000, 4, seed=1)
    found = logit_growth(z, w)
    p, q = (torch.bincount(one.argmax(1), minlength=4).double() / 20_000 for one in (z, w))
    assert found.chance == pytest.approx(float(p @ q), rel=1e-9)
    assert found.agreement == pytest.approx(found.chance, abs=0.01)


def test_constant_logits_have_no_scale() -> None:
    assert set(of_logits(torch.ones(20, 5), gaussian(20, 5).float())) == {"argmax_agreement"}
    assert of_logits(torch.zeros(0, 5), torch.zeros(0, 5)) == {}
