import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from collapse_cli.kernels import gaussian_latents
from collapse_cli.kernels.accumulators import Batch, CategoricalPosterior, GaussianPosterior
from tests.kernels.merging import assert_is_the_whole


def posteriors(rows: int = 60, latents: int = 4, *, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -3, latents)
    return {
        "mu": 5.0 + scale * torch.randn(rows, latents, generator=g),
        "logvar": torch.randn(rows, latents, generator=g) - 2.0,
        "prior_mu": torch.randn(rows, latents, generator=g),
        "prior_logvar": 0.3 * torch.randn(rows, latents, generator=g),
    }


def logits(rows: int = 40) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    roles = {role: torch.randn(rows, 3, 5, generator=g) for role in ("latent_logits", "prior_logits")}
    roles["latent_logits"][2, 1] = -torch.inf
    roles["latent_logits"][3, 1, 1:] = -torch.inf
    roles["prior_logits"][4, 0, 2] = -torch.inf
    roles["prior_logits"][5, 0, 2] = torch.nan
    return roles


def fed(roles: dict[str, torch.Tensor]) -> GaussianPosterior:
    accumulator = GaussianPosterior()
    accumulator.update(Batch(roles))
    return accumulator


@pytest.mark.parametrize("names", [("mu", "logvar"), ("mu", "logvar", "prior_mu", "prior_logvar")])
def test_posteriors_in_parts_are_the_whole(names: tuple[str, ...]) -> None:
    roles = {name: tensor for name, tensor in posteriors().items() if name in names}
    for tensor in roles.values():
        tensor[20:30] = 0.0  # the prior itself
    roles["logvar"][7, 2] = torch.inf
    assert_is_the_whole(GaussianPosterior, roles)


