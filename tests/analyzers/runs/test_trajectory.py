import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from collapse_cli.analyzers.runs.trajectory import trajectory
from collapse_cli.core.metric import Measurement
from collapse_cli.core.site import Site
from collapse_cli.kernels.comparisons import Comparison, Model
from collapse_cli.kernels.weight_paths import random_walk_dimensions
from tests.views import at, reasons, values, weight

Matrix = npt.NDArray[np.float64]


def run(members: Matrix, *, steps: tuple[float, ...] = (), kind: str = "series") -> Comparison:
    views = tuple(weight(torch.tensor(member)) for member in members)
    labels = tuple(f"m{place}" for place in range(len(members)))
    return Comparison(views[0].site, views, labels=labels, steps=steps, kind=kind)  # type: ignore[arg-type]


def measured(members: Matrix, **options: tuple[float, ...] | str) -> dict[str, float]:
    return values(trajectory.run(run(members, **options)))  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal(shape)


def densely(members: Matrix) -> dict[str, float]:
    """The definitions on whole vectors."""
    flat = members.reshape(len(members), -1)
    steps = np.diff(flat, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    cosines = (steps[:-1] * steps[1:]).sum(1) / lengths[:-1] / lengths[1:]
    energy = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2
    return {
        "step_ratio": float(np.median(lengths / np.linalg.norm(flat[:-1], axis=1))),
        "norm_spike": lengths.max() / np.median(lengths),
        "turning_angle": float(np.median(np.degrees(np.arccos(cosines)))),
        "straightness": np.linalg.norm(flat[-1] - flat[0]) / lengths.sum(),
        "path_dimension": energy.sum() ** 2 / (energy**2).sum(),
        "path_dimension_90": int((np.cumsum(energy) < 0.9 * energy.sum()).sum()) + 1,
    }


@pytest.mark.parametrize("shape", [(3, 10, 12), (9, 300, 400), (20, 30)])
def test_definitions_on_whole_vectors(shape: tuple[int, ...]) -> None:
    members = 5 + np.cumsum(normal(*shape) * np.linspace(1, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1)), axis=0)
    assert measured(members) == pytest.approx(densely(members), rel=1e-9)


def test_short_steps_late_in_a_long_path_keep_their_digits() -> None:
    members = 100 + np.cumsum(normal(8, 20, 20) * 10.0 ** -np.arange(8).reshape(-1, 1, 1), axis=0)
    assert measured(members)["turning_angle"] == pytest.approx(densely(members)["turning_angle"], rel=1e-6)


def test_a_line() -> None:
    start, direction = normal(10, 10), normal(10, 10, seed=1)
    found = measured(np.stack([start + t * direction for t in range(6)]))
    assert found["turning_angle"] == pytest.approx(0.0, abs=1e-5)
    assert {name: found[name] for name in ("straightness", "path_dimension", "path_dimension_90", "norm_spike")} == (
        pytest.approx({"straightness": 1.0, "path_dimension": 1.0, "path_dimension_90": 1, "norm_spike": 1.0})
    )


def test_a_random_walk_of_a_hundred_members() -> None:
    found = at(trajectory.run(run(np.cumsum(normal(100, 100, 100), axis=0))))
    assert found["path_dimension", "w"].value == pytest.approx(2.48, abs=0.06)
    assert found["path_dimension", "w"].null == pytest.approx(2.48, abs=0.03)
    assert found["path_dimension", "w"].evidence["shares"][0] == pytest.approx(0.611, abs=0.01)
    assert found["path_dimension_90", "w"].value == found["path_dimension_90", "w"].null == 6
    assert found["straightness", "w"].value == pytest.approx(0.1, abs=0.005)
    assert found["straightness", "w"].null == pytest.approx(0.1, abs=0.001)
    assert found["turning_angle", "w"].value == pytest.approx(90, abs=0.5)


def test_nulls_of_the_dimension_tend_to_those_of_the_walk_without_end() -> None:
    assert random_walk_dimensions(100_000)[0] == pytest.approx((math.pi**2 / 6) ** 2 / (math.pi**4 / 90), rel=1e-3)
    for members in (3, 5, 12):
        centred = np.tril(np.ones((members, members)))[:, 1:]
        centred = centred - centred.mean(0)
        energy = np.linalg.eigvalsh(centred @ centred.T)
        expected = energy.sum() ** 2 / (energy**2).sum()
        assert random_walk_dimensions(members)[0] == pytest.approx(expected, rel=1e-9)


