import itertools
import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.merging.merge_interference import merge_interference
from collapse_cli.core.metric import Measurement
from collapse_cli.core.site import Site
from collapse_cli.kernels import task_vectors
from collapse_cli.kernels.comparisons import Comparison, Model
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def pool(base: torch.Tensor | None, *members: torch.Tensor) -> Comparison:
    views = tuple(weight(one) for one in (*(() if base is None else (base,)), *members))
    labels = ("base", *(f"m{place}" for place in range(len(members))))[0 if base is not None else 1 :]
    return Comparison(views[0].site, views, labels=labels, has_base=base is not None)


def of_tasks(*tasks: torch.Tensor) -> dict[str, Measurement]:
    base = gaussian(*tasks[0].shape, seed=99)
    found = at(merge_interference.run(pool(base, *(base + task for task in tasks))))
    return {metric: measurement for (metric, _), measurement in found.items()}


def test_the_same_task_twice() -> None:
    found = of_tasks(gaussian(64, 48), gaussian(64, 48))
    assert {name: found[name].value for name in found} == pytest.approx(
        {
            "sign_agreement": 1.0,
            "contested_share": 0.0,
            "task_cosine": 1.0,
            "norm_retention": 1.0,
            "mean_residual": 0.0,
            "top20_energy": found["top20_energy"].value,
            "top20_jaccard": 1.0,
            "cross_talk": found["cross_talk"].value,
            "shared_energy": found["shared_energy"].value,
        },
        abs=1e-6,
    )
    assert found["mean_residual"].evidence["reading"] == "a combination of the others"


def test_opposite_tasks() -> None:
    found = of_tasks(gaussian(64, 48), -gaussian(64, 48))
    assert found["sign_agreement"].value == 0.0
    assert found["contested_share"].value == 1.0
    assert found["task_cosine"].value == pytest.approx(-1.0)
    assert found["norm_retention"].value == pytest.approx(0.0, abs=1e-7)


def test_independent_tasks_meet_their_nulls() -> None:
    found = of_tasks(gaussian(256, 512), gaussian(256, 512, seed=1))
    assert found["sign_agreement"].value == pytest.approx(0.5, abs=5e-3)
    assert found["contested_share"].value == pytest.approx(0.5, abs=0.03)
    assert found["task_cosine"].value == pytest.approx(0.0, abs=0.01)
    assert found["cross_talk"].value == pytest.approx(0.0625, abs=5e-4)
    assert found["cross_talk"].null == 0.0625
    assert found["norm_retention"].value == pytest.approx(math.sqrt(0.5), abs=5e-3)
    assert found["top20_energy"].value == pytest.approx(0.6498, abs=5e-3)
    assert found["top20_jaccard"].value == pytest.approx(1 / 9, abs=5e-3)
    assert found["shared_energy"].value == pytest.approx(26 / 256, abs=0.01)
    assert found["mean_residual"].value == pytest.approx(1.0, abs=1e-3)
    for measurement in found.values():
        assert measurement.null is not None
        assert measurement.value == pytest.approx(measurement.null, abs=0.03), measurement.metric


@pytest.mark.parametrize(("tasks", "null"), [(2, 0.5), (3, 0.5), (4, 0.375), (5, 0.375), (8, 0.273)])
def test_nulls_of_signs(tasks: int, null: float) -> None:
    outcomes = [abs(sum(signs)) / tasks for signs in itertools.product((-1, 1), repeat=tasks)]
    assert task_vectors.sign_null(tasks) == pytest.approx(sum(outcomes) / len(outcomes), rel=1e-12)
    assert task_vectors.sign_null(tasks) == pytest.approx(null, abs=5e-4)
    differing = [len(set(signs)) > 1 for signs in itertools.product((-1, 1), repeat=tasks)]
    assert task_vectors.disagreement_null(tasks) == pytest.approx(sum(differing) / len(differing), rel=1e-12)
    found = of_tasks(*(gaussian(200, 200, seed=seed) for seed in range(tasks)))["sign_agreement"]
    assert found.value == pytest.approx(null, abs=5e-3)
    assert found.null == pytest.approx(null, abs=5e-4)


