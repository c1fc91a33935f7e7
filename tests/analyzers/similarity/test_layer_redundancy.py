import numpy as np
import pytest

from collapse_cli.analyzers.similarity.layer_redundancy import layer_redundancy
from collapse_cli.analyzers.similarity.representation_similarity import representation_similarity
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.reservoir import UNIFORM_ROWS
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.paired import paired_dump
from tests.views import at, reasons


def analysed(**layers: np.ndarray):  # type: ignore[no-untyped-def]
    arrays = {f"{name.replace('__', '.')}/features": rows for name, rows in layers.items()}
    analysis = analyse_dump(memory_dump(arrays, metadata={}), [layer_redundancy])
    assert not analysis.failures
    return analysis


def test_a_copy_is_redundant_and_independent_layers_are_not() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 500, 20))
    found = at(analysed(layers__0=x, layers__1=x.copy(), layers__2=y).measurements)
    assert found["adjacent_cka", "layers.1"].value == pytest.approx(1)
    assert found["block_influence", "layers.1"].value == pytest.approx(0, abs=1e-12)
    assert found["block_influence", "layers.1"].evidence["previous"] == "layers.0"
    assert found["adjacent_cka", "layers.2"].value == pytest.approx(0, abs=0.02)
    assert found["block_influence", "layers.2"].value == pytest.approx(1, abs=0.03)


def test_only_the_identity_is_judged() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(300, 12)).astype(np.float32)
    limit = next(m for m in layer_redundancy.manual.metrics if m.name == "block_influence").warn
    assert limit is not None
    for after, is_found in (
        (x + 1e-7 * x, True),
        (x + 1e-3 * rng.normal(size=x.shape), False),
        (rng.normal(size=x.shape), False),
    ):
        for offset in (0.0, 100.0):
            found = at(analysed(layers__0=x + offset, layers__1=after + offset).measurements)
            assert limit.is_crossed(found["block_influence", "layers.1"].value, 1.0) is is_found


def test_cka_is_that_of_a_pair_of_dumps_and_the_influence_that_of_the_cosines() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 12)) + 1
    y = x + 0.4 * rng.normal(size=x.shape)
    found = at(analysed(layers__3=x, layers__7=y).measurements)
    pair = paired_dump(memory_dump({"features": x}, metadata={}), memory_dump({"features": y}, metadata={}))
    expected = at(analyse_dump(pair, [representation_similarity]).measurements)["cka", "output"].value
    assert found["adjacent_cka", "layers.7"].value == pytest.approx(expected, rel=1e-9)
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert found["block_influence", "layers.7"].value == pytest.approx(1 - cosines.mean(), rel=1e-9)


def test_large_dumps_are_compared_on_the_rows_that_both_samples_kept() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(UNIFORM_ROWS + 3000, 4)).astype(np.float32)
    y = x.copy()
    y[5, 0] = np.nan  # this row is in one of the samples only
    found = at(analysed(layers__0=x, layers__1=y).measurements)["block_influence", "layers.1"]
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.evidence["exact"] is False
    assert UNIFORM_ROWS - 1 <= found.evidence["sampled"] <= UNIFORM_ROWS


def test_the_ratio_of_the_arms_is_the_median_of_lengths() -> None:
    rng = np.random.default_rng(3)
    main, skip = rng.normal(size=(2, 200, 6))
    main[7] = 0
    analysis = analysed(layers__0=main, layers__1__main=main, layers__1__skip=5 * skip, layers__2=skip)
    found = at(analysis.measurements)
    ratios = np.linalg.norm(5 * skip, axis=1) / np.linalg.norm(np.where(main == 0, np.nan, main), axis=1)
    kept = np.sort(ratios[~np.isnan(ratios)])
    assert found["skip_ratio", "layers.1.main"].value == pytest.approx(kept[(len(kept) - 1) // 2], rel=1e-9)
    # the arms are no layers of their own
    assert found["block_influence", "layers.2"].evidence["previous"] == "layers.0"


def test_what_cannot_be_compared_is_skipped() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 6))
    said = reasons(analysed(layers__0=x, layers__1=x[:, :4], layers__2=x[:90], layers__3=np.ones((90, 6))).skips)
    assert "block_influence: width differs from that of layers.0, or all rows are zero" in said
    assert "rows not paired: 200 of layers.1 against 90" in said
    assert "adjacent_cka: all rows of layers.2 or of this layer are equal" in said
    assert any("adjacent_weight_cosine: a dump holds no weights" in reason for reason in said)
    assert "adjacent_cka, block_influence: 20 common rows < 50" in reasons(
        analysed(layers__0=x[:20], layers__1=x[:20]).skips
    )
    alone = analysed(layers__0=x, layers__0__output=x.copy(), encoder=x)
    assert not alone.measurements
    assert any("fewer than 2 layers" in reason for reason in reasons(alone.skips))
