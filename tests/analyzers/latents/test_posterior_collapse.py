import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.latents.posterior_collapse import collapsed, posterior_collapse
from collapse_cli.core.finding import Severity
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def standardised(rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    """Columns of mean 0 and variance 1 (N − 1) without any correlation."""
    x = np.random.default_rng(seed).standard_normal((rows, columns))
    q, _ = np.linalg.qr(x - x.mean(0))
    return q * math.sqrt(rows - 1)


def level(means: np.ndarray, variances: np.ndarray | float) -> dict[str, torch.Tensor]:
    logs = np.log(np.broadcast_to(variances, means.shape)).copy()
    return {"mu": torch.tensor(means), "logvar": torch.tensor(logs)}


def test_certain_posteriors_that_fill_the_prior() -> None:
    """μ of variance 0.99 and s = 0.01: KL = 2.3026 nats per dimension on average, information Z·2.3026."""
    rows = 1000
    x = standardised(rows, 4) * math.sqrt(0.99)
    found = measured(posterior_collapse, level(x, 0.01))
    values = {metric: m.value for metric, m in found.items()}
    mean_square = 0.99 * (rows - 1) / rows
    kl = 0.5 * (mean_square + 0.01 - 1.0 - math.log(0.01))
    assert values["kl_median"] == pytest.approx(kl, rel=1e-10)
    assert values["kl_median"] == pytest.approx(2.3026, abs=1e-3)
    assert (values["active_units"], values["active_share"]) == (4, 1.0)
    assert (values["passive_share"], values["mixed_share"], values["collapsed_share"]) == (0.0, 0.0, 0.0)
    assert values["information_bound"] == pytest.approx(4 * 2.302585, rel=1e-6)
    sampled = found["information_sampled"]
    assert sampled.evidence["components"] == rows
    assert values["information_sampled"] < math.log(rows) + 0.3
    assert found["information_bound"].evidence["aggregate_kl"] == pytest.approx(4 * kl - 4 * 2.302585, abs=1e-5)
    assert findings(posterior_collapse, level(x, 0.01)) == []


def test_the_prior_for_every_input() -> None:
    found = measured(posterior_collapse, level(np.zeros((600, 5)), 1.0))
    values = {metric: m.value for metric, m in found.items()}
    assert (values["kl_median"], values["active_units"], values["information_bound"]) == (0.0, 0.0, 0.0)
    assert (values["passive_share"], values["collapsed_share"]) == (1.0, 1.0)
    assert "information_sampled" not in values
    assert findings(posterior_collapse, level(np.zeros((600, 5)), 1.0)) == [Severity.ERROR, Severity.WARNING]


@pytest.mark.parametrize(("variance", "expected"), [(0.09, []), (0.5, [Severity.WARNING]), (0.99, [])])
def test_an_encoder_that_learned_little_is_told_from_one_that_was_never_trained(
    variance: float, expected: list[Severity]
) -> None:
    """Three Gaussian dimensions that fill the prior: −½·3·log(1 − variance) nats, 0.14, 1.04 and 6.9."""
    arrays = level(standardised(1000, 3) * math.sqrt(variance), 1.0 - variance)
    found = measured(posterior_collapse, arrays)
    assert found["information_bound"].value == pytest.approx(-1.5 * math.log(1.0 - variance), rel=1e-6)
    if variance == 0.5:
        assert found["information_sampled"].value == pytest.approx(1.04, abs=0.15)
    assert ("information_sampled" in found) == (variance > 0.1)
    assert findings(posterior_collapse, arrays) == expected


def test_two_modes() -> None:
    """±3 and s = 0.01: log 2 true, the bound ½ log 901 = 3.40, sampled log 2 within its noise, KL 6.31."""
    x = np.tile([[3.0], [-3.0]], (500, 1)) * math.sqrt(999 / 1000)  # variance 9 with N − 1
    values = {metric: m.value for metric, m in measured(posterior_collapse, level(x, 0.01)).items()}
    assert values["information_bound"] == pytest.approx(0.5 * math.log(901.0), rel=1e-9)
    assert values["information_sampled"] == pytest.approx(math.log(2.0), abs=4.0 * math.sqrt(1 / 2000))
    assert values["kl_median"] == pytest.approx(0.5 * (9.0 * 0.999 + 0.01 - 1.0 - math.log(0.01)), rel=1e-9)
    assert values["kl_median"] == pytest.approx(6.31, abs=0.01)


def test_active_units_are_those_of_burda_with_equality() -> None:
    x = standardised(600, 3) * np.array([0.1 * (1 + 1e-9), 0.1 * (1 - 1e-9), 1.0])
    assert measured(posterior_collapse, level(x, 0.5))["active_units"].value == 2
    assert measured(posterior_collapse, level(x, 0.5))["mixed_share"].value == 1.0


def test_collapsed_dimensions_may_be_used_by_one_input_in_a_hundred() -> None:
    x = np.zeros((1000, 2))
    x[:10, 0] = x[:11, 1] = 5.0
    assert measured(posterior_collapse, level(x, 1.0))["collapsed_share"].value == 0.5


def test_a_learned_prior_is_what_counts() -> None:
    """Posterior = prior of a level whose prior moves with the level above: collapsed, whatever μ does."""
    x = standardised(600, 3)
    arrays = level(x, 0.04)
    prior = {"prior_mu": arrays["mu"], "prior_logvar": arrays["logvar"]}
    found = {metric: m.value for metric, m in measured(posterior_collapse, arrays | prior).items()}
    assert (found["kl_median"], found["active_units"], found["passive_share"]) == (0.0, 0.0, 1.0)
    assert found["information_bound"] > 1.0
    assert findings(posterior_collapse, arrays | prior) == [Severity.WARNING]
    shifted = prior | {"prior_mu": arrays["mu"] + 0.2 * torch.tensor(standardised(600, 3, seed=1))}
    moved = {metric: m.value for metric, m in measured(posterior_collapse, arrays | shifted).items()}
    assert moved["active_units"] == 3
    assert moved["kl_median"] == pytest.approx(0.5 * 599 / 600, rel=1e-9)


def test_condition_against_scipy_and_its_null() -> None:
    rng = np.random.default_rng(0)
    condition, noise = rng.standard_normal((2000, 100)), rng.standard_normal((2000, 50))
    arrays = level(standardised(2000, 2), 0.01) | {"condition": torch.tensor(condition)}
    found = measured(posterior_collapse, arrays | {"targets": torch.tensor(noise)})["condition_correlation"]
    assert found.null == pytest.approx(0.375, abs=1e-3)
    assert found.value == pytest.approx(0.365, abs=0.015)
    bases = [np.linalg.qr(side - side.mean(0))[0] for side in (condition, noise)]
    assert found.value == pytest.approx(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)[0], rel=1e-8)
    exact = measured(posterior_collapse, arrays | {"targets": torch.tensor(condition[:, :3] @ noise[:3, :4])})
    assert exact["condition_correlation"].value == pytest.approx(1.0, abs=1e-7)
    constant = results(posterior_collapse, arrays | {"targets": torch.ones(2000)})
    assert "condition_correlation: the condition or the targets are constant" in reasons(constant)
    wide = results(
        posterior_collapse, arrays | {"targets": torch.randn(2000, 1950, generator=torch.Generator().manual_seed(1))}
    )
    assert "condition_correlation: 2000 finite rows of 2050 columns, needs 2052" in reasons(wide)


