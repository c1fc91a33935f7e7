import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.drift.weight_drift import weight_drift
from collapse_cli.core.site import Role, Site
from collapse_cli.kernels.comparisons import Comparison, Model
from tests.views import at, reasons, values, weight


def pair(before: torch.Tensor, after: torch.Tensor, *, name: str = "w", role: Role = Role.LINEAR) -> Comparison:
    members = weight(before, name, role=role), weight(after, name, role=role)
    return Comparison(members[0].site, members, labels=("OLD", "NEW"))


def measured(before: torch.Tensor, after: torch.Tensor, **options: object) -> dict[str, float]:
    return values(weight_drift.run(pair(before, after, **options)))  # type: ignore[arg-type]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_against_itself(dtype: torch.dtype) -> None:
    found = measured(gaussian(40, 30).to(dtype), gaussian(40, 30).to(dtype))
    assert {name: found[name] for name in found if name != "tiny_churn"} == {
        "relative_change": 0.0,
        "changed_share": 0.0,
        "unchanged_row_share": 1.0,
        "direction_cosine": 1.0,
        "norm_ratio": 1.0,
    }
    assert found["tiny_churn"] == 0.0


def test_twice_itself() -> None:
    found = measured(gaussian(40, 30), 2 * gaussian(40, 30))
    assert found["relative_change"] == found["changed_share"] == 1.0
    assert found["unchanged_row_share"] == found["tiny_churn"] == 0.0
    assert found["direction_cosine"] == pytest.approx(1.0, abs=1e-12)
    assert found["norm_ratio"] == 2.0


def test_formulas_against_numpy_in_float64_also_across_blocks_and_on_strided_tensors() -> None:
    for shape in ((300, 500), (3, 70_000), (5000,)):
        old, new = gaussian(*shape), gaussian(*shape) + 0.1 * gaussian(*shape, seed=1)
        new.view(-1)[::7] = old.view(-1)[::7]
        x, y = old.numpy(), new.numpy()
        steps = np.abs(y - x)[y != x]
        expected = {
            "relative_change": np.linalg.norm(y - x) / np.linalg.norm(x),
            "changed_share": (x != y).mean(),
            "direction_cosine": (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y),
            "norm_ratio": np.linalg.norm(y) / np.linalg.norm(x),
            "update_uniformity": steps.std() / steps.mean(),
        }
        found = measured(old, new)
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
        if len(shape) > 1:
            turned = measured(old.T, new.T)
            assert {name: turned[name] for name in expected} == pytest.approx(expected, rel=1e-12)
            assert turned["tiny_churn"] == pytest.approx(found["tiny_churn"], abs=1e-12)


def test_nulls() -> None:
    found = at(weight_drift.run(pair(gaussian(1000, 1000), gaussian(1000, 1000, seed=1))))
    churn = found["tiny_churn", "w"]
    assert churn.null == pytest.approx(1 - 0.1 / 1.9, abs=1e-3)
    assert churn.value == pytest.approx(churn.null, abs=1e-3)
    assert abs(found["direction_cosine", "w"].value) < 4 * found["direction_cosine", "w"].null  # type: ignore[operator]
    assert found["update_uniformity", "w"].value == pytest.approx(0.7555, abs=2e-3)
    assert found["update_uniformity", "w"].null == pytest.approx(0.7555, abs=1e-4)


def test_masks_are_compared_where_there_are_zeros() -> None:
    masks = [torch.tensor(np.random.default_rng(seed).random((1000, 1000)) < 0.1) for seed in (0, 1)]
    old, new = (gaussian(1000, 1000) * mask for mask in masks)
    found = at(weight_drift.run(pair(old, new)))["mask_jaccard", "w"]
    both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    assert found.value == float(both) / float(either)
    p, q = (float(mask.double().mean()) for mask in masks)
    assert found.null == pytest.approx(p * q / (p + q - p * q), rel=1e-9)
    assert found.null == pytest.approx(0.0526, abs=5e-4)
    assert "mask_jaccard" not in measured(gaussian(30, 30), gaussian(30, 30))


def test_the_smallest_tenth_is_the_one_that_sorting_finds() -> None:
    old, new = gaussian(400, 400), gaussian(400, 400) + 0.05 * gaussian(400, 400, seed=1)
    smallest = [set(one.abs().flatten().argsort()[:16_000].tolist()) for one in (old, new)]
    expected = 1 - len(smallest[0] & smallest[1]) / len(smallest[0] | smallest[1])
    assert measured(old, new)["tiny_churn"] == pytest.approx(expected, abs=0.01)


