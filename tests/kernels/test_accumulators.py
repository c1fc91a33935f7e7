"""All accumulators: split anywhere, merge, and it is the whole; and each against numpy float64 in two passes."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapse_cli.kernels import batches as batching
from collapse_cli.kernels import reservoir
from collapse_cli.kernels.accumulators import (
    Accumulator,
    Batch,
    ClassMoments,
    CrossMoments,
    Extremes,
    Folds,
    Moments,
    Sample,
    row_hash,
)
from collapse_cli.kernels.distinct_rows import DistinctRows, content_hash

WIDTH, OTHER = 5, 5
KINDS: dict[str, Callable[[], Accumulator]] = {
    "moments": Moments,
    "class_moments": ClassMoments,
    "cross_moments": lambda: CrossMoments("features", "other"),
    "extremes": Extremes,
    "sample": lambda: Sample(seed=3, rows=16),
    "folds": lambda: Folds(ClassMoments, seed=1),
    "folds_by": lambda: Folds(Moments, seed=1, by="groups"),
}


def drawn(rows: int, *, seed: int, offset: float = 0.0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=g, dtype=torch.float64) * torch.logspace(0, -1, WIDTH, dtype=torch.float64)
    y = 0.5 * x + torch.randn(rows, OTHER, generator=g, dtype=torch.float64) - 2.0 * offset
    x = x + offset
    labels = torch.randint(0, 4, (rows,), generator=g) * 7 - 1
    if rows > 6:
        x[1], x[2], x[3] = 0.0, x[0], torch.nan
        y[4, 0] = torch.inf
        labels[6] = -100
    groups = torch.randint(0, 3, (rows,), generator=g)
    return {"features": x.to(dtype), "other": y.to(dtype), "labels": labels, "groups": groups}


def batches(roles: dict[str, Tensor], cuts: list[int]) -> list[Batch]:
    count = roles["features"].shape[0]
    edges = [0, *sorted(min(c, count) for c in cuts), count]
    return [Batch({r: t[a:b] for r, t in roles.items()}, start=a) for a, b in itertools.pairwise(edges)]


def fed(kind: str, parts: list[Batch]) -> Any:
    accumulator: Any = KINDS[kind]()
    for part in parts:
        accumulator.update(part)
    return accumulator


def readings(accumulator: Any) -> dict[str, Any]:
    """Everything that can be read; sums about a shift depend on the shift and are read through what does not."""
    if isinstance(accumulator, Folds):
        halves = {"first": accumulator.first, "second": accumulator.second}
        return {f"{h}.{k}": v for h, half in halves.items() for k, v in readings(half).items()}
    if isinstance(accumulator, Sample):
        roles = {} if accumulator.count == 0 else {r: accumulator.rows(r) for r in ("features", "labels", "groups")}
        return {"indices": accumulator.indices, "uniform": accumulator.is_uniform, "count": accumulator.count, **roles}
    about_shift = {"shift", "sum", "scatter", "weighted_sum", "fourth", "sums", "squares", "cross", "left_sum"}
    about_shift |= {"right_sum", "left_weighted", "right_weighted", "left_squares", "right_squares", "product"}
    names = [n for n in dir(accumulator) if not n.startswith("_") and n not in about_shift]
    found = {n: getattr(accumulator, n) for n in names}
    result = {n: v for n, v in found.items() if isinstance(v, (int, float, Tensor))}
    if isinstance(accumulator, Extremes):
        result["distinct"] = accumulator.distinct.number
    if isinstance(accumulator, (Moments, CrossMoments)) and accumulator.count:
        about = copy.deepcopy(accumulator)
        zero = type(about)(*([about.role] if isinstance(about, Moments) else [about.left_role, about.right_role]))
        anchor = torch.full((WIDTH,), 0.25, dtype=torch.float64)
        zero._begin(*([anchor] * (1 if isinstance(about, Moments) else 2)))
        zero.count, about.count, held = 1, about.count, about.count
        zero.merge(about)  # everything about one fixed shift
        for name in sorted(about_shift & set(dir(zero)) - {"shift"}):
            result["about." + name] = getattr(zero, name)
        assert held == about.count
    return result


def assert_same(left: Any, right: Any, *, scale: float = 1.0) -> None:
    mine, theirs = readings(left), readings(right)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            assert value.shape == theirs[name].shape, name
            size = float(value.abs().max()) if value.numel() else 0.0
            assert torch.allclose(value, theirs[name], rtol=0.0, atol=1e-12 * max(size, scale)), name
        elif isinstance(value, Tensor):
            assert torch.equal(value, theirs[name]), name
        else:
            assert value == pytest.approx(theirs[name], rel=1e-12, abs=1e-12 * scale), name


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    at=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 5),
)
def test_split_anywhere_merge_and_it_is_the_whole(
    kind: str, rows: int, cuts: list[int], at: int, order: Any, seed: int
) -> None:
    roles = drawn(rows, seed=seed)
    whole = fed(kind, [Batch(roles)])
    parts = batches(roles, cuts)
    order.shuffle(parts)
    left, right = fed(kind, parts[:at]), fed(kind, parts[at:])
    left.merge(right)
    assert_same(left, whole, scale=float(rows + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_one_is_neutral_on_both_sides(kind: str) -> None:
    roles = drawn(50, seed=1)
    whole = fed(kind, [Batch(roles)])
    empty = fed(kind, [])
    right = copy.deepcopy(whole)
    right.merge(empty)
    assert_same(right, whole)
    empty.merge(whole)
    assert_same(empty, whole)
    empty.merge(fed(kind, []))
    empty.update(Batch({r: t[:0] for r, t in roles.items()}, start=50))
    assert_same(empty, whole)
    readings(fed(kind, []))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_what_was_merged_stay_as_they_are(kind: str) -> None:
    roles = drawn(50, seed=2)
    kept = {r: t.clone() for r, t in roles.items()}
    first, second = fed(kind, batches(roles, [20])[:1]), fed(kind, batches(roles, [20])[1:])
    before = readings(copy.deepcopy(second))
    fresh = fed(kind, [])
    fresh.merge(second)
    fresh.merge(first)
    after = readings(second)
    for name, value in before.items():
        assert torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
    for role, tensor in kept.items():
        assert torch.equal(tensor.nan_to_num(9.5), roles[role].nan_to_num(9.5))


@pytest.mark.parametrize("rows", [4, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_a_batch_may_be_used_again(kind: str, rows: int) -> None:
    roles = drawn(rows, seed=2)
    whole = fed(kind, [Batch({r: t.clone() for r, t in roles.items()})])
    reused = fed(kind, [Batch(roles)])
    for tensor in roles.values():
        tensor.fill_(3)
    assert_same(reused, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_moments_at_an_offset_are_those_of_two_passes(dtype: torch.dtype, offset: float) -> None:
    roles = drawn(400, seed=4, offset=offset, dtype=dtype)
    parts = batches(roles, [1, 30, 30, 333])
    both, cross = fed("moments", parts), fed("cross_moments", parts)
    finite = (torch.isfinite(roles["features"]).all(1) & torch.isfinite(roles["other"]).all(1)).numpy()
    x, y = (roles[r].double().numpy()[finite] for r in ("features", "other"))
    # a zero row at an offset of 1e4 is part of the data: the two-pass result has the same digits
    u, v = x - x.mean(0), y - y.mean(0)
    assert both.count == cross.count == len(x) == 398
    assert np.allclose(both.mean.numpy(), x.mean(0), rtol=1e-13, atol=1e-13)
    assert np.abs(both.centred_scatter.numpy() - u.T @ u).max() <= 1e-12 * np.abs(u.T @ u).max()
    assert np.abs(cross.centred_cross.numpy() - u.T @ v).max() <= 1e-12 * max(np.abs(u.T @ v).max(), 1.0)
    assert np.allclose(both.uncentred_gram.numpy(), x.T @ x, rtol=1e-12)
    norms = np.linalg.norm(x, axis=1)
    z = x[norms > 0] / norms[norms > 0, None]
    assert both.unit_count == len(z) < both.count
    assert np.allclose(both.unit_sum.numpy(), z.sum(0), rtol=1e-12, atol=1e-11)
    assert np.allclose(both.unit_gram.numpy(), z.T @ z, rtol=1e-12, atol=1e-11)
    assert both.norm_sum == pytest.approx(norms.sum(), rel=1e-12)
    assert both.squared_norm_sum == pytest.approx((norms**2).sum(), rel=1e-12)
    assert cross.squared_distance_sum == pytest.approx(((x - y) ** 2).sum(), rel=1e-12)
    zy = y / np.linalg.norm(y, axis=1)[:, None]
    zx = x / np.where(norms > 0, norms, 1)[:, None]
    assert cross.cosine_sum == pytest.approx((zx * zy).sum(), rel=1e-12)
    assert cross.squared_cosine_sum == pytest.approx(((zx * zy).sum(1) ** 2).sum(), rel=1e-12)
    assert cross.cosine_count == len(z)
    assert np.allclose(cross.unit_cross.numpy(), zx.T @ zy, atol=1e-11)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_sums_about_the_shift_are_what_they_say(offset: float) -> None:
    roles = {r: t[7:] for r, t in drawn(300, seed=9, offset=offset).items()}
    parts = batches(roles, [40, 100])
    one, cross = fed("moments", parts), fed("cross_moments", parts)
    u = roles["features"].numpy() - one.shift.numpy()
    v = roles["other"].numpy() - roles["other"][:40].mean(0).numpy()
    a, b = (u**2).sum(1), (v**2).sum(1)
    assert np.allclose(one.weighted_sum.numpy(), a @ u, rtol=1e-9, atol=1e-8)
    assert one.fourth == pytest.approx(a @ a, rel=1e-10)
    assert np.allclose(cross.left_weighted.numpy(), b @ u, rtol=1e-9, atol=1e-8)
    assert np.allclose(cross.right_weighted.numpy(), a @ v, rtol=1e-9, atol=1e-8)
    assert cross.product == pytest.approx(a @ b, rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, -1e4])
@pytest.mark.parametrize("all_labelled", [True, False])
def test_class_moments_are_those_of_each_class(offset: float, all_labelled: bool) -> None:
    roles = drawn(500, seed=5, offset=offset)
    if offset:
        # a zero row among the first three would put the shift a third of the offset away from all others
        roles["features"][1] = roles["features"][0]
    if all_labelled:
        roles["labels"] = roles["labels"].abs() % 40
    found = fed("class_moments", batches(roles, [3, 200]))
    keep = torch.isfinite(roles["features"]).all(1) & torch.isfinite(roles["other"]).all(1)
    x, y = roles["features"][keep].numpy(), roles["labels"][keep].numpy()
    x, y = (x, y) if all_labelled else (x[(y != -1) & (y != -100)], y[(y != -1) & (y != -100)])
    classes = np.unique(y)
    assert found.labels.tolist() == classes.tolist()
    means = np.stack([x[y == k].mean(0) for k in classes])
    within = sum((x[y == k] - m).T @ (x[y == k] - m) for k, m in zip(classes, means, strict=True))
    assert np.allclose(found.means.numpy(), means, rtol=1e-12)
    assert np.allclose(found.within_scatter.numpy(), within, rtol=1e-11, atol=1e-11 * np.abs(within).max())
    spread = [((x[y == k] - m) ** 2).sum(1).mean() for k, m in zip(classes, means, strict=True)]
    assert np.allclose(found.variances.numpy(), spread, rtol=1e-10)
    total = (x - x.mean(0)).T @ (x - x.mean(0))
    assert np.allclose(found.centred_scatter.numpy(), total, rtol=0, atol=1e-11 * np.abs(total).max())
    for i, k in enumerate(classes):
        norms = np.linalg.norm(x[y == k], axis=1)
        z = x[y == k] / np.where(norms > 0, norms, 1.0)[:, None]
        assert np.allclose(found.unit_sums[i].numpy(), z.sum(0), atol=1e-10)
    assert found.counts.tolist() == [int((y == k).sum()) for k in classes]


def test_folds_are_disjoint_even_and_keep_objects_together() -> None:
    roles = {"features": torch.arange(4000.0)[:, None], "object": torch.arange(4000) // 4}
    folds: Any = Folds(lambda: Sample(rows=4000), seed=2)
    together: Any = Folds(lambda: Sample(rows=4000), seed=2, by="object")
    for start in range(0, 4000, 128):
        part = Batch({r: t[start : start + 128] for r, t in roles.items()}, start=start)
        folds.update(part)
        together.update(part)
    first, second = set(folds.first.indices.tolist()), set(folds.second.indices.tolist())
    assert not first & second
    assert len(first | second) == 4000
    assert abs(len(first) - 2000) < 4 * 32  # four standard deviations of a fair coin
    assert not set(together.first.rows("object").tolist()) & set(together.second.rows("object").tolist())
    small = Sample(seed=2, rows=400)
    small.update(Batch(roles))
    assert 140 < len(set(small.indices.tolist()) & first) < 260  # a sample holds rows of both halves


def test_rows_without_a_group_are_not_kept_together() -> None:
    groups = torch.where(torch.arange(400) < 200, torch.arange(400) // 50, -1)
    first, second = Batch({"features": torch.zeros(400, 1), "groups": groups}).halves(3, "groups")
    assert not {g for g in first.roles["groups"].tolist() if g >= 0} & set(second.roles["groups"].tolist())
    alone = int((first.roles["groups"] == -1).sum())
    assert abs(alone - 100) < 4 * 7.1  # four standard deviations of a fair coin


def split_mix(seed: int, count: int) -> list[int]:
    """The generator as published, in Python integers."""
    mask, out = (1 << 64) - 1, []

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    state = mixed((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask)
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        out.append(mixed(state))
    return out


def test_row_hashes_are_the_outputs_of_the_published_generator() -> None:
    for seed in (0, 1, 12345, 2**40):
        found = [h & ((1 << 64) - 1) for h in row_hash(torch.arange(20), seed).tolist()]
        assert found == split_mix(seed, 20)


def test_a_sample_is_the_bottom_of_every_stratum() -> None:
    roles = drawn(3000, seed=8, dtype=torch.bfloat16)
    roles["labels"] = torch.arange(3000) % 37 - 1
    found = Sample(seed=5, rows=100)
    for part in batches(roles, list(range(0, 3000, 70))):
        found.update(part)
    keep = torch.isfinite(roles["features"]).all(1) & torch.isfinite(roles["other"]).all(1)
    keys = row_hash(torch.arange(3000), 5).numpy()
    rows = np.flatnonzero(keep.numpy())
    wanted = set(rows[np.argsort(keys[rows])[:100]].tolist())
    assert set(found.indices[found.is_uniform].tolist()) == wanted
    for role, quota in (("labels", 64), ("groups", 32)):
        strata = roles[role].numpy()[rows]
        for k in set(strata.tolist()) - {-1}:
            own = rows[strata == k]
            wanted |= set(own[np.argsort(keys[own])[:quota]].tolist())
    assert found.indices.tolist() == sorted(wanted)
    assert torch.equal(found.rows("features"), roles["features"][found.indices])
    assert found.rows("features").dtype is torch.bfloat16
    assert torch.equal(found.rows("labels"), roles["labels"][found.indices])
    assert not found.is_exact
    assert Sample().is_exact


def test_small_strata_are_exact_over_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservoir, "LABEL_ROWS", 3)
    roles = {"features": torch.arange(20000.0)[:, None], "labels": torch.arange(20000) % 40}
    found = Sample(rows=4)
    for start in range(0, 20000, 50):
        found.update(Batch({r: t[start : start + 50] for r, t in roles.items()}, start=start))
    keys = row_hash(torch.arange(20000), 0).numpy()
    wanted = set(np.argsort(keys)[:4].tolist())
    for k in range(40):
        own = np.arange(k, 20000, 40)
        wanted |= set(own[np.argsort(keys[own])[:3]].tolist())
    assert found.indices.tolist() == sorted(wanted)


def test_accumulators_with_different_shifts_share_a_batch() -> None:
    parts = batches(drawn(300, seed=6, offset=3.0), [100, 200])
    late, whole, alone = Moments(), Moments(), Moments()
    whole.update(parts[0])
    for part in parts[1:]:
        whole.update(part)
        late.update(part)
    for part in batches(drawn(300, seed=6, offset=3.0), [100, 200])[1:]:
        alone.update(part)
    assert not torch.equal(whole.shift, late.shift)
    assert_same(late, alone)
    assert_same(whole, fed("moments", [Batch(drawn(300, seed=6, offset=3.0))]))


@pytest.mark.parametrize("limit", [20, 100])
def test_many_classes_share_the_limit_whatever_the_order(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 30 classes of 40 rows: 100 // 30 = 3 rows each; with room for 20 rows only the uniform ones are left
    monkeypatch.setattr(reservoir, "STRATUM_LIMIT", limit)
    roles = {"features": torch.arange(1200.0)[:, None], "labels": torch.arange(1200) // 40}
    kept = []
    for reverse in (False, True):
        found = Sample(rows=50)
        parts = [Batch({r: t[a : a + 60] for r, t in roles.items()}, start=a) for a in range(0, 1200, 60)]
        for part in parts[::-1] if reverse else parts:
            found.update(part)
        kept.append(found.indices.tolist())
        counts = torch.bincount(found.rows("labels")[~found.is_uniform], minlength=30)
        assert int(counts.max()) <= limit // 30
    assert kept[0] == kept[1]


def test_extremes_count_what_is_special() -> None:
    x = torch.tensor([[1.0, 0.0], [-0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [torch.nan, 1.0], [3.0, -4.0]])
    found = Extremes()
    found.update(Batch({"features": x[:2]}))
    found.update(Batch({"features": x[2:]}, start=2))
    assert (found.count, found.zero_rows, found.non_finite_rows, found.left_out) == (5, 2, 1, 1)
    assert found.distinct.number == 3
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([0.0, -4.0], [3.0, 0.0])
    assert found.zeros.tolist() == [2, 4]
    # ulp of float32: 2⁻²³ in [1, 2), 2⁻²² in [2, 4), 2⁻²¹ in [4, 8)
    wanted = [(2 * 2.0**-46 + 2.0**-44) / 12, 2.0**-42 / 12]
    assert found.squared_rounding.tolist() == pytest.approx(wanted, rel=1e-15, abs=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_the_spacing_of_the_numbers(dtype: torch.dtype) -> None:
    x = (torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3e-4).to(dtype)
    found = Extremes()
    found.update(Batch({"features": x}))
    up = torch.nextafter(x.abs().float(), torch.tensor(torch.inf)).double()
    if dtype is torch.float64:
        ulp = np.spacing(np.abs(x.numpy()))
    elif dtype is torch.float32:
        ulp = (up - x.abs().double()).numpy()
    else:
        words = x.abs().view(torch.int16)
        ulp = ((words + 1).view(dtype).double() - x.abs().double()).numpy()
    assert found.squared_rounding.tolist() == pytest.approx((ulp**2).sum(0) / 12, rel=1e-12, abs=0.0)


def test_rounding_of_values_saved_wider_than_they_are() -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    for narrow, bits in ((torch.bfloat16, 7), (torch.float16, 10), (torch.float32, 23)):
        for wide in (torch.float32, torch.float64):
            found = Extremes()
            found.update(Batch({"features": x.to(narrow).to(wide)}))
            assert found.mantissa_bits == bits
    few = Extremes()
    few.update(Batch({"features": torch.ones(3, 4)}))
    assert few.mantissa_bits == 23


def test_content_hashes_differ_where_rows_do() -> None:
    x = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).float()
    assert len(torch.unique(content_hash(x))) == len(torch.unique(x, dim=0))
    assert torch.equal(content_hash(x[:5]), content_hash(x)[:5])


def test_many_distinct_rows_are_estimated_the_same_however_split() -> None:
    hashes = content_hash(torch.arange(300_000, dtype=torch.float64)[:, None])
    whole, left, right = (DistinctRows(largest=1000) for _ in range(3))
    whole.add(hashes)
    left.add(hashes[:500])
    right.add(hashes[400:])
    left.merge(right)
    assert not whole.is_exact
    assert whole.number == left.number == pytest.approx(300_000, rel=0.03)  # 3.7 standard errors


def test_an_infinite_logit_leaves_the_row_in() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [0.0, torch.nan], [0.0, torch.inf]])
    batch = Batch({"features": torch.ones(3, 2), "logits": logits})
    assert batch.finite().tolist() == [True, False, False]


def test_blocks_are_the_same_rows() -> None:
    roles = drawn(2000, seed=3)
    roles["wide"] = torch.zeros(2000, 1000)
    parts = list(Batch(roles, start=7).blocks())
    assert len(parts) > 3
    assert torch.equal(torch.cat([p.indices for p in parts]), torch.arange(7, 2007))
    assert torch.equal(torch.cat([p.roles["labels"] for p in parts]), roles["labels"])
    assert_same(fed("moments", parts), fed("moments", [Batch(roles)]), scale=2000.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_share_their_memory_are_the_whole(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_BLOCK_ENTRIES", 1)
    monkeypatch.setattr(batching, "_BLOCK_ROWS", 7)
    roles = drawn(150, seed=3, dtype=dtype)
    found, room = fed(kind, []), {}
    for part in batches(roles, [40, 41, 90]):
        blocks = 0
        for block in part.blocks(room):
            found.update(block)
            blocks += 1
        assert blocks == -(-part.count // 7)
    # a row that is not finite and rows without a label are among them
    assert_same(found, fed(kind, [Batch(roles)]), scale=1e3 if dtype is torch.float16 else 150.0)


def test_classes_of_a_block_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_BLOCK_ENTRIES", 1)
    monkeypatch.setattr(batching, "_BLOCK_ROWS", 2)
    features = torch.tensor([[1.0], [float("nan")], [2.0], [3.0], [4.0]])
    batch = Batch({"features": features, "labels": torch.tensor([5, 9, -1, 2, 5])})
    seen = []
    for block in batch.blocks():
        labels, place, mask = block.classes("labels")
        seen.append((labels.tolist(), labels[place].tolist(), None if mask is None else mask.tolist()))
    # the label 9 is on a row that is not finite
    assert seen == [([2, 5], [5], None), ([2, 5], [2], [False, True]), ([2, 5], [5], None)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_whose_sum_overflows_are_finite(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max if dtype is not torch.float64 else 1e72
    rows = torch.tensor(
        [[large, large], [1.0, float("nan")], [-float("inf"), float("inf")], [-large, large]], dtype=dtype
    )
    assert batching.finite_rows(rows).tolist() == [True, False, False, True]
    assert batching.finite_rows(rows[[0, 3]]).all()


@pytest.mark.parametrize("width", [1, 64, 65, 200, 512, 513])
def test_wide_products_are_whole_and_symmetric(width: int) -> None:
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Moments()
    found.update(Batch({"features": x}))
    u, z = x - x.mean(0), x / x.norm(dim=1, keepdim=True)
    assert torch.allclose(found.scatter, u.T @ u, rtol=0, atol=1e-12)
    assert torch.allclose(found.unit_gram, z.T @ z, rtol=0, atol=1e-13)


def test_roles_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of rows"):
        Batch({"features": torch.zeros(3, 2), "labels": torch.zeros(2)})


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_same_roles_and_seeds_merge(kind: str) -> None:
    others = {
        "moments": Moments("x"),
        "class_moments": ClassMoments("x"),
        "cross_moments": CrossMoments("x", "y"),
        "extremes": Extremes("x"),
        "sample": Sample(seed=9),
        "folds": Folds(ClassMoments, seed=9),
        "folds_by": Folds(Moments, seed=1),
    }
    with pytest.raises(ValueError, match="not merge"):
        KINDS[kind]().merge(others[kind])
