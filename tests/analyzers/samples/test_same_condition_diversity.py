"""Known shares of variance, views, answers and pairs; the formulas themselves are tested with the kernels."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from collapse_cli.analyzers.samples.same_condition_diversity import collapsed, healthy, same_condition_diversity
from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def gaussian(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def skips(arrays: dict[str, torch.Tensor], **metadata: str) -> str:
    found = results(same_condition_diversity, arrays, **metadata)
    return " | ".join(one.reason for one in found if isinstance(one, Skip))


def values(arrays: dict[str, torch.Tensor], **metadata: str) -> dict[str, float]:
    return {name: found.value for name, found in measured(same_condition_diversity, arrays, **metadata).items()}


GROUPS = torch.arange(200).repeat_interleave(8)


def test_half_of_the_variance_within_conditions() -> None:
    arrays = {"samples": gaussian(200, seed=1)[GROUPS] + gaussian(1600), "groups": GROUPS}
    assert values(arrays)["within_share"] == pytest.approx(0.5, abs=0.03)
    assert values(arrays)["frozen_conditions"] == 0.0
    assert findings(same_condition_diversity, arrays) == []


def test_one_output_per_condition_is_an_error() -> None:
    arrays = {"samples": gaussian(200)[GROUPS], "groups": GROUPS}
    found = values(arrays)
    assert found["within_share"] == pytest.approx(0.0, abs=1e-12)
    assert found["frozen_conditions"] == 1.0
    assert findings(same_condition_diversity, arrays) == [Severity.ERROR, Severity.WARNING]


def test_an_ignored_condition_reads_one() -> None:
    arrays = {"samples": gaussian(1600), "groups": GROUPS}
    assert values(arrays)["within_share"] == pytest.approx(1.0, abs=0.03)
    assert findings(same_condition_diversity, arrays) == []


def test_some_conditions_are_frozen() -> None:
    samples = gaussian(1600)
    samples[:480] = gaussian(60, seed=1)[GROUPS[:480]]
    assert values({"samples": samples, "groups": GROUPS})["frozen_conditions"] == pytest.approx(0.3)


def test_views_of_one_asset() -> None:
    logits = torch.full((16, 10), -200.0)
    logits[:8, 3] = 200.0
    logits[torch.arange(8, 16), torch.arange(8) // 2] = 200.0
    groups = torch.tensor([0, 1]).repeat_interleave(8)
    one = measured(same_condition_diversity, {"logits": logits[:8], "groups": groups[:8]})["view_information"]
    assert one.value == pytest.approx(0.0, abs=1e-12)
    assert "gain" not in one.evidence
    both = measured(same_condition_diversity, {"logits": logits, "groups": groups})["view_information"]
    assert both.value == pytest.approx(math.log(4.0) / 2.0)
    soft = measured(same_condition_diversity, {"logits": logits / 100, "groups": groups})["view_information"]
    quality, variety = soft.evidence["quality"], soft.evidence["variety"]
    assert soft.evidence["gain"] == pytest.approx((variety - quality) / quality)


def test_answers_to_questions() -> None:
    answers = torch.arange(240) % 8
    for given, expected in ((answers, 1.0), (answers // 4, 1.0 / 3.0), (0 * answers, 0.0)):
        arrays = {"features": gaussian(240), "labels": given, "groups": GROUPS[:240]}
        assert values(arrays)["answer_entropy"] == pytest.approx(expected)


def test_samples_and_reference_from_the_same_latents() -> None:
    reference = gaussian(300)
    samples = 0.5 * reference + gaussian(300, seed=1) * 0.1 + 1.0
    found = measured(same_condition_diversity, {"samples": samples, "reference": reference}, paired="true")
    expected = pdist(samples.numpy()).mean() / pdist(reference.numpy()).mean()
    assert found["pair_distance_ratio"].value == pytest.approx(expected, rel=1e-9)
    units = (samples - reference).numpy()
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert found["direction_spread"].value == pytest.approx(1.0 - (units.mean(0) ** 2).sum(), rel=1e-9)
    assert found["direction_spread"].null == pytest.approx(1.0 - 1.0 / 300)


def test_rows_that_are_not_finite_leave_no_pair() -> None:
    samples, reference = gaussian(300), gaussian(300, seed=1)
    kept = [place for place in range(300) if place not in (3, 200)]
    broken, other = samples.clone(), reference.clone()
    broken[3], other[200] = math.nan, math.inf
    found = measured(same_condition_diversity, {"samples": broken, "reference": other}, paired="yes")
    whole = measured(same_condition_diversity, {"samples": samples[kept], "reference": reference[kept]}, paired="yes")
    for name, one in whole.items():
        assert found[name].value == pytest.approx(one.value, rel=1e-12)
        assert found[name].evidence["pairs"] == 298


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, []), (0.6, [Severity.WARNING]), (0.2, [Severity.ERROR])], ids=["all", "less", "next"]
)
def test_spread_within_conditions_beside_that_of_the_reference(scale: float, expected: list[Severity]) -> None:
    """Variances within conditions by numpy: σ² of the noise, whatever the places of the conditions are."""
    groups = torch.arange(30).repeat_interleave(10)
    places, noise = gaussian(30)[groups], [gaussian(300, seed=seed) for seed in (1, 2)]
    arrays = {"samples": places + scale * noise[0], "reference": places + noise[1], "groups": groups}
    within = [arrays[role].double().numpy().reshape(30, 10, -1).var(1).sum() for role in ("samples", "reference")]
    found = measured(same_condition_diversity, arrays, paired="true")["within_ratio"]
    assert found.value == pytest.approx(within[0] / within[1], rel=1e-9)
    assert findings(same_condition_diversity, arrays, paired="true") == expected


@pytest.mark.parametrize(("scale", "expected"), [(0.5, []), (0.05, [Severity.WARNING])])
def test_lost_distances_are_judged(scale: float, expected: list[Severity]) -> None:
    arrays = {"samples": scale * gaussian(100) + 1.0, "reference": gaussian(100)}
    assert findings(same_condition_diversity, arrays, paired="true") == expected


def test_examples_measure_everything() -> None:
    for example in (healthy(), collapsed()):
        found = measured(same_condition_diversity, example.tensors, **example.metadata)
        assert set(found) == {metric.name for metric in same_condition_diversity.manual.metrics}


@pytest.mark.parametrize(
    ("arrays", "metadata", "reason"),
    [
        ({"samples": gaussian(76), "groups": GROUPS[:76]}, {}, "10 groups of 4 samples or more, fewer than 20"),
        ({"samples": gaussian(40), "groups": torch.arange(40)}, {}, "0 groups of 4 samples"),
        ({"samples": gaussian(0), "groups": GROUPS[:0]}, {}, "0 groups of 4 samples"),
        (
            {"features": gaussian(40), "labels": GROUPS[:40], "groups": GROUPS[:40]},
            {},
            "5 groups of 4 answers or more, fewer than 20",
        ),
        ({"features": gaussian(1600), "labels": GROUPS + 10**8, "groups": GROUPS}, {}, "number the answers from 0"),
        ({"logits": gaussian(3), "groups": GROUPS[:3]}, {}, "no group of 4 views"),
        ({"samples": gaussian(40), "reference": gaussian(40)}, {}, "metadata does not say"),
        ({"samples": gaussian(40), "reference": gaussian(40)}, {"paired": "false"}, "metadata does not say"),
        ({"samples": gaussian(40), "reference": gaussian(30)}, {"paired": "1"}, "cannot be pairs"),
        ({"samples": gaussian(19), "reference": gaussian(19)}, {"paired": "1"}, "19 pairs, fewer than 20"),
        ({"samples": gaussian(40), "reference": torch.ones(40, 16)}, {"paired": "1"}, "the reference is constant"),
        ({"samples": gaussian(40), "reference": gaussian(40)}, {"paired": "1"}, "samples equal their reference"),
    ],
)
def test_what_cannot_be_said_is_a_skip(arrays: dict[str, torch.Tensor], metadata: dict[str, str], reason: str) -> None:
    assert reason in skips(arrays, **metadata)


def test_constant_outputs_are_one_output_per_condition() -> None:
    arrays = {"samples": torch.full((240, 4), 0.3), "groups": GROUPS[:240]}
    assert values(arrays) == {"within_share": pytest.approx(0.0, abs=1e-12), "frozen_conditions": 1.0}
    assert findings(same_condition_diversity, arrays)[0] == Severity.ERROR


def test_other_widths_are_bad_values() -> None:
    dump = memory_dump({"samples": gaussian(40), "reference": gaussian(40, 5)}, metadata={"paired": "true"})
    (failure,) = analyse_dump(dump, [same_condition_diversity]).failures
    assert "different widths" in failure.message
