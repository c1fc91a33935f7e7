"""Entropies against scipy, closed forms of decided, undecided and deaf routers, masks and runaway logits."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from collapse_cli.analyzers.routing.router_confidence import router_confidence
from collapse_cli.core.finding import Severity
from tests.view_dumps import findings, measured, results

PAIR = ("token_entropy", "router_marginal_entropy", "router_information")


def of(values: torch.Tensor) -> dict[str, float]:
    return {name: found.value for name, found in measured(router_confidence, {"router_logits": values}).items()}


def decided(places: torch.Tensor, scale: float = 20.0) -> torch.Tensor:
    return scale * torch.eye(4)[places]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (decided(torch.arange(400) % 4, 60.0), (0.0, 1.0, math.log(4))),
        (torch.zeros(400, 4), (1.0, 1.0, 0.0)),
        (decided(torch.ones(400).long(), 60.0), (0.0, 0.0, 0.0)),
    ],
    ids=["good", "indifferent", "deaf"],
)
def test_closed_forms(values: torch.Tensor, expected: tuple[float, ...]) -> None:
    found = of(values)
    assert [found[name] for name in PAIR] == pytest.approx(expected, abs=1e-12)


def test_random_logits_are_what_scipy_makes_of_them() -> None:
    values = 2.0 * torch.randn(300, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    found = measured(router_confidence, {"router_logits": values})
    probabilities = softmax(values.numpy(), axis=1)
    tokens, marginal = entropy(probabilities, axis=1).mean(), entropy(probabilities.mean(0))
    assert found["token_entropy"].value == pytest.approx(tokens / math.log(6), rel=1e-12)
    assert found["router_marginal_entropy"].value == pytest.approx(marginal / math.log(6), rel=1e-12)
    assert found["router_information"].value == pytest.approx(marginal - tokens, rel=1e-10)
    z = logsumexp(values.numpy(), axis=1)
    assert found["router_z_rms"].value == pytest.approx(math.sqrt((z**2).mean()), rel=1e-12)
    assert found["router_z_rms"].null == pytest.approx(math.log(6))
    assert found["router_max_logit"].value == pytest.approx(float(values.abs().max()), rel=1e-12)
    correlations = np.corrcoef(values.numpy().T)[np.triu_indices(6, 1)]
    assert found["expert_logit_similarity"].value == pytest.approx(correlations.max(), abs=1e-10)
    assert found["router_marginal_entropy"].evidence["favourite"] == probabilities.mean(0).argmax()


def test_small_gaussian_logits_have_the_entropy_of_their_null() -> None:
    found = measured(
        router_confidence, {"router_logits": 0.5 * torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))}
    )["token_entropy"]
    assert found.value == pytest.approx(1 - 0.25 / (2 * math.log(64)), abs=2e-3)
    assert found.evidence["gaussian_entropy"] == pytest.approx(found.value, abs=2e-3)


def test_negative_logits_are_large_too_and_a_common_offset_moves_the_scale_only() -> None:
    values = torch.randn(100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved, still = of(values - 1000.0), of(values)
    assert moved["router_max_logit"] == pytest.approx(1000.0 - float(values.min()))
    assert moved["router_z_rms"] == pytest.approx(1000.0, rel=1e-2)
    for name in (*PAIR, "expert_logit_similarity"):
        assert moved[name] == pytest.approx(still[name], abs=1e-9)


def test_masked_experts_are_no_choice() -> None:
    values = torch.zeros(200, 4, dtype=torch.float64)
    values[:, 2:] = -torch.inf
    values[:40, 1:] = -torch.inf
    found = measured(router_confidence, {"router_logits": values})
    assert found["token_entropy"].value == pytest.approx(0.5)
    assert found["token_entropy"].evidence["tokens"] == 160
    assert found["token_entropy"].evidence["masked_logits"] == 320
    assert found["token_entropy"].evidence["tokens_without_choice"] == 40
    assert found["router_max_logit"].value == 0.0


def test_only_a_router_that_hardly_ever_decides_otherwise_is_an_error() -> None:
    generator = torch.Generator().manual_seed(0)
    alike = {"router_logits": decided(torch.ones(400).long())}
    assert findings(router_confidence, alike) == [Severity.ERROR, Severity.WARNING]
    assert findings(router_confidence, {"router_logits": torch.zeros(400, 4)}) == [Severity.WARNING]
    assert findings(router_confidence, {"router_logits": decided(torch.arange(400) % 4)}) == []
    for experts, scale in ((4, 0.02), (64, 0.02), (64, 1.0), (8, 30.0)):
        untrained = scale * torch.randn(10 * experts, experts, generator=generator)
        assert findings(router_confidence, {"router_logits": untrained}) == []
    for every, severity in ((1000, Severity.ERROR), (20, Severity.WARNING)):
        # H(1/20)/log 4 = .143
        nearly = decided((torch.arange(4000) % every == 7).long(), 60.0)
        assert findings(router_confidence, {"router_logits": nearly}) == [severity]


def test_constant_logits_have_no_correlation_and_few_tokens_are_skipped() -> None:
    skips = results(router_confidence, {"router_logits": torch.full((400, 4), 0.1)})
    assert "expert_logit_similarity: no two experts" in str(skips)
    assert "39 tokens < 10 for each of 4" in str(results(router_confidence, {"router_logits": torch.zeros(39, 4)}))
    assert "1 experts < 2" in str(results(router_confidence, {"router_logits": torch.zeros(39, 1)}))
