import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.sparse.activation_density import activation_density, collapsed
from collapse_cli.core.finding import Severity
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def codes(rows: int, densities: np.ndarray, *, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).random((rows, len(densities)), dtype=np.float32) < densities).half()


def test_every_metric_against_numpy() -> None:
    x = codes(10_000, 0.3 / np.arange(1, 41))
    found = measured(activation_density, {"sparse": x})
    fires = (x > 0).numpy()
    active, density = fires.sum(1), fires.mean(0)
    assert found["l0_mean"].value == pytest.approx(active.mean(), rel=1e-12)
    assert found["l0_cv"].value == pytest.approx(active.std() / active.mean(), rel=1e-10)
    gaps = np.abs(density[:, None] - density[None]).mean() / (2.0 * density.mean())
    assert found["density_gini"].value == pytest.approx(gaps, rel=1e-10)
    assert found["dense_share"].value == pytest.approx((density > 0.1).mean())
    shares = density / density.sum()
    assert found["effective_latents"].value == pytest.approx(math.exp(-(shares * np.log(shares)).sum()) / 40, rel=1e-10)
    assert found["density_zipf"].value == pytest.approx(1.0, abs=0.02)
    assert sum(found["effective_latents"].evidence["densities"]["units"]) == 40
    assert found["l0_mean"].null is None


def test_equal_densities_stand_at_their_nulls() -> None:
    """The formulas at N = 10,000, F = 200, L0 = 4; .063 and .353 of N = 20,000, F = 2,000, L0 = 8 are theirs too."""
    found = measured(activation_density, {"sparse": codes(10_000, np.full(200, 0.02))})
    # 200 densities: their Gini coefficient scatters by about 1/√(2F) of it; a standard deviation of N rows likewise
    assert found["density_gini"].value == pytest.approx(found["density_gini"].null, rel=4 / math.sqrt(400))
    assert found["density_gini"].null == pytest.approx(math.sqrt(0.98 / (math.pi * 10_000 * 0.02)), rel=0.01)
    assert found["l0_cv"].value == pytest.approx(found["l0_cv"].null, rel=4 / math.sqrt(20_000))
    assert found["l0_cv"].null == pytest.approx(math.sqrt(0.98 / 4.0), rel=0.01)
    assert found["effective_latents"].value == pytest.approx(1.0, abs=0.01)
    assert found["density_zipf"].value < 0.02
    assert (found["dense_share"].value, found["dense_share"].null) == (0.0, 0.0)
    assert findings(activation_density, {"sparse": codes(10_000, np.full(200, 0.02))}) == []


def test_ten_of_a_thousand_take_all_the_firing() -> None:
    x = torch.zeros(10_000, 1000, dtype=torch.uint8).half()
    x[:, :10] = 1.0
    found = measured(activation_density, {"sparse": x})
    assert found["effective_latents"].value == pytest.approx(0.01, rel=1e-12)
    assert (found["l0_mean"].value, found["l0_cv"].value, found["dense_share"].value) == (10.0, 0.0, 0.01)
    assert found["density_gini"].value == pytest.approx(0.99, rel=1e-12)


def test_top_k_codes_have_their_k_as_null() -> None:
    x = torch.zeros(10_000, 8, dtype=torch.float16)
    x[:, :2] = 1.0
    found = measured(activation_density, {"sparse": x}, top_k="2")
    assert (found["l0_mean"].null, found["l0_cv"].null, found["l0_cv"].value) == (2.0, 0.0, 0.0)


def test_codes_that_always_fire_are_dense_by_their_null() -> None:
    found = measured(activation_density, {"sparse": torch.ones(10_000, 3, dtype=torch.float16)})
    assert (found["dense_share"].value, found["dense_share"].null) == (1.0, 1.0)
    assert (found["l0_cv"].value, found["l0_cv"].null) == (0.0, 0.0)
    assert (found["density_gini"].value, found["density_gini"].null, found["density_zipf"].value) == (0.0, 0.0, 0.0)
    assert sum(found["effective_latents"].evidence["densities"]["units"]) == 3


def test_no_firing_at_all_is_a_mean_of_zero() -> None:
    found = results(activation_density, {"sparse": torch.zeros(10_000, 3, dtype=torch.float16)})
    assert [(m.metric, m.value) for m in found if hasattr(m, "metric")] == [("l0_mean", 0.0)]
    assert reasons(found)[0].endswith("nothing fires in 10,000 rows")


def test_few_rows_are_skipped() -> None:
    assert reasons(results(activation_density, {"sparse": torch.ones(9_999, 2, dtype=torch.float16)})) == [
        "9999 finite rows of 2 latents, needs 10,000"
    ]


@pytest.mark.parametrize("role", ["features", "tokens"])
def test_of_features_and_tokens_only_the_entries_that_are_not_zero(role: str) -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.standard_normal((10_000, 6)) * (rng.random((10_000, 6)) < 0.4)).half()
    arrays = {role: x if role == "features" else x.reshape(1000, 10, 6)}
    found = results(activation_density, arrays)
    (mean,) = [m for m in found if hasattr(m, "metric")]
    assert (mean.metric, mean.value) == ("l0_mean", pytest.approx(int((x != 0).sum()) / 10_000, rel=1e-12))
    assert reasons(found) == [
        f"l0_cv, density_zipf, density_gini, dense_share, effective_latents: {role} are no sparse codes"
    ]


def test_masked_tokens_are_no_rows() -> None:
    x = torch.ones(2000, 10, 2, dtype=torch.float16)
    x[:, 5:] = 0.0
    mask = torch.arange(10).expand(2000, 10) < 5
    assert reasons(results(activation_density, {"tokens": x, "mask": mask})) == [
        "l0_mean: dense tokens, none of their entries is 0"
    ]


def test_collapsed_message_has_its_numbers() -> None:
    subject = judged(activation_density, collapsed())
    (found,) = subject.findings
    assert found.severity == Severity.WARNING
    assert "The firing of 400 latents is that of 1 equally frequent ones, with 1 active per row." in found.message
