"""Codebooks of known shape: Gaussian, projected, doubled, boxed and unused ones."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.codebook.codebook_geometry import codebook_geometry
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values

SITE = "model.layers.0.codebook.0"


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(codes: torch.Tensor, usage: torch.Tensor | None = None, **facts: object):
    members = {Role.CODEBOOK: codes} | ({} if usage is None else {Role.CODEBOOK_USAGE: usage})
    return at(codebook_geometry.run(block(members, facts)))


def test_gaussian_codes():
    codes = gaussian(1024, 64)
    found = measured(codes)
    rank = found["codebook_effective_rank", SITE]
    variances = np.linalg.eigvalsh(np.cov(codes.double().numpy().T))
    shares = variances / variances.sum()
    assert rank.value == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-10)
    assert rank.value == pytest.approx(62.0, abs=0.1)
    assert rank.null == pytest.approx(62.03, abs=5e-3)
    ratio = found["neighbour_ratio", SITE]
    assert (ratio.value, ratio.null) == (pytest.approx(0.760, rel=0.02), pytest.approx(0.760, rel=0.02))
    assert found["norm_cv", SITE].value == pytest.approx(1 / math.sqrt(128), rel=0.1)
    assert found["duplicate_code_share", SITE].value == found["init_box_share", SITE].value == 0.0


def test_a_projection_onto_two_directions_is_seen():
    codes = gaussian(1024, 64) @ gaussian(64, 2, seed=1) @ gaussian(2, 64, seed=2)
    rank = measured(codes, projected=True)["codebook_effective_rank", SITE]
    assert 1.0 < rank.value < 2.0
    assert rank.evidence["projected"] is True
    metric = codebook_geometry.manual.metric("codebook_effective_rank")
    assert metric.warn.is_crossed(rank.value, rank.null)


def test_the_mean_code_does_not_matter():
    codes = gaussian(256, 16).double()
    near, far = (measured(codes + offset)["codebook_effective_rank", SITE].value for offset in (0.0, 1e4))
    assert near == pytest.approx(far, rel=1e-8)


def test_doubled_codes_are_counted():
    codes = gaussian(200, 32)
    codes[150:160] = codes[:10] + 1e-5
    found = measured(codes)["duplicate_code_share", SITE]
    assert found.value == pytest.approx(20 / 200)
    assert found.evidence["first"] == list(range(8))


def test_codes_left_in_the_box_of_the_initialiser():
    codes = gaussian(500, 8)
    codes[:450] = (2 * torch.rand(450, 8, generator=torch.Generator().manual_seed(3)) - 1) / 500
    found = measured(codes)["init_box_share", SITE]
    assert found.value == pytest.approx(0.9)
    assert found.evidence["box_fill"] == pytest.approx(1.0, abs=0.03)


def test_unused_codes():
    usage = torch.ones(100)
    usage[:7] = 1e-4
    usage[7] = 2e-3
    found = measured(gaussian(100, 8), usage)["unused_code_share", SITE]
    assert (found.value, found.evidence["unused"]) == (0.07, 7)


def test_an_untrained_codebook_is_not_judged():
    codes = (2 * torch.rand(100, 8, generator=torch.Generator().manual_seed(3)) - 1) / 100
    results = list(codebook_geometry.run(block({Role.CODEBOOK: codes, Role.CODEBOOK_USAGE: torch.zeros(100)})))
    assert {"init_box_share", "unused_code_share"}.isdisjoint(values(results))
    assert reasons(results) == [
        "init_box_share: all codes lie inside ±1/100: an untrained codebook, or one of small scale",
        "unused_code_share: no code was counted yet",
    ]


def test_unit_codes_have_no_spread_of_norms():
    codes = torch.nn.functional.normalize(gaussian(100, 8), dim=1)
    found = measured(codes, cosine=True)["norm_cv", SITE]
    assert found.value == pytest.approx(0.0, abs=1e-6)
    assert found.null == 0.0


@pytest.mark.parametrize("codes", [torch.full((100, 24), 0.1), torch.zeros(100, 24), torch.full((100, 300), 0.7)])
def test_equal_codes(codes):
    found = measured(codes)
    assert found["codebook_effective_rank", SITE].value == 0.0
    assert found["duplicate_code_share", SITE].value == 1.0
    assert found["neighbour_ratio", SITE].value == 0.0
    assert found["norm_cv", SITE].value == pytest.approx(0.0, abs=1e-12)


def test_fewer_codes_than_dimensions():
    codes = gaussian(64, 512)
    rank = measured(codes)["codebook_effective_rank", SITE]
    centred = codes.double().numpy() - codes.double().numpy().mean(0)
    shares = np.linalg.svd(centred, compute_uv=False)[:-1] ** 2
    shares /= shares.sum()
    assert rank.value == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-8)
    assert rank.value == pytest.approx(rank.null, rel=0.01)


def test_levels_are_separate_sites():
    found = at(codebook_geometry.run(block({Role.CODEBOOK: (gaussian(32, 8), gaussian(64, 8))})))
    sites = {site: value.evidence["level"] for (name, site), value in found.items() if name == "norm_cv"}
    assert sites == {"model.layers.0.codebook.0": 0, "model.layers.0.codebook.1": 1}


def test_what_does_not_apply_is_skipped():
    results = list(codebook_geometry.run(block({Role.CODEBOOK: gaussian(8, 8)})))
    assert (values(results), reasons(results)) == ({}, ["8 codes < 16"])
    assert reasons(codebook_geometry.run(block({Role.CODEBOOK_USAGE: torch.ones(20)}))) == [
        "companion tensor missing: codebook"
    ]
    assert reasons(codebook_geometry.run(block({Role.CODEBOOK: gaussian(20, 8)}, {"skip": "implicit codebook"}))) == [
        "implicit codebook"
    ]
    assert "companion tensor missing: codebook.usage" in reasons(
        codebook_geometry.run(block({Role.CODEBOOK: gaussian(20, 8)}))
    )


def test_every_message_can_be_filled():
    for result in measured(gaussian(20, 8), torch.ones(20)).values():
        metric = codebook_geometry.manual.metric(result.metric)
        if metric.warn:
            assert metric.message.format(
                value=result.value, null=result.null or 0.0, bound=metric.warn.bound, **result.evidence
            )
