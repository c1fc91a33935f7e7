"""Usage against numpy and hand-written counts; nulls against simulation; rank against numpy's weighted covariance."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, entropy

from collapse_cli.analyzers.codes.codebook_usage import codebook_usage
from collapse_cli.core.finding import Severity
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.code_usage import perplexity_null, usage_ceiling
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def values(codes: torch.Tensor, size: int) -> dict[str, float]:
    found = measured(codebook_usage, {"codes": codes}, codebook_size=str(size))
    return {name: measurement.value for name, measurement in found.items()}


def test_closed_forms_of_four_codes() -> None:
    even = measured(codebook_usage, {"codes": torch.arange(400) % 4}, codebook_size="4")
    assert even["used_share"].value == 1.0
    assert even["perplexity"].value == pytest.approx(4.0, rel=1e-12)
    assert even["perplexity"].null == pytest.approx(3.985, abs=5e-4)
    assert even["top_code_share"].value == 0.25
    one = values(torch.full((400,), 3), 4)
    assert (one["used_share"], one["perplexity"], one["top_code_share"]) == (0.25, 1.0, 1.0)


@pytest.mark.parametrize("shape", [(3000,), (300, 10), (30, 10, 10)])
def test_tokens_of_every_shape_are_what_numpy_counts(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(2)
    drawn = np.minimum(generator.geometric(0.02, shape) - 1, 299)
    counts = np.bincount(drawn.ravel(), minlength=300)
    found = measured(codebook_usage, {"codes": torch.tensor(drawn, dtype=torch.int32)}, codebook_size="300")
    assert found["used_share"].value == np.unique(drawn).size / 300
    assert found["perplexity"].value == pytest.approx(math.exp(entropy(counts)), rel=1e-12)
    assert found["top_code_share"].value == counts.max() / 3000
    assert found["used_share"].evidence["rare"] == (counts < 3).sum()
    assert found["used_share"].evidence["dead"] == (counts == 0).sum()
    ceiling = 1 - (299 / 300) ** 3000
    assert found["used_of_ceiling"].value == pytest.approx(found["used_share"].value / ceiling, rel=1e-9)
    null = found["perplexity"].null
    assert null is not None
    assert found["perplexity_share"].value == pytest.approx(found["perplexity"].value / null)


def test_nulls_are_what_uniform_tokens_show() -> None:
    assert perplexity_null(10_000, 1024) == pytest.approx(971.98, abs=5e-3)
    assert perplexity_null(10_000, 65_536) == pytest.approx(9025.7, abs=5e-2)
    assert perplexity_null(200, 512) == pytest.approx(155.87, abs=5e-3)
    assert usage_ceiling(10_000, 65_536) == pytest.approx(0.1415, abs=5e-5)
    assert usage_ceiling(1024, 1024) == pytest.approx(1 - (1 - 1 / 1024) ** 1024, rel=1e-12)
    generator = np.random.default_rng(0)
    simulated = np.mean([math.exp(entropy(np.bincount(generator.integers(0, 512, 200)))) for _ in range(200)])
    assert perplexity_null(200, 512) == pytest.approx(simulated, rel=5e-3)


@pytest.mark.parametrize(("tokens", "codes"), [(7, 2), (400, 4), (50, 300), (5000, 16)])
def test_null_is_the_whole_binomial_sum(tokens: int, codes: int) -> None:
    counts = np.arange(1, tokens + 1)
    terms = binom.pmf(counts, tokens, 1 / codes) * counts * np.log(counts)
    assert perplexity_null(tokens, codes) == pytest.approx(math.exp(math.log(tokens) - codes / tokens * terms.sum()))


def test_null_of_very_many_tokens_keeps_its_digits() -> None:
    # the first correction of the entropy is (K − 1)/2N
    assert math.log(1024 / perplexity_null(10**9, 1024)) == pytest.approx(1023 / 2e9, rel=1e-4)
    assert (perplexity_null(0, 8), perplexity_null(9, 1), usage_ceiling(9, 1)) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("codes", "width"), [(60, 5), (6, 40)])
def test_rank_is_that_of_the_weighted_covariance(codes: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(codes, width, generator=generator, dtype=torch.float64) + 3.0
    drawn = torch.randint(0, codes - 2, (500,), generator=generator).clamp(max=codes // 2)
    found = measured(codebook_usage, {"codes": drawn, "codebook": codebook})["used_code_rank"]

    def rank(weights: np.ndarray) -> float:
        covariance = np.cov(codebook.numpy().T, aweights=weights, ddof=0)
        energies = np.linalg.eigvalsh(covariance)
        return math.exp(entropy(energies[energies > 1e-12]))

    assert found.value == pytest.approx(rank(np.bincount(drawn.numpy(), minlength=codes)), rel=1e-9)
    assert found.null == pytest.approx(rank(np.ones(codes)), rel=1e-9)


def test_groups_are_listed_with_the_poorest() -> None:
    groups = torch.tensor([9] * 200 + [4] * 200)
    codes = torch.cat([torch.arange(200) % 8, torch.arange(200) % 2])
    found = measured(codebook_usage, {"codes": codes, "groups": groups}, codebook_size="8")["perplexity"]
    assert found.evidence["least_group"] == 4
    assert found.evidence["group_perplexities"] == pytest.approx([2.0, 8.0])
    assert found.evidence["least_group_tokens"] == 200


def test_fewer_tokens_than_codes_are_counted_and_not_judged() -> None:
    few = {"codes": torch.zeros(511, dtype=torch.int64)}
    assert measured(codebook_usage, few, codebook_size="512").keys() == {"used_share"}
    assert "511 tokens < 512 codes" in str(results(codebook_usage, few, codebook_size="512"))
    assert findings(codebook_usage, few, codebook_size="512") == []


def test_limits_tell_collapsed_from_skewed() -> None:
    generator = np.random.default_rng(0)
    words = torch.tensor(np.minimum(generator.zipf(1.2, 8192) - 1, 4095))
    assert findings(codebook_usage, {"codes": words}, codebook_size="4096") == []
    assert findings(codebook_usage, {"codes": torch.arange(8192) % 170}, codebook_size="4096") == [Severity.ERROR]
    assert findings(codebook_usage, {"codes": torch.arange(8192) % 600}, codebook_size="4096") == [Severity.WARNING]
    nearly = (torch.arange(1000) % 50 == 0).long()
    assert findings(codebook_usage, {"codes": nearly}, codebook_size="2") == [Severity.WARNING]
    one = findings(codebook_usage, {"codes": torch.zeros(99).long()}, codebook_size="8")
    assert sorted(one) == [Severity.ERROR, Severity.WARNING, Severity.WARNING]


@pytest.mark.parametrize(
    ("codes", "metadata", "said"),
    [
        ([0, 8], {"codebook_size": "8"}, "codes should lie from 0 to 7, as codebook_size says, the largest is 8"),
        ([0, -1], {"codebook_size": "8"}, "1 are negative"),
        ([0, 1 << 40], {"codebook_size": "8"}, "or more"),
        ([0, 1], {"codebook_size": "many"}, "codebook_size should be a whole number above 0, it is 'many'"),
        ([0, 1], {"codebook_size": "0"}, "it is '0'"),
        ([0, 1], {"codebook_size": "1" * 5000}, "it is '111"),
    ],
)
def test_what_cannot_be_is_a_failure_of_this_analyzer(codes: list[int], metadata: dict[str, str], said: str) -> None:
    analysis = analyse_dump(memory_dump({"codes": torch.tensor(codes)}, metadata=metadata), [codebook_usage])
    assert len(analysis.failures) == 1
    assert said in analysis.failures[0].message


@pytest.mark.parametrize(
    ("codes", "metadata", "said"),
    [
        (torch.arange(9), {}, "no codebook and no metadata codebook_size"),
        (torch.arange(9), {"codebook_size": "4194305"}, "4,194,305 codes > 4,194,304"),
        (torch.zeros(9).long(), {"codebook_size": "1"}, "9 tokens of 1 codes"),
        (torch.zeros(0).long(), {"codebook_size": "5"}, "0 tokens of 5 codes"),
    ],
)
def test_what_cannot_be_counted_is_a_stated_skip(codes: torch.Tensor, metadata: dict[str, str], said: str) -> None:
    (skipped,) = results(codebook_usage, {"codes": codes}, **metadata)
    assert said in skipped.reason


@pytest.mark.parametrize(
    ("codebook", "said"),
    [
        (torch.ones(4, 3), "the used codes are equal"),
        (torch.full((4, 3), math.nan), "not finite"),
        (torch.full((4, 3), 1e300, dtype=torch.float64), "not finite"),
        (None, "used_code_rank: no codebook"),
    ],
)
def test_a_codebook_without_a_rank_is_skipped(codebook: torch.Tensor | None, said: str) -> None:
    arrays = {"codes": torch.arange(400) % 4} | ({} if codebook is None else {"codebook": codebook})
    assert said in str(results(codebook_usage, arrays, codebook_size="4"))