def test_parts_of_several_batches_each_about_its_first_are_the_whole() -> None:
    roles = posteriors(40)
    parts = [GaussianPosterior(), GaussianPosterior()]
    for place in range(4):
        rows = {role: tensor[10 * place : 10 * place + 10] for role, tensor in roles.items()}
        parts[place // 2].update(Batch(rows, start=10 * place))
    parts[1].merge(parts[0])
    whole = fed(roles)
    for name in ("mean", "covariance", "offset_variance", "kl_sum"):
        torch.testing.assert_close(getattr(parts[1], name), getattr(whole, name), rtol=1e-10, atol=1e-14)


def test_categorical_posteriors_in_parts_are_the_whole() -> None:
    assert_is_the_whole(CategoricalPosterior, logits())


def test_sums_are_those_of_numpy() -> None:
    roles = posteriors()
    found, x = fed(roles), {name: tensor.double().numpy() for name, tensor in roles.items()}
    ratio = np.exp(x["logvar"] - x["prior_logvar"])
    offset = (x["mu"] - x["prior_mu"]) / np.exp(0.5 * x["prior_logvar"])
    kl = 0.5 * (x["prior_logvar"] - x["logvar"] + ratio + offset**2 - 1.0)
    expected = {
        "mean": x["mu"].mean(0),
        "covariance": np.cov(x["mu"].T),
        "offset_variance": offset.var(0, ddof=1),
        "variance_sum": np.exp(x["logvar"]).sum(0),
        "log_variance_sum": x["logvar"].sum(0),
        "ratio_sum": ratio.sum(0),
        "ratio_squares": (ratio**2).sum(0),
        "kl_sum": kl.sum(0),
        "near_prior": (kl < 0.01).sum(0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name).numpy(), value, rtol=1e-10, atol=1e-14, err_msg=name)


def test_categorical_sums_are_those_of_torch_distributions() -> None:
    roles, found = logits(), CategoricalPosterior()
    found.update(Batch(roles))
    assert (found.count, found.masked_rows) == (38, 1)
    # rows 2 (masked) and 5 (NaN) are out; a class that the prior excludes has a divergence of q·230, checked apart
    kept = [row for row in range(40) if row not in (2, 4, 5)]
    q = torch.distributions.Categorical(logits=roles["latent_logits"][kept].double().clamp_min(-500))
    p = torch.distributions.Categorical(logits=roles["prior_logits"][kept].double())
    excluded = roles["latent_logits"][4].double().softmax(-1)
    logs = roles["prior_logits"][4].double().log_softmax(-1).clamp_min(-230.0)
    of_row = (excluded * (excluded.log() - logs)).sum(-1)
    assert of_row[0] > 1.0
    kl = torch.distributions.kl_divergence(q, p).sum(0) + of_row
    torch.testing.assert_close(found.kl_sum, kl, rtol=1e-9, atol=0.0)
    entropies = q.entropy().sum(0) + torch.distributions.Categorical(probs=excluded).entropy()
    torch.testing.assert_close(found.entropy_sum, entropies, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(found.probability_sum, q.probs.sum(0) + excluded, rtol=1e-9, atol=0.0)


def test_widths_that_do_not_fit_are_remembered_and_nothing_raises() -> None:
    assert fed({"mu": torch.zeros(3, 4), "logvar": torch.zeros(3, 1)}).is_consistent
    found = fed({"mu": torch.zeros(3, 4), "logvar": torch.zeros(3, 2)})
    assert (found.is_consistent, found.count) == (False, 0)
    other = CategoricalPosterior()
    other.update(Batch({"latent_logits": torch.zeros(3, 4, 2), "prior_logits": torch.zeros(3, 4, 3)}))
    assert (other.is_consistent, other.count) == (False, 0)


@pytest.mark.parametrize("log_variance", [-1e30, -231.0, 231.0, 1e30])
def test_variances_that_overflow_have_finite_sums(log_variance: float) -> None:
    mean = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 1e30
    found = fed(
        {
            "mu": mean,
            "logvar": torch.full((50, 3), log_variance),
            "prior_mu": -mean,
            "prior_logvar": torch.full((50, 3), -log_variance),
        }
    )
    for name in ("kl_sum", "offset_variance", "ratio_squares", "covariance"):
        assert torch.isfinite(getattr(found, name)).all(), name
    assert math.isfinite(gaussian_latents.information_bound(found))


def test_kinds_are_those_of_the_variance_layer() -> None:
    """numpy.var and numpy.mean of exp(logvar) against 0.1 and 1 ± 0.1, as in the paper's code."""
    rng = np.random.default_rng(0)
    variances = np.concatenate(
        (rng.uniform(0.0, 0.05, (300, 3)), rng.uniform(0.85, 1.2, (300, 3)), rng.uniform(0.0, 2.0, (300, 3))), axis=1
    )
    variances = np.concatenate((variances, np.full((300, 1), 0.5), rng.choice([0.5, 1.5], (300, 1))), axis=1)
    variances[:, 6] = np.where(np.arange(300) == 0, 20.0, 1e-3)  # near 0 on average and not steady
    kinds = gaussian_latents.latent_kinds(fed({"mu": torch.zeros(300, 11), "logvar": torch.tensor(np.log(variances))}))
    spread, mean = variances.var(0), variances.mean(0)
    passive = (spread < 0.1) & (mean >= 0.9) & (mean <= 1.1)
    active = (spread < 0.1) & (mean <= 0.1)
    assert (active.sum(), passive.sum()) == (3, 3)
    np.testing.assert_array_equal(kinds.is_active.numpy(), active)
    np.testing.assert_array_equal(kinds.is_passive.numpy(), passive)
    np.testing.assert_array_equal(kinds.is_mixed.numpy(), ~(active | passive))


def test_sampled_information_against_the_densities_of_scipy() -> None:
    roles = posteriors(40, 3)
    means, logs = roles["mu"].double(), roles["logvar"].double()
    noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    samples = (means + (0.5 * logs).exp() * noise).numpy()
    each = [multivariate_normal(m.numpy(), np.diag(v.exp().numpy())) for m, v in zip(means, logs, strict=True)]
    aggregate = np.log(np.mean([density.pdf(samples) for density in each], axis=0))
    expected = -np.mean([density.entropy() for density in each]) - aggregate.mean()
    assert gaussian_latents.information_sampled(means, logs, noise) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("components", "expected"), [(32, 2.98), (256, 5.56), (2048, 7.65)])
def test_sampled_information_has_the_published_ceiling(components: int, expected: float) -> None:
    """Eight dimensions of μ ~ N(0, 0.99) and s = 0.01: 18.42 nats, of which log M can be seen."""
    rng = np.random.default_rng(0)
    means = torch.tensor(math.sqrt(0.99) * rng.standard_normal((components, 8)))
    noise = torch.tensor(rng.standard_normal((components, 8)))
    logs = torch.full((components, 8), math.log(0.01), dtype=torch.float64)
    found = gaussian_latents.information_sampled(means, logs, noise)
    # the average of the published runs; one run scatters by √(Z/2M)
    assert found == pytest.approx(expected, abs=4.0 * math.sqrt(8 / (2 * components)))
    assert found < math.log(components) + 4.0 * math.sqrt(8 / (2 * components))


def test_information_bound_is_that_of_a_gaussian_aggregate() -> None:
    found = fed(posteriors(200, 4))
    aggregate = found.covariance.numpy() + np.diag(found.variance_sum.numpy() / 200)
    expected = 0.5 * np.linalg.slogdet(aggregate)[1] - 0.5 * found.log_variance_sum.numpy().sum() / 200
    assert gaussian_latents.information_bound(found) == pytest.approx(expected, rel=1e-10)


def test_information_bound_of_copies_that_are_surer_than_float64() -> None:
    """Two equal columns of variance v and s = 1e-30: ½ log(1 + 2v/s), which no float64 determinant can tell."""
    x = torch.tensor(np.random.default_rng(0).standard_normal((100, 1)))
    found = fed({"mu": x.repeat(1, 2), "logvar": torch.full((100, 2), math.log(1e-30))})
    expected = 0.5 * math.log(2.0 * float(x.var()) / 1e-30)
    assert gaussian_latents.information_bound(found) == pytest.approx(expected, abs=20.0)


def test_categorical_information_of_a_latent_that_copies_its_input() -> None:
    one_hot = torch.eye(5).repeat(10, 1)[:, None].repeat(1, 2, 1)
    found = CategoricalPosterior()
    found.update(Batch({"latent_logits": 1e4 * one_hot, "prior_logits": torch.zeros(50, 2, 5)}))
    assert gaussian_latents.categorical_information_bound(found) == pytest.approx(2.0 * math.log(5.0), rel=1e-12)
    torch.testing.assert_close(found.kl_sum / 50, torch.full((2,), math.log(5.0), dtype=torch.float64))
