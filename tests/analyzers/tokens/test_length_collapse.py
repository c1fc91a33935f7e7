"""Length collapse: the pooling null, exact cosines, numpy's components and scikit-learn's neighbours."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from collapse_cli.analyzers.tokens.length_collapse import length_collapse
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.accumulators import LengthBins
from collapse_cli.kernels.length_bins import half_octave
from collapse_cli.sources.dump import memory_dump
from tests.kernels.merging import assert_is_the_whole
from tests.views import reasons


def _measured(roles: dict[str, torch.Tensor], **metadata: str) -> dict[str, Measurement]:
    analysis = analyse_dump(memory_dump(roles, metadata=metadata), [length_collapse])
    assert not analysis.failures
    return {measurement.metric: measurement for measurement in analysis.measurements}


def _skipped(roles: dict[str, torch.Tensor], **metadata: str) -> str:
    return " | ".join(reasons(analyse_dump(memory_dump(roles, metadata=metadata), [length_collapse]).skips))


def _gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _of_cosines(cosines: tuple[float, ...], lengths: tuple[int, ...] = (16, 64, 256)) -> dict[str, torch.Tensor]:
    rows = 100
    basis = torch.linalg.qr(_gaussian(rows + 1, rows + 1)).Q
    blocks = [math.sqrt(c) * basis[:1] + math.sqrt(1 - c) * basis[1:] for c in cosines]
    return {"features": torch.cat(blocks) * 3.0, "lengths": torch.tensor(lengths).repeat_interleave(rows)}


def test_the_pooling_null_is_not_an_excess() -> None:
    found = _measured(_of_cosines((0.2, 0.5, 0.8)), pooling="mean")
    assert found["cosine_gap"].value == pytest.approx(0.6, rel=1e-10)
    assert found["cosine_gap"].null == pytest.approx(0.6, rel=1e-10)
    assert found["longest_excess"].value == pytest.approx(0.0, abs=1e-10)
    assert found["cosine_slope"].value == pytest.approx(0.2164, abs=5e-5)
    assert found["cosine_slope"].null == pytest.approx(0.2164, abs=5e-5)
    curve = found["cosine_gap"].evidence["by_length"]
    assert curve["length"] == pytest.approx([16, 64, 256])
    assert curve["cosine"] == pytest.approx([0.2, 0.5, 0.8])
    assert curve["rows"] == [100] * 3
    assert found["cosine_gap"].evidence["null_from"] == "pooling of independent tokens"


def test_long_inputs_that_crowd_together() -> None:
    found = _measured(_of_cosines((0.2, 0.8, 0.98)), pooling="mean")
    assert found["cosine_gap"].value == pytest.approx(0.78, rel=1e-10)
    assert found["longest_excess"].value == pytest.approx(0.18, rel=1e-9)
    assert found["cosine_slope"].value == pytest.approx(0.2813, abs=5e-5)


def test_distances_from_the_centroid() -> None:
    cosines = np.array([0.2, 0.8, 0.98])
    roles = _of_cosines(tuple(cosines))
    found = _measured(roles)["centroid_distance_slope"]
    unit = roles["features"].numpy() / np.linalg.norm(roles["features"].numpy(), axis=1, keepdims=True)
    squares = ((unit - unit.mean(0)) ** 2).sum(1)
    assert found.value == pytest.approx(np.polyfit(np.log(roles["lengths"].numpy()), squares, 1)[0], rel=1e-9)
    # ‖E z‖² and the bins' nearness to it, with c(n) of ρ = 64 for the null: 1 − 2√c·γ + γ²
    null = 1 / (1 + 64 / np.array([16.0, 64.0, 256.0]))
    gamma = np.sqrt(null).mean()
    expected = np.polyfit(np.log([16, 64, 256]), 1 - 2 * np.sqrt(null) * gamma + gamma**2, 1)[0]
    assert found.null == pytest.approx(expected, rel=1e-9)


def test_means_of_independent_tokens_follow_the_closed_form() -> None:
    width, rho, rows = 512, 100.0, 150
    lengths = (8, 32, 128, 512)
    mean = torch.zeros(width, dtype=torch.float64)
    mean[3] = 1.0
    noise = math.sqrt(rho / width)
    blocks = [mean + noise / math.sqrt(n) * _gaussian(rows, width, seed=n) for n in lengths]
    found = _measured(
        {"features": torch.cat(blocks), "lengths": torch.tensor(lengths).repeat_interleave(rows)}, pooling="mean"
    )
    curve = found["cosine_gap"].evidence["by_length"]
    for value, expected, block in zip(curve["cosine"], (0.0741, 0.2424, 0.5614, 0.8366), blocks, strict=True):
        # a row's mean cosine with the others is 2 of its terms, as of a U-statistic
        unit = torch.nn.functional.normalize(block, dim=1)
        spread = float((unit @ unit.mean(0)).std()) * 2.0 / math.sqrt(rows)
        assert value == pytest.approx(expected, abs=4 * spread)
    # ρ is estimated from the shortest bin alone
    assert found["longest_excess"].value == pytest.approx(0.0, abs=0.08)


def _documents(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Independent tokens about a mean, ρ = 20, pooled over 8, 16, 32 and 64 of them; nan in the padding."""
    width, per_bin = 48, 60
    lengths = torch.tensor([8, 16, 32, 64]).repeat(per_bin)
    mask = torch.arange(64)[None, :] < lengths[:, None]
    tokens = _gaussian(lengths.numel(), 64, width) * math.sqrt(20.0 / width)
    tokens[:, :, 5] += 1.0
    features = (tokens * mask[:, :, None]).sum(1) / lengths[:, None]
    tokens[~mask] = torch.nan
    return {"tokens": tokens.to(dtype), "mask": mask, "features": features, "lengths": lengths}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_dealt_tokens_give_the_closed_form(dtype: torch.dtype) -> None:
    found = _measured(_documents(dtype), pooling="mean")["cosine_gap"]
    assert found.evidence["null_from"] == "16 deals of the tokens"
    expected = [1 / (1 + 20 / n) for n in (8, 16, 32, 64)]
    # 16 deals of 32 documents
    assert found.evidence["by_length"]["null"] == pytest.approx(expected, abs=0.03)
    low, high = found.evidence["null_interval"]
    assert low < expected[-1] - expected[0] < high
    assert high - low < 0.25


