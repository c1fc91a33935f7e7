import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from collapse_cli.analyzers.drift.update_rank import update_rank
from collapse_cli.kernels.comparisons import Comparison
from tests.views import at, reasons, values, weight

Matrix = npt.NDArray[np.float64]


def pair(before: torch.Tensor, after: torch.Tensor) -> Comparison:
    members = weight(before), weight(after)
    return Comparison(members[0].site, members, labels=("OLD", "NEW"))


def measured(before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    return values(update_rank.run(pair(before, after)))


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def densely(old: Matrix, new: Matrix) -> dict[str, float]:
    """Every metric from full singular value decompositions."""
    delta = new - old
    energy = np.linalg.svd(delta, compute_uv=False) ** 2
    shares = energy / energy.sum()
    u, _, v = np.linalg.svd(old, full_matrices=False)
    w = np.linalg.svd(new, full_matrices=False)[0]
    k = math.ceil(min(old.shape) / 10)
    return {
        "update_effective_rank": math.exp(-(shares * np.log(shares)).sum()),
        "update_stable_rank": energy.sum() / energy[0],
        "update_rank_90": int((np.cumsum(shares) < 0.9).sum()) + 1,
        "core_energy": float((np.linalg.norm(u[:, :k].T @ delta @ v[:k].T) / np.linalg.norm(delta)) ** 2),
        "subspace_overlap": float(np.linalg.norm(u[:, :k].T @ w[:, :k]) ** 2 / k),
        "intruder_dimensions": int((np.abs(u.T @ w[:, :10]).max(0) < 0.5).sum()),
    }


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (50, 50), (8, 300), (300, 8)])
def test_formulas_against_full_decompositions(shape: tuple[int, int]) -> None:
    for scale in (0.02, 0.5):
        old, new = gaussian(*shape), gaussian(*shape) + scale * gaussian(*shape, seed=1)
        found = measured(old, new)
        assert found == pytest.approx(densely(old.numpy(), new.numpy()), rel=1e-7)


def test_a_dense_update_is_as_broad_as_chance() -> None:
    found = at(update_rank.run(pair(gaussian(512, 512), gaussian(512, 512) + 0.1 * gaussian(512, 512, seed=1))))
    assert found["update_effective_rank", "w"].value == pytest.approx(310, abs=2)
    assert found["update_effective_rank", "w"].null == pytest.approx(310.5, abs=0.1)
    assert found["update_stable_rank", "w"].value == pytest.approx(131, abs=4)
    assert found["update_stable_rank", "w"].null == 128
    assert found["update_rank_90", "w"].null == pytest.approx(0.51 * 512, abs=2)


@pytest.mark.parametrize("is_tall", [False, True])
def test_one_intruder_of_three_times_the_strongest(is_tall: bool) -> None:
    old = gaussian(256, 512)
    u, v = (torch.nn.functional.normalize(gaussian(side, seed=9), dim=0) for side in (256, 512))
    new = old + 3 * torch.linalg.matrix_norm(old, 2) * torch.outer(u, v)
    old, new = (old.T, new.T) if is_tall else (old, new)
    found = at(update_rank.run(pair(old, new)))["intruder_dimensions", "w"]
    cosines = found.evidence["largest_cosines"]
    assert found.value == 1
    assert cosines[0] < 0.35
    assert min(cosines[1:]) > 0.6
    if not is_tall:
        assert found.evidence["random_cosine"] == pytest.approx(0.221, abs=1e-3)
    noisy = at(update_rank.run(pair(old, old + 0.01 * gaussian(*old.shape, seed=3))))["intruder_dimensions", "w"]
    assert noisy.value == 0
    assert min(noisy.evidence["largest_cosines"]) > 0.95


