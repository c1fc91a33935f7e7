import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.linear_model import Ridge

from collapse_cli.analyzers.views.equivariance_collapse import PAIRS, collapsed, equivariance_collapse, healthy
from collapse_cli.core.finding import Severity
from collapse_cli.kernels.accumulators import Batch, CrossMoments, Moments
from collapse_cli.kernels.equivariance import held_out_readout, neighbour_differences, ranking, reciprocal_rank_null
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons

ROLES = ("view_a", "view_b", "transformation")


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def moments_of(a: torch.Tensor, b: torch.Tensor, g: torch.Tensor) -> dict[tuple[str, str], object]:
    batch = Batch(dict(zip(ROLES, (a, b, g), strict=True)))
    found = {(role, role): Moments(role) for role in ROLES}
    found |= {pair: CrossMoments(*pair) for pair in PAIRS}
    for accumulator in found.values():
        accumulator.update(batch)
    return found


def test_the_readout_is_ridge_fitted_on_one_half_and_tested_on_the_other() -> None:
    a, noise = gaussian(200, 4) + 3.0, gaussian(200, 4, seed=1)
    g = gaussian(200, 2, seed=2)
    b = a + g @ gaussian(2, 4, seed=3) + 0.5 * noise
    found = held_out_readout(moments_of(a[:120], b[:120], g[:120]), moments_of(a[120:], b[120:], g[120:]))
    x = torch.cat((a, b), 1).numpy()
    alpha = 1e-6 * ((x[:120] - x[:120].mean(0)) ** 2).sum() / 8
    model = Ridge(alpha=alpha).fit(x[:120], g[:120].numpy())
    assert found == pytest.approx(model.score(x[120:], g[120:].numpy()), rel=1e-9)


def test_reciprocal_ranks_and_hits() -> None:
    targets, predictions = gaussian(60, 3), gaussian(60, 3, seed=1) + 0.7 * gaussian(60, 3)
    objects = torch.arange(60) % 6
    found = ranking(predictions, targets, objects, min_views=5)
    assert found is not None
    ranks = []
    for k in range(6):
        p, t = predictions[objects == k].numpy(), targets[objects == k].numpy()
        ranks += [rankdata(np.linalg.norm(t - p[i], axis=1))[i] for i in range(10)]
    assert found.reciprocal_rank == pytest.approx(np.mean(1 / np.array(ranks)), rel=1e-12)
    assert found.hit_at_1 == pytest.approx(np.mean(np.array(ranks) <= 1))
    assert found.hit_at_5 == pytest.approx(np.mean(np.array(ranks) <= 5))
    assert (found.rows, found.objects) == (60, 6)
    assert ranking(predictions, targets, objects, min_views=11) is None


def test_ties_are_at_chance_and_not_at_the_top() -> None:
    same = torch.ones(100, 3)
    found = ranking(same, same, torch.arange(100) // 50, min_views=5)
    assert found is not None
    assert found.reciprocal_rank == pytest.approx(sum(1 / r for r in range(1, 51)) / 50, rel=1e-12)
    assert found.chance == pytest.approx(0.0900, abs=5e-5)
    assert found.reciprocal_rank == pytest.approx(found.chance, rel=1e-12)
    assert (found.hit_at_1, found.hit_at_5) == (pytest.approx(0.02), pytest.approx(0.10))
    assert (found.chance_at_1, found.chance_at_5) == (pytest.approx(0.02), pytest.approx(0.10))


def test_standard_error_of_a_random_place() -> None:
    draws = [
        ranking(gaussian(80, 2, seed=s), gaussian(80, 2, seed=500 + s), torch.arange(80) % 8, min_views=5)
        for s in range(60)
    ]
    values = [draw.reciprocal_rank for draw in draws if draw is not None]
    assert np.mean(values) == pytest.approx(reciprocal_rank_null(10)[0], abs=0.02)
    assert np.std(values) == pytest.approx(draws[0].error if draws[0] else 0.0, rel=0.35)


def test_sensitivity_is_the_relative_difference_within_objects() -> None:
    rows = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 1.0], [5.0, 5.0]])
    found = neighbour_differences(rows, torch.tensor([0, 1, 0, 1]))
    assert found.tolist() == pytest.approx([2**0.5, 0.0])
    assert neighbour_differences(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)).tolist() == [0.0, 0.0]