def test_dealing_sees_tokens_of_one_text_that_belong_together() -> None:
    roles = _documents()
    together = _gaussian(240, 1, 48, seed=5) * 0.5
    roles["tokens"] = roles["tokens"] + together.float()
    roles["features"] = roles["features"] + together[:, 0]
    found = _measured(roles, pooling="mean")
    closed = _measured({role: roles[role] for role in ("features", "lengths")}, pooling="mean")
    # what all tokens of a text share does not average out: below both nulls
    assert found["longest_excess"].value < -0.1
    assert closed["longest_excess"].value < -0.1
    assert _measured(roles, pooling="mean")["longest_excess"].value == found["longest_excess"].value


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_without_averaging_length_should_not_matter(pooling: str) -> None:
    found = _measured(_documents(), pooling=pooling)
    assert (found["cosine_gap"].null, found["cosine_slope"].null) == (0.0, pytest.approx(0.0, abs=1e-15))
    assert found["longest_excess"].value == found["cosine_gap"].value


def test_a_negative_first_cosine_leaves_no_null() -> None:
    lengths = torch.tensor([16, 64, 256]).repeat_interleave(100)
    features = torch.cat(
        (torch.eye(4).repeat(25, 1) * torch.tensor([1.0, -1.0]).repeat(50)[:, None], *([torch.ones(100, 4)] * 2))
    )
    features[:100] = torch.cat((torch.eye(2).repeat(25, 2), -torch.eye(2).repeat(25, 2)))
    roles = {"features": features, "lengths": lengths}
    found = _measured(roles)
    assert found["cosine_gap"].null is None
    assert found["cosine_gap"].evidence["null_from"].startswith("none")
    assert "longest_excess: the shortest bin has a mean cosine of zero or less" in _skipped(roles)


def test_the_first_component_and_the_length() -> None:
    roles = _documents()
    length = roles["lengths"].double().log()
    features = roles["features"].clone()
    features[:, 0] += 0.8 * length
    found = _measured({"features": features, "lengths": roles["lengths"]})["length_axis"]
    centred = (features - features.mean(0)).numpy()
    scores = centred @ np.linalg.svd(centred)[2][0]
    assert found.value == pytest.approx(abs(np.corrcoef(scores, length.numpy())[0, 1]), rel=1e-9)
    assert found.value > 0.5
    assert found.null == pytest.approx(math.sqrt(2 / (math.pi * 240)), rel=1e-12)
    wide = torch.cat((features, torch.zeros(240, 1100)), 1)
    assert _measured({"features": wide, "lengths": roles["lengths"]})["length_axis"].value == pytest.approx(
        found.value, rel=1e-6
    )


