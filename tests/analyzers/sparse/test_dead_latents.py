import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.sparse.dead_latents import dead_latents
from collapse_cli.core.finding import Severity
from collapse_cli.core.site import Role, Site
from collapse_cli.kernels.accumulators import Batch, UnitActivity
from collapse_cli.kernels.views import Activations
from tests.view_dumps import findings, measured, results
from tests.views import reasons, values


def codes(rows: int, units: int, active: float, *, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor((rng.random((rows, units)) < active / units) * rng.random((rows, units)))


def repeated(rows: torch.Tensor, doublings: int) -> Activations:
    """A hook point of 2^doublings copies of the rows, merged and never stored."""
    activity = UnitActivity()
    activity.update(Batch({"sparse": rows}))
    for _ in range(doublings):
        copy = UnitActivity()
        copy.merge(activity)
        activity.merge(copy)
    site = Site("sae", (), "F32", None, Role.ACTIVATION)
    shapes, dtypes = {"sparse": tuple(rows.shape)}, {"sparse": "F32"}
    return Activations(site, {"unit_activity": activity}, shapes=shapes, dtypes=dtypes, rows=activity.count)


def test_silent_latents_of_equal_density_are_those_of_the_null() -> None:
    """N = 500, F = 2,000, L0 = 8: .1348 by the null."""
    found = measured(dead_latents, {"sparse": codes(500, 2000, 8.0)})["silent_share"]
    assert found.null == pytest.approx(0.1348, abs=0.006)
    assert found.value == pytest.approx(found.null, abs=4 * math.sqrt(0.1348 * 0.8652 / 2000))


def test_silent_units_are_counted_and_not_judged_on_few_rows() -> None:
    x = codes(500, 2000, 40.0)
    x[:, 500:] = 0.0
    found = measured(dead_latents, {"sparse": x})
    assert found["silent_share"].value == 0.75
    assert found["silent_share"].evidence["first"] == list(range(500, 516))
    # alive as other tools count it: Σf ≠ 0
    assert 1.0 - found["silent_share"].value == float((x.sum(0) != 0).double().mean())
    assert found["density_bound"].value == pytest.approx(-math.log(0.05) / 500)
    mean = float((x > 0).sum()) / 2000
    proof = "500 rows prove only a density below 0.006, needs 10,000,000 or 100 firings of the mean latent"
    said = reasons(results(dead_latents, {"sparse": x}))
    assert said == [
        f"dead_share: {proof} ({mean:.3g})",
        "active_per_row: 500 rows, needs 1,000",
        "rare_share: 500 rows prove only a density below 0.006, needs 3,000,000",
    ]
    assert findings(dead_latents, {"sparse": x}) == []


def test_ten_million_rows_prove_death_and_rarity() -> None:
    x = torch.zeros(1000, 10)
    x[:, :8] = 1.0
    view = repeated(x, 14)
    # one latent that fired 5 times in 16 million rows, and one that fired 17 times: 1.04e-6
    view.read("unit_activity")._counts[0, 8] = 5
    view.read("unit_activity")._counts[0, 0] = 17
    found = list(dead_latents.run(view))
    assert values(found) == {
        "silent_share": 0.1,
        "dead_share": 0.1,
        "density_bound": pytest.approx(-math.log(0.05) / 16_384_000),
        "active_per_row": pytest.approx(8.0),
        "rare_share": 0.2,
    }
    assert reasons(found) == []


def test_three_million_rows_prove_rarity_and_not_death() -> None:
    found = list(dead_latents.run(repeated(codes(1000, 5, 2.0), 12)))
    assert {"silent_share", "dead_share", "density_bound", "active_per_row", "rare_share"} == set(values(found))
    assert reasons(found) == []


def test_a_hundred_firings_of_the_mean_latent_prove_death() -> None:
    x = torch.zeros(2000, 10)
    x[:500, 0] = x[:499, 1] = 1.0
    found = results(dead_latents, {"sparse": x})
    proof = "2,000 rows prove only a density below 0.0015, needs 10,000,000 or 100 firings of the mean latent (99.9)"
    assert f"dead_share: {proof}" in reasons(found)
    x[499, 1] = 1.0
    assert measured(dead_latents, {"sparse": x})["dead_share"].value == 0.8


@pytest.mark.parametrize(("fired", "expected"), [(1000, []), (999, [Severity.WARNING]), (99, [Severity.ERROR])])
def test_rows_without_a_code_are_judged(fired: int, expected: list[Severity]) -> None:
    x = torch.zeros(1000, 8)
    places = torch.arange(fired)
    x[places, places % 8] = 1.0
    assert measured(dead_latents, {"sparse": x})["active_per_row"].value == fired / 1000
    assert findings(dead_latents, {"sparse": x}) == expected


@pytest.mark.parametrize(("dead", "expected"), [(3, []), (4, [Severity.WARNING]), (7, [Severity.ERROR])])
def test_dead_latents_are_judged_by_their_share(dead: int, expected: list[Severity]) -> None:
    x = torch.zeros(1000, 10)
    x[:, dead:] = 1.0
    assert findings(dead_latents, {"sparse": x}) == expected


def test_a_dump_in_which_nothing_fires_is_dead_from_a_thousand_rows_on() -> None:
    assert findings(dead_latents, {"sparse": torch.zeros(1000, 8)}) == 2 * [Severity.ERROR]
    assert findings(dead_latents, {"sparse": torch.zeros(999, 8)}) == []
    found = measured(dead_latents, {"sparse": torch.zeros(1000, 8)})
    assert (found["dead_share"].value, found["dead_share"].null) == (1.0, 1.0)
    assert findings(dead_latents, {"sparse": -torch.ones(1000, 8)}) == 2 * [Severity.ERROR]


def test_codes_that_always_fire_and_no_rows_have_defined_answers() -> None:
    found = measured(dead_latents, {"sparse": torch.ones(3, 2)})
    assert (found["silent_share"].value, found["silent_share"].null, found["density_bound"].value) == (
        0.0,
        0.0,
        0.9985774245179969,
    )
    assert reasons(results(dead_latents, {"sparse": torch.full((3, 2), math.nan)})) == ["no finite rows, or no latents"]