def test_an_equivariant_representation_is_silent() -> None:
    subject = judged(equivariance_collapse, healthy())
    found = {m.metric: m.value for m in subject.measurements}
    assert found["transformation_r2"] > 0.99
    assert found["mrr"] == pytest.approx(1.0, abs=0.05)
    assert subject.findings == ()


def test_an_invariant_one_is_found() -> None:
    subject = judged(equivariance_collapse, collapsed())
    found = {m.metric: m for m in subject.measurements}
    assert found["transformation_r2"].value == pytest.approx(0.0, abs=0.2)
    assert found["mrr"].value == pytest.approx(sum(1 / r for r in range(1, 9)) / 8, rel=1e-9)
    assert found["within_object_share"].value == pytest.approx(0.0, abs=1e-12)
    assert found["predictor_sensitivity"].value == 0.0
    warned = {f.measurement.metric for f in subject.findings if f.severity is Severity.WARNING}
    assert warned == {"transformation_r2_z", "mrr_z", "predictor_sensitivity"}
    assert [f.measurement.metric for f in subject.findings if f.severity is Severity.ERROR] == ["mrr"]


def test_an_unreadable_transformation_has_the_spread_that_is_stated() -> None:
    found = [
        measured(
            equivariance_collapse,
            {
                "view_a": gaussian(400, 3, seed=s),
                "view_b": gaussian(400, 3, seed=99 + s),
                "transformation": gaussian(400, 2, seed=200 + s),
            },
        )["transformation_r2"]
        for s in range(30)
    ]
    assert np.mean([m.value for m in found]) == pytest.approx(-6 / 200, abs=0.012)
    assert np.std([m.value for m in found]) == pytest.approx(found[0].evidence["standard_error"], rel=0.35)


def test_share_within_objects_against_its_definition() -> None:
    arrays = dict(healthy().tensors)
    found = measured(equivariance_collapse, arrays)["within_object_share"]
    b, k = arrays["projector/view_b"].double().numpy(), arrays["projector/groups"].numpy()
    centres = np.stack([b[k == i].mean(0) for i in range(64)])[k]
    assert found.value == pytest.approx(((b - centres) ** 2).sum() / ((b - b.mean(0)) ** 2).sum(), rel=1e-9)
    assert found.null == pytest.approx(448 / 511)


def test_without_predictor_or_objects_nothing_is_judged() -> None:
    a = gaussian(200, 3)
    arrays = {"view_a": a, "view_b": a, "transformation": gaussian(200, 2, seed=1)}
    assert findings(equivariance_collapse, arrays) == []
    assert reasons(results(equivariance_collapse, arrays)) == [
        "transformation_r2_z: no predictor site declares equivariance",
        "mrr, mrr_z, hit_at_1, hit_at_5, predictor_sensitivity: no predictor site or no groups",
        "within_object_share: no groups",
    ]
    few = {role: tensor[:40] for role, tensor in arrays.items()}
    assert "regressors" in reasons(results(equivariance_collapse, few))[0]
    constant = arrays | {"view_a": torch.ones(200, 3), "view_b": torch.ones(200, 3)}
    assert measured(equivariance_collapse, constant)["transformation_r2"].value == pytest.approx(0.0, abs=0.1)
    fixed = arrays | {"transformation": torch.ones(200, 2)}
    assert "the transformation is constant" in reasons(results(equivariance_collapse, fixed))[0]


def test_views_of_one_object_are_never_on_both_sides() -> None:
    # views that tell the object and nothing of the transformation, which is the object's own
    objects = torch.arange(1200) // 40
    views, transformation = gaussian(30, 15)[objects], gaussian(30, 2, seed=1)[objects]
    arrays = {
        "view_a": views + 0.01 * gaussian(1200, 15, seed=2),
        "view_b": views + 0.01 * gaussian(1200, 15, seed=3),
        "transformation": transformation,
    }
    leaking = measured(equivariance_collapse, arrays)["transformation_r2"].value
    assert leaking > 0.3
    assert measured(equivariance_collapse, arrays | {"groups": objects})["transformation_r2"].value < 0.0