def test_categorical_latents() -> None:
    """Three groups: one copies a class of 4, one is the prior, one moves little."""
    classes = torch.arange(4).repeat(150)
    logits = torch.zeros(600, 3, 4, dtype=torch.float64)
    logits[torch.arange(600), 0, classes] = 1e4
    logits[:, 2, 0] = 0.1
    arrays = {"latent_logits": logits, "prior_logits": torch.zeros(600, 3, 4, dtype=torch.float64)}
    found = measured(posterior_collapse, arrays)
    weights = np.exp([0.1, 0, 0, 0]) / np.exp([0.1, 0, 0, 0]).sum()
    little = float((weights * np.log(4 * weights)).sum())
    assert found["kl_median"].value == pytest.approx(little, rel=1e-9)
    np.testing.assert_allclose(found["kl_median"].evidence["kl"], [math.log(4), 0.0, little], atol=1e-12)
    assert found["collapsed_share"].value == pytest.approx(2 / 3)
    assert found["information_bound"].value == pytest.approx(math.log(4), rel=1e-9)
    assert set(found) == {"kl_median", "collapsed_share", "information_bound"}
    assert findings(posterior_collapse, arrays) == []


def test_both_kinds_of_latent_at_one_hook_point_have_their_own_sites() -> None:
    arrays = level(standardised(600, 2), 0.01)
    arrays |= {"latent_logits": torch.zeros(600, 2, 3), "prior_logits": torch.zeros(600, 2, 3)}
    sites = {(m.metric, m.site) for m in results(posterior_collapse, arrays) if hasattr(m, "metric")}
    assert {("kl_median", "output"), ("kl_median", "output#categorical")} <= sites


def test_too_few_rows_are_skipped_with_both_numbers() -> None:
    few = reasons(results(posterior_collapse, level(np.zeros((499, 3)), 1.0)))
    assert "499 finite rows of 3 latents, needs 500 and over 4 per latent" in few
    wide = reasons(results(posterior_collapse, level(np.zeros((600, 150)), 1.0)))
    assert "600 finite rows of 150 latents, needs 500 and over 4 per latent" in wide


def test_infinite_log_variances_are_left_out_and_none_left_is_a_skip() -> None:
    arrays = level(standardised(600, 2), 0.01)
    arrays["logvar"][:50, 0] = -torch.inf
    arrays["logvar"][50:90, 1] = torch.inf
    found = measured(posterior_collapse, arrays)["kl_median"]
    assert found.evidence["finite_rows"] == 510
    everything = reasons(
        results(posterior_collapse, level(np.zeros((600, 2)), 1.0) | {"logvar": torch.full((600, 2), -torch.inf)})
    )
    assert any(reason.startswith("0 finite rows") for reason in everything)


@pytest.mark.parametrize("log_variance", [-1e30, 1e30])
def test_variances_beyond_float64_have_defined_answers(log_variance: float) -> None:
    arrays = {"mu": torch.randn(600, 1, generator=torch.Generator().manual_seed(0))}
    found = measured(posterior_collapse, arrays | {"logvar": torch.full((600, 1), log_variance)})
    assert {"kl_median", "information_bound", "information_sampled"} <= set(found)


def test_widths_that_do_not_fit_are_a_failure_of_the_analyzer_alone() -> None:
    arrays = {"mu": torch.zeros(600, 4), "logvar": torch.zeros(600, 3)}
    analysis = analyse_dump(memory_dump(arrays, metadata={}), [posterior_collapse])
    assert len(analysis.failures) == 1
    assert "do not have the same latents" in analysis.failures[0].message


def test_messages_have_their_numbers() -> None:
    texts = [finding.message for finding in judged(posterior_collapse, collapsed()).findings]
    assert any("None of 4 latent dimensions is active" in text for text in texts)
    assert any("600 inputs have the same posterior" in text for text in texts)
    assert len(texts) == 3