def densely(tasks: list[torch.Tensor]) -> dict[str, float]:
    """The definitions on whole matrices."""
    t = np.stack([task.numpy() for task in tasks])
    flat = t.reshape(len(tasks), -1)
    moving = (flat != 0).sum(0)
    top = np.abs(flat) >= -np.sort(-np.abs(flat), axis=1)[:, [math.ceil(0.2 * flat.shape[1]) - 1]]
    both = top.sum(0) > 1
    differ = (top & (flat > 0)).any(0) & (top & (flat < 0)).any(0)
    norms = np.linalg.norm(flat, axis=1)
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    k = math.ceil(t.shape[1] / 10)
    shares = []
    for i in range(len(tasks)):
        others = np.concatenate([t[j] / norms[j] for j in range(len(tasks)) if j != i], axis=1)
        u = np.linalg.svd(others, full_matrices=False)[0][:, :k]
        shares.append((np.linalg.norm(u.T @ t[i]) / norms[i]) ** 2)
    residuals = []
    for i in range(len(tasks)):
        rest = np.delete(flat, i, axis=0).T
        left = flat[i] - rest @ np.linalg.lstsq(rest, flat[i], rcond=None)[0]
        residuals.append(np.linalg.norm(left) / norms[i])
    return {
        "sign_agreement": float((np.abs(np.sign(flat).sum(0))[moving > 0] / moving[moving > 0]).mean()),
        "contested_share": (differ & both).sum() / both.sum(),
        "task_cosine": max(flat[i] @ flat[j] / norms[i] / norms[j] for i, j in pairs),
        "cross_talk": max(np.linalg.norm(t[i].T @ t[j]) / norms[i] / norms[j] for i, j in pairs),
        "norm_retention": np.linalg.norm(flat.mean(0)) / norms.mean(),
        "top20_energy": float(np.mean([(flat[i][top[i]] ** 2).sum() / norms[i] ** 2 for i in range(len(tasks))])),
        "top20_jaccard": float(np.mean([(top[i] & top[j]).sum() / (top[i] | top[j]).sum() for i, j in pairs])),
        "shared_energy": float(np.mean(shares)),
        "mean_residual": min(residuals),
    }


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (250, 300)])
def test_definitions_on_whole_matrices(shape: tuple[int, int]) -> None:
    common = gaussian(*shape, seed=7)
    tasks = [scale * (common + gaussian(*shape, seed=seed)) for seed, scale in enumerate((1.0, 3.0, 0.5))]
    tasks[1][:, ::3] = 0.0
    base = torch.zeros(shape, dtype=torch.float64)
    found = values(merge_interference.run(pool(base, *tasks)))
    assert found == pytest.approx(densely(tasks), rel=1e-6)


def test_an_average_of_three_is_recognised_with_its_weights() -> None:
    tasks = [scale * gaussian(40, 50, seed=seed) for seed, scale in enumerate((1.0, 2.0, 3.0))]
    tasks.append((tasks[0] + tasks[1] + tasks[2]) / 3)
    for view in (
        pool(gaussian(40, 50, seed=9), *(gaussian(40, 50, seed=9) + one for one in tasks)),
        pool(None, *tasks),
    ):
        found = at(merge_interference.run(view))["mean_residual", "w"]
        assert found.value == pytest.approx(0.0, abs=1e-6)
        assert found.evidence["reading"] == "a combination of the others"
        # four in one space of three: whichever was chosen, its weights give it back
        chosen = int(found.evidence["member"][1:])
        given = sum(factor * tasks[int(label[1:])] for label, factor in found.evidence["weights"].items())
        assert torch.allclose(given, tasks[chosen], rtol=0, atol=1e-6)


def test_wide_outputs_go_by_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = gaussian(90, 40), gaussian(90, 40, seed=1)
    whole = of_tasks(*tasks)["cross_talk"].value
    monkeypatch.setattr(task_vectors, "MAX_SIDE", 64)
    found = of_tasks(*tasks)
    assert found["cross_talk"].value == pytest.approx(whole, rel=1e-9)
    assert "shared_energy" not in found
    monkeypatch.setattr(task_vectors, "MAX_SIDE", 16)
    assert "cross_talk" not in of_tasks(*tasks)


def test_members_that_did_not_move_are_left_out() -> None:
    base, task = gaussian(30, 30), gaussian(30, 30, seed=1)
    alone = list(merge_interference.run(pool(base, base, base + task)))
    assert reasons(alone) == ["1 of 2 descendants moved, two are needed"]
    three = at(merge_interference.run(pool(base, base + task, base, base + task)))
    assert three["norm_retention", "w"].value == pytest.approx(1.0)
    assert three["norm_retention", "w"].evidence["tasks"] == 2
    assert three["sign_agreement", "w"].null == 0.5
    assert three["top20_jaccard", "w"].value == 1.0


def test_few_contested_entries_are_not_judged() -> None:
    found = of_tasks(gaussian(16, 16), gaussian(16, 16, seed=1))
    assert "contested_share" not in found


def test_the_whole_model() -> None:
    parts = []
    for place, sign in enumerate((1.0, -1.0)):
        base, task = gaussian(40, 40, seed=place), gaussian(40, 40, seed=5)
        parts.append(pool(base, base + task, base + sign * task))
        list(merge_interference.run(parts[-1]))
    whole = values(merge_interference.run(Model(Site("#model", (), ""), tuple(parts), labels=("base", "m0", "m1"))))
    assert whole == pytest.approx(
        {"sign_agreement": 0.5, "task_cosine": 0.0, "norm_retention": math.sqrt(0.5), "mean_residual": 1.0}, abs=1e-9
    )