def test_recasting_is_within_rounding_and_a_step_beyond_it_is_not() -> None:
    old = gaussian(256, 256).float()
    for dtype, null in ((torch.bfloat16, 1.66e-3), (torch.float16, 2.08e-4)):
        found = at(weight_drift.run(pair(old, old.to(dtype))))["relative_change", "w"]
        assert found.null == pytest.approx(null, rel=0.01)
        assert found.value == pytest.approx(null, rel=0.02)
        assert found.evidence["reading"] == "within rounding"
    moved = at(weight_drift.run(pair(old, (old * 1.01 + 0.01).bfloat16())))["relative_change", "w"]
    assert moved.evidence["reading"] == "moved"
    near_one = 1.0 + 1e-4 * torch.rand(300, generator=torch.Generator().manual_seed(0))
    step = at(weight_drift.run(pair(near_one, torch.full((300,), 1.0078125).bfloat16())))["relative_change", "w"]
    assert step.evidence["reading"] == "moved", "one whole step of bf16, where recasting moves half of one at most"
    same = at(weight_drift.run(pair(old, old)))["relative_change", "w"]
    assert same.evidence["reading"] == "unchanged"


def test_a_sign_step_is_uniform() -> None:
    old = gaussian(50, 50)
    new = old + 0.125 * torch.sign(gaussian(50, 50, seed=1))
    assert measured(old.float().double(), (old.float().double() + (new - old)))["update_uniformity"] < 1e-6


def test_codes_that_never_moved() -> None:
    codes = gaussian(1000, 8)
    moved = codes.clone()
    moved[:14, 3] += 1e-9
    found = measured(codes, moved, role=Role.CODEBOOK)
    assert found["unchanged_row_share"] == found["stuck_code_share"] == 0.986
    assert "stuck_code_share" not in measured(codes, moved)
    assert "stuck_code_share" not in measured(codes, codes, role=Role.CODEBOOK), "a frozen codebook is a design"


def test_zero_and_minus_zero_differ_to_the_bit() -> None:
    assert measured(torch.zeros(4, 4), -torch.zeros(4, 4))["changed_share"] == 1.0


def test_beginning_at_zero_has_no_relative_change() -> None:
    results = list(weight_drift.run(pair(torch.zeros(4, 4), torch.ones(4, 4))))
    assert set(values(results)) == {
        "changed_share",
        "unchanged_row_share",
        "update_uniformity",
        "tiny_churn",
        "mask_jaccard",
    }
    assert reasons(results) == ["relative_change, norm_ratio: all zero before"]
    assert reasons(weight_drift.run(pair(torch.zeros(0, 4), torch.zeros(0, 4)))) == ["empty tensor"]


def model_of(relative_changes: list[float]) -> dict[tuple[str, str], object]:
    parts = []
    for place, relative in enumerate(relative_changes):
        old = gaussian(16, 16, seed=place)
        parts.append(pair(old, old * (1 + relative), name=f"w{place}"))
        list(weight_drift.run(parts[-1]))
        parts[-1].release()
    return at(weight_drift.run(Model(Site("#model", (), ""), tuple(parts), labels=("OLD", "NEW"))))  # type: ignore[return-value]


def test_stragglers_stand_out_of_their_role() -> None:
    changes = [0.01, 0.02, 0.04, 0.01, 0.02, 0.04, 0.02, 8.0]
    found = model_of(changes)
    logs = np.log(changes)
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    for place, log in enumerate(logs):
        score = found["straggler_score", f"w{place}"].value  # type: ignore[attr-defined]
        assert score == pytest.approx((log - np.median(logs)) / max(spread, 0.25), rel=1e-9)
    assert found["straggler_score", "w7"].evidence["factor"] == pytest.approx(400, rel=1e-9)  # type: ignore[attr-defined]
    alike = model_of([0.01, 0.0101, 0.0099, 0.01, 0.013])
    assert alike["straggler_score", "w4"].value == pytest.approx(math.log(1.3) / 0.25, rel=1e-6)  # type: ignore[attr-defined]
    assert not any(metric == "straggler_score" for metric, _ in model_of([0.1] * 4))


def test_the_whole_model_is_all_tensors_as_one() -> None:
    found = model_of([0.5, 0.0, 0.25])
    every = torch.cat([gaussian(16, 16, seed=place).flatten() for place in range(3)])
    factors = torch.tensor([1.5, 1.0, 1.25]).double().repeat_interleave(256)
    expected = float((every * factors - every).norm() / every.norm())
    assert found["relative_change", "#model"].value == pytest.approx(expected, rel=1e-12)  # type: ignore[attr-defined]
    assert found["changed_share", "#model"].value == pytest.approx(2 / 3)  # type: ignore[attr-defined]
