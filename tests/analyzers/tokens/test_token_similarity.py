"""Token similarity: closed forms, the transform and the area numpy and scikit-learn, padding, degenerate tokens."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from collapse_cli.analyzers.tokens.token_similarity import token_similarity
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.accumulators import TokenMoments
from collapse_cli.kernels.token_pairs import TokenPairs
from collapse_cli.sources.dump import memory_dump
from tests.kernels.merging import assert_is_the_whole
from tests.views import reasons, values


def _measured(roles: dict[str, torch.Tensor], **metadata: str) -> dict[str, Measurement]:
    analysis = analyse_dump(memory_dump(roles, metadata=metadata), [token_similarity])
    assert not analysis.failures
    return {measurement.metric: measurement for measurement in analysis.measurements}


def _skipped(roles: dict[str, torch.Tensor], **metadata: str) -> str:
    return " | ".join(reasons(analyse_dump(memory_dump(roles, metadata=metadata), [token_similarity]).skips))


def _gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_orthogonal_tokens_and_equal_tokens() -> None:
    found = _measured({"tokens": torch.eye(8).repeat(16, 1, 1)})
    assert found["mean_cosine"].value == pytest.approx(0.0, abs=1e-12)
    assert found["residual"].value == pytest.approx(0.9354143466934853, rel=1e-12)
    assert found["hc_dc_ratio"].value == pytest.approx(2.6457513110645907, rel=1e-12)
    # the first token of one sequence is the first of another: of 64 pairs 8 are equal
    assert found["mean_cosine"].null == pytest.approx(1 / 8, rel=1e-12)
    assert found["cosine_excess"].value == pytest.approx(-1 / 7, rel=1e-12)
    copies = _gaussian(16, 1, 24).expand(-1, 9, -1)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        found = _measured({"tokens": copies.to(dtype).contiguous()})
        assert found["mean_cosine"].value == pytest.approx(1.0, abs=1e-12)
        assert found["cosine_excess"].value == pytest.approx(1.0, abs=1e-12)
        assert (found["residual"].value, found["hc_dc_ratio"].value) == (0.0, 0.0)


def test_a_common_offset_raises_the_cosine_and_not_the_excess() -> None:
    sequences, length, width, offset = 200, 32, 64, 10.0
    white = _gaussian(sequences, length, width)
    found = _measured({"tokens": white})
    assert found["mean_cosine"].value == pytest.approx(0.0, abs=4 / math.sqrt(sequences * length**2 * width / 2))
    assert found["residual"].null == pytest.approx(math.sqrt(31 / 32), rel=1e-12)
    assert found["residual"].value == pytest.approx(math.sqrt(31 / 32), abs=1e-3)
    assert found["hc_dc_ratio"].null == pytest.approx(math.sqrt(31), rel=1e-12)
    shifted = _measured({"tokens": white + offset})
    rho = 1.0 / offset**2
    assert shifted["mean_cosine"].value == pytest.approx(1 / (1 + rho), abs=4e-4)  # .9901
    assert shifted["residual"].value == pytest.approx(math.sqrt(31 / 32 / 101), abs=3e-4)
    ratio = math.sqrt((length - 1) * rho / (length + rho))
    assert shifted["hc_dc_ratio"].value == pytest.approx(ratio, rel=4e-3)  # of the mean of a root: 1/(4T) lower
    assert shifted["cosine_excess"].value == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("offset", "composite", "residual"), [(0.0, 0.986, 0.9864), (10.0, 0.107, 0.0999)])
def test_the_composite_norm_of_the_papers_notebook(offset: float, composite: float, residual: float) -> None:
    one = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).double() + offset
    found = _measured({"tokens": one.repeat(16, 1, 1)})["residual"]
    assert found.value == pytest.approx(residual, abs=5e-5)
    assert found.evidence["composite_norm"] == pytest.approx(composite, abs=5e-4)
    rest = (one - one.mean(0)).numpy()
    norms = [np.sqrt(np.linalg.norm(x, 1) * np.linalg.norm(x, np.inf)) for x in (rest, one.numpy())]
    assert found.evidence["composite_norm"] == pytest.approx(norms[0] / norms[1], abs=1e-6)


def test_rank_one_is_not_collapse() -> None:
    factors = _gaussian(64, 32, 1)
    found = _measured({"tokens": factors * _gaussian(64, 1, 64, seed=1)})
    assert found["residual"].value > 0.9
    assert found["residual"].evidence["composite_norm"] == pytest.approx(1.0, abs=0.03)


def test_by_definition_with_padding_on_both_sides_and_a_class_token() -> None:
    tokens = _gaussian(20, 15, 6) + 0.5
    mask = torch.ones(20, 15, dtype=torch.bool)
    for row in range(20):
        mask[row, : row % 3] = False
        mask[row, 15 - row % 4 :] = False
    mask[7, 8:] = False  # 8 - 1 - 1 tokens left: too short
    tokens[~mask] = torch.nan
    tokens[4, 5, 2] = torch.inf
    tokens[5, 6] = 0.0
    tokens[6] = torch.where(mask[6][:, None], 0.0, tokens[6])
    found = _measured({"tokens": tokens, "mask": mask}, cls="true")
    kept = [tokens[n][mask[n]][1:].numpy() for n in range(20) if n not in (4, 6, 7)]
    evidence = found["residual"].evidence
    assert evidence["sequences"] == 17
    assert (evidence["short_sequences"], evidence["non_finite_sequences"], evidence["zero_sequences"]) == (1, 1, 1)
    assert (evidence["zero_tokens"], evidence["leading_dropped"]) == (1, 1)
    cosines, residuals, ratios, units = [], [], [], []
    for rows in kept:
        centred = rows - rows.mean(0)
        residuals.append(np.linalg.norm(centred) / np.linalg.norm(rows))
        ratios.append(np.linalg.norm(centred) / np.linalg.norm(np.tile(rows.mean(0), (len(rows), 1))))
        directed = rows[np.abs(rows).sum(1) > 0]
        unit = directed / np.linalg.norm(directed, axis=1, keepdims=True)
        units.append(unit)
        cosines.append(np.mean([a @ b for a, b in itertools.combinations(unit, 2)]))
    between = [a @ b for left, right in itertools.combinations(units, 2) for a in left for b in right]
    assert found["mean_cosine"].value == pytest.approx(np.mean(cosines), rel=1e-10)
    assert found["mean_cosine"].null == pytest.approx(np.mean(between), rel=1e-10)
    excess = (np.mean(cosines) - np.mean(between)) / (1 - np.mean(between))
    assert found["cosine_excess"].value == pytest.approx(excess, rel=1e-9)
    assert found["residual"].value == pytest.approx(np.mean(residuals), rel=1e-12)
    assert found["hc_dc_ratio"].value == pytest.approx(np.mean(ratios), rel=1e-12)
    assert found["mean_cosine"].evidence["standard_error"] == pytest.approx(
        np.std(cosines, ddof=1) / math.sqrt(17), rel=1e-9
    )


@pytest.mark.parametrize("grid", [(14, 14), (5, 5), (4, 6)])
def test_high_frequency_is_that_of_the_two_dimensional_transform(grid: tuple[int, int]) -> None:
    height, width = grid
    tokens = _gaussian(16, 1 + height * width, 3)
    tokens[:, 1:] += torch.linspace(0, 2, height * width, dtype=torch.float64)[None, :, None]
    found = _measured({"tokens": tokens}, grid=f"{height}x{width}", cls="1")
    maps = tokens[:, 1:].reshape(16, height, width, 3).numpy()
    logs = np.log(np.abs(np.fft.fft2(maps, axes=(1, 2))) + 1e-6)
    expected = (logs[:, math.ceil(height / 2) - 1, math.ceil(width / 2) - 1] - logs[:, 0, 0]).mean()
    assert found["high_frequency"].value == pytest.approx(expected, abs=1e-5)


def test_high_frequency_of_white_tokens() -> None:
    found = _measured({"tokens": _gaussian(64, 196, 48)}, grid="14x14")["high_frequency"]
    assert found.null == pytest.approx(0.34657, abs=1e-5)
    # sd of the difference of two log amplitudes: √(π²/24 + π²/8) = 1.28
    assert found.value == pytest.approx(0.3466, abs=4 * 1.28 / math.sqrt(64 * 48))


def test_object_area_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(-1, 3, (20, 9), generator=generator)
    tokens = _gaussian(20, 9, 5) + 0.8 * _gaussian(20, 3, 5, seed=4).gather(
        1, labels.clamp_min(0)[:, :, None].expand(-1, -1, 5)
    )
    mask = torch.ones(20, 9, dtype=torch.bool)
    mask[3, 8] = False
    found = _measured({"tokens": tokens, "token_labels": labels, "mask": mask})["object_auc"]
    same, cosines = [], []
    for row in range(20):
        chosen = [t for t in range(9) if mask[row, t] and labels[row, t] >= 0]
        for a, b in itertools.combinations(chosen, 2):
            left, right = tokens[row, a].numpy(), tokens[row, b].numpy()
            same.append(int(labels[row, a]) == int(labels[row, b]))
            cosines.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
    assert found.value == pytest.approx(roc_auc_score(same, cosines), rel=1e-12)
    assert found.value > 0.6
    assert found.evidence["same_pairs"] == 2 * sum(same)  # both orders


def test_equal_cosines_count_half() -> None:
    labels = torch.randint(0, 2, (16, 9), generator=torch.Generator().manual_seed(3))
    kinds = torch.randint(0, 3, (16, 9), generator=torch.Generator().manual_seed(4))
    found = _measured({"tokens": torch.eye(3)[kinds], "token_labels": labels})["object_auc"]
    pairs = [(row, a, b) for row in range(16) for a, b in itertools.combinations(range(9), 2)]
    same = [bool(labels[row, a] == labels[row, b]) for row, a, b in pairs]
    cosines = [float(kinds[row, a] == kinds[row, b]) for row, a, b in pairs]
    assert found.value == pytest.approx(roc_auc_score(same, cosines), rel=1e-12)


def test_the_pairs_that_stay_do_not_depend_on_the_split() -> None:
    units = torch.nn.functional.normalize(_gaussian(500, 30, 2), dim=2)
    labels = torch.arange(30).remainder(3).repeat(500, 1)
    valid, index = torch.ones(500, 30, dtype=torch.bool), torch.arange(500)
    whole, parts = TokenPairs(), TokenPairs()
    whole.offer(units, labels, valid, index=index)
    for rows in (slice(400, 500), slice(0, 400)):
        parts.offer(units[rows], labels[rows], valid[rows], index=index[rows])
    assert sum(whole.counts()) == 200_000
    assert (parts.counts(), parts.auc()) == (whole.counts(), whole.auc())


def test_object_area_of_drawn_pairs() -> None:
    labels = torch.arange(40).remainder(2).repeat(400, 1)
    tokens = _gaussian(400, 40, 8)
    chance = _measured({"tokens": tokens, "token_labels": labels})["object_auc"]
    assert chance.evidence["same_pairs"] + chance.evidence["different_pairs"] == 200_000
    # 20·19·2 of 40·39 pairs share their label
    assert chance.evidence["same_pairs"] / 200_000 == pytest.approx(19 / 39, abs=4 * 0.5 / math.sqrt(200_000))
    # pairs of one sequence share tokens, so a little wider than independent pairs
    assert chance.value == pytest.approx(0.5, abs=0.01)
    apart = tokens + 5.0 * torch.nn.functional.one_hot(labels, 8)
    assert _measured({"tokens": apart, "token_labels": labels})["object_auc"].value > 0.95


def test_of_parts_is_of_the_whole() -> None:
    tokens = _gaussian(30, 9, 4) + 1e4
    tokens[3, 8], tokens[5, 1] = torch.nan, 0.0
    mask = torch.ones(30, 9, dtype=torch.bool)
    mask[3, 8], mask[4, :3] = False, False
    labels = torch.randint(0, 3, (30, 9), generator=torch.Generator().manual_seed(0))

    def read(moments: TokenMoments) -> dict[str, object]:
        return {
            "means": moments.means,
            "errors": moments.standard_errors,
            "counts": moments.counts,
            "between": moments.between_cosine,
            "area": moments.pairs.auc(),
            "sequences": moments.sequences,
            "short": moments.short,
            "zero_tokens": moments.zero_tokens,
        }

    def readings(moments: TokenMoments) -> dict[str, object]:
        return {name: value for name, value in read(moments).items() if value is not None}

    roles = {"tokens": tokens, "mask": mask, "token_labels": labels}
    assert_is_the_whole(lambda: TokenMoments(grid=(3, 3)), roles, read=readings, rtol=1e-9, atol=1e-9)


def test_what_is_missing_is_said() -> None:
    tokens = _gaussian(16, 9, 4)
    assert "high_frequency: metadata grid does not say rows x columns" in _skipped({"tokens": tokens})
    assert "object_auc: no token_labels" in _skipped({"tokens": tokens})
    assert "0 sequences have the 16 tokens of the grid" in _skipped({"tokens": tokens}, grid="4x4")
    assert "15 sequences of 8 tokens or more < 16" in _skipped({"tokens": tokens[:15]})
    assert "0 sequences of 8 tokens or more < 16 (16 too short)" in _skipped({"tokens": tokens[:, :7]})
    assert "no pairs" in _skipped({"tokens": tokens, "token_labels": torch.zeros(16, 9, dtype=torch.int64)})
    assert "(16 all zero)" in _skipped({"tokens": torch.zeros(16, 9, 4)})
    one = _measured({"tokens": torch.ones(16, 9, 4)})
    assert (one["mean_cosine"].value, one["residual"].value) == (pytest.approx(1.0), 0.0)
    assert "cosine_excess: tokens of different sequences are the same too" in _skipped({"tokens": torch.ones(16, 9, 4)})
    alternating = torch.tensor([1.0, -1.0]).repeat(5)[None, :, None] * _gaussian(16, 1, 4)
    assert "hc_dc_ratio: the tokens of every sequence have mean zero" in _skipped({"tokens": alternating})
    assert values(_measured({"tokens": alternating}).values())["residual"] == pytest.approx(1.0)


def test_messages_are_whole() -> None:
    copies = _measured({"tokens": _gaussian(16, 1, 24).expand(-1, 9, -1).contiguous()})
    for metric in token_similarity.manual.metrics:
        if metric.message:
            found = copies[metric.name]
            text = metric.message.format(value=found.value, null=found.null, bound=0.0, **found.evidence)
            assert "copies" in text or "same vector" in text
