"""The sketch against numpy's own quantiles, and the accumulators of entries against sorting and numpy's moments."""

import numpy as np
import pytest
import torch
from scipy import stats

from collapse_cli.kernels.accumulators import Batch, ChannelMoments, Quantiles, TokenSample, TopEntries
from collapse_cli.kernels.quantiles import RELATIVE_ERROR, QuantileSketch
from tests.kernels.merging import assert_is_the_whole


def _tokens(sequences: int = 9, length: int = 6, width: int = 5) -> dict[str, torch.Tensor]:
    """Tokens with padding that is not a number, on both sides, and one token that is not finite."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(sequences, length, width, generator=generator) * 10.0
    mask = torch.ones(sequences, length, dtype=torch.bool)
    mask[2, 4:], mask[5, :3] = False, False
    tokens[~mask] = torch.nan
    tokens[1, 1, 1] = torch.inf
    return {"tokens": tokens, "mask": mask}


def _real(roles: dict[str, torch.Tensor]) -> np.ndarray:
    vectors = roles["tokens"].double().numpy()[roles["mask"].numpy()]
    return vectors[np.isfinite(vectors).all(1)]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5, 1000])
def test_a_quantile_is_numpys_lower_one(share: float, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64) ** 3 * 7.0
    sketch = QuantileSketch()
    sketch.add(values)
    for found, expected in (
        (sketch.quantile(share), np.quantile(values.numpy(), share, method="lower")),
        (sketch.magnitude_quantile(share), np.quantile(values.abs().numpy(), share, method="lower")),
    ):
        assert found == pytest.approx(expected, rel=RELATIVE_ERROR)
    assert sketch.magnitude_quantile(0.5) == pytest.approx(float(values.abs().median()), rel=RELATIVE_ERROR)


def test_the_error_bound_is_reached_and_not_exceeded() -> None:
    # a bucket holds more than two values, so none of them is clamped by the extremes
    values = torch.linspace(1.0, 1.0 + 2.0**-9, 101, dtype=torch.float64)[:-1]
    sketch = QuantileSketch()
    sketch.add(torch.cat((values, torch.tensor([0.5, 2.0], dtype=torch.float64))))
    errors = [abs(sketch.quantile((rank + 1.001) / 101.0) / float(values[rank]) - 1.0) for rank in range(100)]
    assert max(errors) == pytest.approx(RELATIVE_ERROR, rel=1e-9)


def test_zeros_signs_infinities_and_tiny_numbers() -> None:
    sketch = QuantileSketch()
    assert (sketch.quantile(0.5), sketch.magnitude_quantile(0.5), sketch.count) == (0.0, 0.0, 0)
    sketch.add(torch.tensor([-0.0, 0.0, -1e300, 1e300, 5e-324, torch.nan, torch.inf, -torch.inf], dtype=torch.float64))
    assert (sketch.count, sketch.zeros, sketch.non_finite) == (5, 2, 3)
    assert (sketch.minimum, sketch.maximum) == (-1e300, 1e300)
    assert sketch.quantile(0.0) == pytest.approx(-1e300, rel=RELATIVE_ERROR)
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(1e300, rel=RELATIVE_ERROR)
    values, counts = sketch.histogram()
    assert bool((values.diff() > 0.0).all())
    assert int(counts.sum()) == 5


def test_a_constant_is_itself() -> None:
    sketch = QuantileSketch()
    sketch.add(torch.full((3, 4), 0.1, dtype=torch.float16))
    assert sketch.quantile(0.5) == float(torch.tensor(0.1, dtype=torch.float16))


def test_any_split_gives_the_same_buckets() -> None:
    values = torch.randn(4001, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    whole = QuantileSketch()
    whole.add(values)
    for step in (1, 7, 1000):
        merged = QuantileSketch()
        for part in values[: 500 if step == 1 else None].split(step):
            one = QuantileSketch()
            one.add(part)
            merged.merge(one)
        expected = QuantileSketch()
        expected.add(values[: merged.count])
        for found, wanted in zip(merged.histogram(), expected.histogram(), strict=True):
            assert torch.equal(found, wanted)


def _sketch_readings(quantiles: Quantiles) -> dict[str, object]:
    values, counts = quantiles.sketch.histogram()
    return {"values": values, "counts": counts, "count": quantiles.count}


def _vector_readings(accumulator: ChannelMoments | TopEntries | TokenSample) -> dict[str, object]:
    if isinstance(accumulator, ChannelMoments):
        return {
            "mean": accumulator.mean,
            "variance": accumulator.variance,
            "fourth": accumulator.fourth_moment,
            "energy": accumulator.energy,
            "kurtosis": accumulator.excess_kurtosis(),
        }
    if isinstance(accumulator, TopEntries):
        return {"values": accumulator.values, "where": accumulator.coordinates, "count": accumulator.count}
    return {"rows": accumulator.rows, "count": accumulator.count}


@pytest.mark.parametrize("role", ["tokens", "features"])
def test_of_parts_is_of_the_whole(role: str) -> None:
    roles = _tokens()
    if role == "features":
        roles = {"features": torch.nan_to_num(roles["tokens"], posinf=0.0).flatten(1)}
    assert_is_the_whole(lambda: Quantiles(role), roles, read=_sketch_readings, rtol=0.0, atol=0.0)
    assert_is_the_whole(lambda: ChannelMoments(role), roles, read=_vector_readings)
    assert_is_the_whole(lambda: TopEntries(role, kept=20), roles, read=_vector_readings, rtol=0.0, atol=0.0)
    equal = {name: torch.ones_like(tensor) for name, tensor in roles.items()}
    assert_is_the_whole(lambda: TopEntries(role, kept=20), equal, read=_vector_readings, rtol=0.0, atol=0.0)
    if role == "tokens":
        assert_is_the_whole(lambda: TokenSample(tokens=11), roles, read=_vector_readings, rtol=0.0, atol=0.0)


def test_entries_are_those_of_real_finite_tokens() -> None:
    roles = _tokens()
    expected = _real(roles)
    quantiles, moments, top, sample = Quantiles("tokens"), ChannelMoments("tokens"), TopEntries("tokens"), TokenSample()
    for accumulator in (quantiles, moments, top, sample):
        accumulator.update(Batch(roles, start=100))
    assert quantiles.count == expected.size
    np.testing.assert_allclose(sample.rows.double().numpy(), expected)
    np.testing.assert_allclose(moments.mean.numpy(), expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance.numpy(), expected.var(0), rtol=1e-12)
    np.testing.assert_allclose(moments.excess_kurtosis().numpy(), stats.kurtosis(expected, axis=0), rtol=1e-10)
    assert moments.energy == pytest.approx((expected**2).sum(), rel=1e-12)
    order = np.argsort(-np.abs(expected.ravel()), kind="stable")
    np.testing.assert_array_equal(top.values.numpy(), expected.ravel()[order])
    row, position, channel = top.coordinates[0].tolist()
    assert float(roles["tokens"][row - 100, position, channel]) == float(top.values[0])


def test_an_offset_costs_the_fourth_moment_no_digits() -> None:
    values = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moments = ChannelMoments()
    for start in range(0, 3000, 70):
        moments.update(Batch({"features": values[start : start + 70] + 1e4}, start=start))
    np.testing.assert_allclose(moments.excess_kurtosis().numpy(), stats.kurtosis(values.numpy(), axis=0), rtol=1e-8)
    constant = ChannelMoments()
    constant.update(Batch({"features": torch.full((50, 3), 0.1)}))
    assert constant.excess_kurtosis().numel() == 0


def test_moments_of_very_many_rows() -> None:
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    moments = ChannelMoments()
    moments.update(Batch({"features": values}))
    for _ in range(40):
        again = ChannelMoments()
        again.merge(moments)
        moments.merge(again)
    assert moments.count == 50 * 2**40
    np.testing.assert_allclose(moments.excess_kurtosis().numpy(), stats.kurtosis(values.numpy(), axis=0), rtol=1e-9)