def test_unequal_intervals_are_taken_for_the_median_interval_and_the_spike_must_stand_out_both_ways() -> None:
    sizes = np.array([1.0, 1.0, 50.0, 1.0])
    members = np.concatenate([[np.zeros(100)], np.cumsum(np.eye(4, 100) * sizes[:, None], axis=0)]) + 1.0
    assert measured(members)["norm_spike"] == pytest.approx(50)
    stretched = at(trajectory.run(run(members, steps=(0, 1, 2, 52, 53))))["norm_spike", "w"]
    assert stretched.value == pytest.approx(1.0)
    assert stretched.evidence["timing"] == "per median interval"
    short = measured(members, steps=(0.0, 10.0, 20.0, 30.0, 40.5))
    assert short["norm_spike"] == pytest.approx(50)
    ratio = at(trajectory.run(run(members, steps=(0, 2, 4, 6, 10))))["step_ratio", "w"].value
    starts = np.linalg.norm(members[:-1], axis=1)
    assert ratio == pytest.approx(float(np.median(sizes * [1, 1, 1, 0.5] / starts)))


def test_a_run_that_stands_still_or_is_too_short() -> None:
    still = np.ones((4, 8, 8))
    assert reasons(trajectory.run(run(still))) == ["unchanged"]
    assert reasons(trajectory.run(run(still[:2]))) == ["run too short: 2 of 3"]
    once = still.copy()
    once[2:] += 1
    results = list(trajectory.run(run(once)))
    assert reasons(results) == [
        "norm_spike: most members are the same as the one before",
        "turning_angle: no two steps follow each other",
    ]
    assert values(results)["path_dimension"] == pytest.approx(1.0)
    assert all(math.isfinite(value) for value in measured(np.cumsum(np.zeros((3, 8, 8)) + 1, axis=0) - 1).values())


def workers() -> Matrix:
    """A base, seven changes at a cosine of 0.8 with each other, and one random."""
    common, own = normal(100, 100, seed=1), normal(7, 100, 100, seed=2)
    changes = math.sqrt(0.8) * common + math.sqrt(0.2) * own
    return np.concatenate([np.zeros((1, 100, 100)), changes, normal(1, 100, 100, seed=3)]) + normal(100, 100)


def test_a_bad_worker_shares_nothing_with_the_others() -> None:
    found = at(trajectory.run(run(workers(), kind="pool")))["outlier_ratio", "w"]
    flat = (workers()[1:] - workers()[0]).reshape(8, -1)
    for place, (member, share) in enumerate(found.evidence["shares"].items()):
        basis = np.linalg.qr(np.delete(flat, place, axis=0).T)[0]
        expected = float(np.linalg.norm(basis.T @ flat[place]) ** 2 / np.linalg.norm(flat[place]) ** 2)
        assert member == f"m{place + 1}"
        assert share == pytest.approx(expected, rel=1e-9)
        assert (0.74 < share < 0.79) if place < 7 else share < 0.005
    assert found.evidence["member"] == "m8"
    assert found.null == pytest.approx(7 / 10_000)


def whole(views: list[Comparison]) -> dict[str, Measurement]:
    for view in views:
        list(trajectory.run(view))
    model = Model(Site("#model", (), ""), tuple(views), labels=views[0].labels)
    return {metric: found for (metric, _), found in at(trajectory.run(model)).items()}


def test_the_gap_is_that_of_the_whole_model() -> None:
    found = whole([run(workers(), kind="pool"), run(workers(), kind="pool")])
    assert found["outlier_gap"].value == pytest.approx(0.76, abs=0.02)
    assert trajectory.manual.metric("outlier_gap").warn.is_crossed(found["outlier_gap"].value, 0.0)  # type: ignore[union-attr]
    alone = np.concatenate([np.zeros((1, 50, 50)), normal(5, 50, 50)])
    assert whole([run(alone, kind="pool")])["outlier_gap"].value < 0.01
    assert reasons(trajectory.run(run(alone[:4], kind="pool"))) == ["pool too small: 3 of 4 descendants that moved"]


def test_the_whole_run_is_all_tensors_as_one() -> None:
    first, second = (np.cumsum(normal(6, 20, 20, seed=seed) * (1 + 3 * seed), axis=0) for seed in (0, 1))
    found = whole([run(first), run(second)])
    expected = densely(np.concatenate([first, second], axis=2))
    assert {name: found[name].value for name in expected} == pytest.approx(expected, rel=1e-9)