def test_recall_is_that_of_scikit_learn() -> None:
    roles = _documents()
    labels = torch.randint(0, 6, (240,), generator=torch.Generator().manual_seed(1))
    features = roles["features"] + 0.6 * torch.eye(48, dtype=torch.float64)[labels] * (roles["lengths"] < 20)[:, None]
    found = _measured({"features": features, "lengths": roles["lengths"], "labels": labels})["recall_gap"]
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    nearest = NearestNeighbors(n_neighbors=2).fit(unit).kneighbors(unit)[1][:, 1]
    hits = labels.numpy()[nearest] == labels.numpy()
    lengths = roles["lengths"].numpy()
    assert found.value == pytest.approx(hits[lengths == 8].mean() - hits[lengths == 64].mean(), rel=1e-12)
    assert abs(found.value) > 0.1
    assert found.evidence["queries"] == 60
    few = torch.where(roles["lengths"] == 8, -1, labels)
    assert "recall_gap: fewer than 50 labelled rows" in _skipped(
        {"features": features, "lengths": roles["lengths"], "labels": few}
    )


def test_half_octaves() -> None:
    lengths = torch.arange(1, 5000)
    expected = [(n * n).bit_length() - 1 for n in lengths.tolist()]
    assert half_octave(lengths).tolist() == expected


def test_thin_bins_are_joined() -> None:
    lengths = torch.tensor([2] * 10 + [8] * 45 + [16] * 60 + [64] * 80 + [256] * 20)
    found = _measured({"features": _gaussian(215, 8) + 1.0, "lengths": lengths})
    assert found["cosine_gap"].evidence["by_length"]["rows"] == [55, 60, 100]
    curve = found["cosine_gap"].evidence["by_length"]
    slope = np.polyfit(np.log(curve["length"]), curve["cosine"], 1, w=np.sqrt(curve["rows"]))[0]
    assert found["cosine_slope"].value == pytest.approx(slope, rel=1e-9)
    short = math.exp((10 * math.log(2) + 45 * math.log(8)) / 55)
    assert found["cosine_gap"].evidence["by_length"]["length"][0] == pytest.approx(short)


def test_of_parts_is_of_the_whole() -> None:
    features = _gaussian(80, 5) + 1e4
    features[3], features[4] = 0.0, torch.nan
    lengths = torch.randint(0, 300, (80,), generator=torch.Generator().manual_seed(0))
    assert_is_the_whole(LengthBins, {"features": features, "lengths": lengths})
    bins = LengthBins()
    assert bins.merged(50) == []


def test_what_is_missing_is_said() -> None:
    features = _gaussian(210, 6)
    assert "210 rows" not in _skipped({"features": features, "lengths": torch.full((210,), 16)})
    assert "lengths too alike: 1 half-octaves" in _skipped({"features": features, "lengths": torch.full((210,), 16)})
    assert "199 rows with a length < 200" in _skipped({"features": features[:199], "lengths": torch.arange(1, 200)})
    constant = {"features": torch.ones(210, 6), "lengths": torch.arange(210).remainder(3) * 100 + 5}
    assert "length_axis: the features do not vary" in _skipped(constant)
    assert "recall_gap: no labels" in _skipped(constant)
    found = _measured(constant)
    assert (found["cosine_gap"].value, found["longest_excess"].value) == (pytest.approx(0), pytest.approx(0))
    zero = {"features": torch.zeros(210, 6), "lengths": constant["lengths"]}
    assert "lengths too alike: 0 half-octaves" in _skipped(zero)


def test_message_is_whole() -> None:
    found = _measured(_of_cosines((0.02, 0.5, 0.99)))["longest_excess"]
    metric = length_collapse.manual.metric("longest_excess")
    text = metric.message.format(value=found.value, null=found.null, bound=0.5, **found.evidence)
    assert "The longest inputs (256 tokens) crowd together: mean cosine 0.99, 0.74 beyond the 0.246" in text