def test_random_updates_meet_the_nulls_of_core_and_overlap() -> None:
    found = at(update_rank.run(pair(gaussian(256, 512), gaussian(256, 512, seed=1))))
    core, overlap = found["core_energy", "w"], found["subspace_overlap", "w"]
    assert core.null == pytest.approx(26**2 / (256 * 512))
    assert overlap.null == pytest.approx(26 / 256)
    assert overlap.value == pytest.approx(overlap.null, rel=0.3)
    independent = gaussian(256, 512) + 0.1 * gaussian(256, 512, seed=1)
    core = at(update_rank.run(pair(gaussian(256, 512), independent)))["core_energy", "w"]
    assert core.value == pytest.approx(core.null, rel=0.15)  # type: ignore[arg-type]


def test_rank_one_in_bf16_is_rank_one_after_the_cut() -> None:
    old = gaussian(512, 512)
    direction = torch.outer(gaussian(512, seed=1), gaussian(512, seed=2))
    new = old + 0.1 * direction * old.norm() / direction.norm()
    found = at(update_rank.run(pair(old.bfloat16(), new.bfloat16())))["update_effective_rank", "w"]
    assert found.evidence["above_rounding"] == 1
    assert found.value == pytest.approx(1.0, abs=1e-9)
    uncut = torch.linalg.svdvals(new.bfloat16().double() - old.bfloat16().double()).square()
    shares = uncut / uncut.sum()
    assert float(torch.exp(-(shares * shares.log()).sum())) > 1.004


def test_an_update_of_the_core_alone() -> None:
    old = gaussian(80, 120)
    u, s, v = torch.linalg.svd(old, full_matrices=False)
    assert measured(old, old + 0.1 * u[:, :8] @ torch.diag(s[:8]) @ v[:8])["core_energy"] == pytest.approx(1, abs=1e-9)
    assert measured(old, old + 0.1 * u[:, 20:] @ v[20:])["core_energy"] == pytest.approx(0, abs=1e-9)


def test_ranks_of_the_axes_of_a_convolution() -> None:
    old = gaussian(12, 10, 3, 3)
    step = torch.einsum("oa,ib,abkl->oikl", gaussian(12, 2, seed=1), gaussian(10, 3, seed=2), gaussian(2, 3, 3, 3))
    found = at(update_rank.run(pair(old, old + step)))
    ranks = [found["tucker_rank_99", f"w#mode={axis}"].value for axis in range(4)]
    for axis, rank in enumerate(ranks):
        energy = np.linalg.svd(np.moveaxis(step.numpy(), axis, 0).reshape(step.shape[axis], -1), compute_uv=False) ** 2
        assert rank == int((np.cumsum(energy) < 0.99 * energy.sum()).sum()) + 1
    assert ranks[0] <= 2
    assert ranks[1] <= 3
    assert not any(
        metric == "tucker_rank_99" for metric, _ in at(update_rank.run(pair(gaussian(9, 9), -gaussian(9, 9))))
    )


def test_what_did_not_move_or_only_by_rounding_has_no_rank() -> None:
    old = gaussian(64, 64).float()
    assert reasons(update_rank.run(pair(old, old))) == ["unchanged"]
    assert reasons(update_rank.run(pair(old, old.bfloat16()))) == ["all of the change is below rounding"]
    assert reasons(update_rank.run(pair(torch.zeros(64, 64), torch.zeros(64, 64)))) == ["unchanged"]
    begun = list(update_rank.run(pair(torch.zeros(64, 64), old)))
    assert reasons(begun) == ["core_energy, subspace_overlap, intruder_dimensions: all zero before"]
    assert set(values(begun)) == {"update_effective_rank", "update_stable_rank", "update_rank_90"}


def test_weights_of_low_rank_and_vanishing_weights_are_measured() -> None:
    low = gaussian(40, 2) @ gaussian(2, 60, seed=1)
    for old, new in ((low, low + 0.1 * gaussian(40, 60)), (low, gaussian(40, 60)), (low, torch.zeros(40, 60))):
        for first, last in ((old, new), (old.T, new.T)):
            assert all(math.isfinite(value) for value in measured(first, last).values())


def test_sides_beyond_the_limit_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapse_cli.kernels import update_spectrum

    monkeypatch.setattr(update_spectrum, "MAX_SIDE", 16)
    assert reasons(update_rank.run(pair(gaussian(20, 30), gaussian(20, 30, seed=1)))) == ["min side 20 > 16"]
