"""Drift over generations: closed forms, published laws by simulation, SciPy and scikit-learn."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.covariance import ledoit_wolf

from collapse_cli.analyzers.runs.generation_drift import generation_drift
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump_series import analyse_dump_series
from collapse_cli.kernels import generations
from collapse_cli.sources.dump import memory_dump


def noise(seed: int, rows: int = 2000, width: int = 3) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(members: Sequence[dict[str, Any]], metadata: Sequence[dict[str, str]] | None = None) -> Any:
    dumps = [memory_dump(member, metadata=metadata[place] if metadata else {}) for place, member in enumerate(members)]
    labels = tuple(f"generation {place}" for place in range(len(dumps)))
    return analyse_dump_series(
        dumps, [generation_drift], labels=labels, steps=tuple(float(place) for place in range(len(dumps)))
    )


def values(analysis: Any) -> dict[str, Measurement]:
    return {m.metric: m for m in analysis.measurements}


def test_generations_of_one_distribution_are_at_the_nulls() -> None:
    found = values(run([{"samples": noise(seed)} for seed in range(7)]))
    assert found["variance_ratio"].value == pytest.approx(1, abs=0.08)
    assert found["tail_share"].value == pytest.approx(0.01, abs=0.012)
    assert found["recall"].value == pytest.approx(found["recall"].null, abs=0.03)
    assert found["distance_to_origin"].value < 0.02
    assert abs(found["growth_rate"].value) < 0.003


def test_every_number_of_the_last_generation_by_definition() -> None:
    real, last = noise(0, 400), 0.7 * noise(5, 300) + 0.4
    analysis = run([{"samples": real}, {"samples": noise(1, 250)}, {"samples": last}])
    found = values(analysis)
    size = found["recall"].evidence["N"]
    assert size == 200
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    origin, other = real[order[:200]].numpy(), real[order[200:]].numpy()
    kept = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:200].sort().values
    made = last[kept].numpy()

    def frechet(x: np.ndarray) -> float:
        a, b = np.cov(x.T), np.cov(origin.T)
        return float(((x.mean(0) - origin.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real))

    def lengths(x: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(ledoit_wolf(origin)[0])
        return np.einsum("ni,ij,nj->n", x - origin.mean(0), inverse, x - origin.mean(0))

    radius = np.quantile(lengths(other), 0.99)
    between = np.sort(np.linalg.norm(made[:, None] - made[None], axis=2), axis=1)[:, 5]
    reached = (np.linalg.norm(origin[:, None] - made[None], axis=2) < between).any(1)
    assert found["variance_ratio"].value == pytest.approx(made.var(0).sum() / origin.var(0).sum(), rel=1e-9)
    assert found["distance_to_origin"].value == pytest.approx(frechet(made) - frechet(other), rel=1e-7)
    assert found["tail_share"].value == pytest.approx((lengths(made) > radius).mean())
    assert found["recall"].value == pytest.approx(reached.mean())
    assert found["variance_ratio"].evidence["of_refitting"] == pytest.approx((1 - 1 / 200) ** 2)
    assert "growth_law: run too short: 2 of 5 generations" in {s.reason for s in analysis.skips}


def test_the_tail_goes_before_the_variance() -> None:
    """Variance .6 leaves 4.6e-4 beyond the 99 % radius in two dimensions: exp(−ln(100)/.6)."""
    rows = [noise(seed, 6_000, 2) * (math.sqrt(0.6) if seed == 2 else 1.0) for seed in range(3)]
    found = values(run([{"samples": member} for member in rows]))
    assert found["variance_ratio"].value == pytest.approx(0.6, abs=0.03)
    assert found["tail_share"].value == pytest.approx(math.exp(-math.log(100) / 0.6), abs=8e-4)


def test_replacing_grows_linearly_and_accumulating_to_a_bound() -> None:
    """Linear regression on own answers, T = 60, d = 10, σ = 1: error .204·g, or .204·Σ1/i² (Gerstgrasser 2024)."""
    rng = np.random.default_rng(0)
    theory = 10 / (60 - 10 - 1)
    replaced, accumulated = np.zeros(10), np.zeros(10)
    for _ in range(300):
        theta, xs, ys = np.zeros(10), [], []
        for g in range(10):
            x = rng.standard_normal((60, 10))
            theta = np.linalg.lstsq(x, x @ theta + rng.standard_normal(60), rcond=None)[0]
            replaced[g] += (theta**2).sum() / 300
        theta = np.zeros(10)
        for g in range(10):
            x = rng.standard_normal((60, 10))
            xs.append(x)
            ys.append(x @ theta + rng.standard_normal(60))
            theta = np.linalg.lstsq(np.concatenate(xs), np.concatenate(ys), rcond=None)[0]
            accumulated[g] += (theta**2).sum() / 300
    assert replaced[-1] == pytest.approx(10 * theory, rel=0.1)
    assert accumulated[-1] == pytest.approx(theory * sum(1 / i**2 for i in range(1, 11)), rel=0.1)
    numbers = list(range(1, 11))
    assert generations.law_advantage(numbers, replaced.tolist())[0] < -4
    assert generations.law_advantage(numbers, accumulated.tolist())[0] > 4


def test_the_law_is_the_difference_of_information_criteria() -> None:
    numbers, distances = [1, 2, 3, 4, 5, 6], [0.21, 0.40, 0.63, 0.80, 1.05, 1.19]

    def criterion(at: list[float]) -> float:
        design = np.stack((np.ones(6), at), 1)
        residual = float(np.linalg.lstsq(design, np.array(distances), rcond=None)[1][0])
        return 6 * math.log(residual / 6) + 2 * 3 + 2 * 3 * 4 / (6 - 3 - 1)

    bounded = [float(sum(1 / i**2 for i in range(1, g + 1))) for g in numbers]
    expected = criterion([float(g) for g in numbers]) - criterion(bounded)
    found, slopes = generations.law_advantage(numbers, distances)
    assert found == pytest.approx(expected, rel=1e-9)
    assert slopes["linear_slope"] == pytest.approx(np.polyfit(numbers, distances, 1)[0], rel=1e-9)
    assert math.isfinite(generations.law_advantage(numbers, [0.0] * 6)[0])


def test_the_shrunk_covariance_is_that_of_scikit_learn() -> None:
    for rows in (40, 400):
        x = noise(3, rows, 6) * torch.tensor([1.0, 2, 3, 0.1, 1, 1]).double()
        assert generations.shrunk_covariance(x).numpy() == pytest.approx(ledoit_wolf(x.numpy())[0], rel=1e-9)


def test_variance_of_refitted_gaussians_is_what_the_evidence_says() -> None:
    """Maximum likelihood on 100 draws a generation: the mean after 10 is (1 − 1/100)^10 = .904."""
    generator = torch.Generator().manual_seed(0)
    variance = torch.ones(4000).double()
    for _ in range(10):
        draws = variance.sqrt()[:, None] * torch.randn(4000, 100, generator=generator, dtype=torch.float64)
        variance = draws.var(1, correction=0)
    found = values(run([{"samples": noise(seed, 200)} for seed in range(11)]))["variance_ratio"]
    assert found.evidence["N"] == 100
    assert float(variance.mean()) == pytest.approx(found.evidence["of_refitting"], abs=0.02)


def test_a_reference_is_the_real_data_and_metadata_number_the_generations() -> None:
    members: list[dict[str, Any]] = [{"samples": noise(seed) * 2} for seed in range(3)]
    members[0]["reference"] = noise(9)
    said = [{"generation": str(number)} for number in (2, 4, 7)]
    found = values(run(members, said))["variance_ratio"]
    assert found.value == pytest.approx(4, rel=0.1)
    assert found.evidence["generations"] == [2, 4, 7]
    assert found.evidence["real"] == "reference"


def test_what_is_too_short_too_small_or_no_distribution_is_a_skip() -> None:
    assert {s.reason for s in run([{"samples": noise(0)}] * 2).skips} == {"run too short: 2 of 3"}
    assert "fewer than 50" in run([{"samples": noise(0, 90)}] * 3).skips[0].reason
    assert {s.reason for s in run([{"samples": torch.ones(200, 3)}] * 3).skips} == {"the real data are constant"}
    wide = run([{"samples": noise(seed, 120, 70)} for seed in range(3)])
    assert "60 rows of 70 features, a covariance is singular" in wide.skips[0].reason
    assert {m.metric for m in wide.measurements} == {"variance_ratio", "tail_share", "recall"}
    other = run([{"samples": noise(0)}, {"samples": noise(1)}, {"samples": noise(2, 500, 4)}])
    assert "different widths" in other.skips[0].reason


def test_a_generation_of_copies_reaches_nothing() -> None:
    copies = noise(2)[:4].repeat(100, 1)
    found = values(run([{"samples": noise(0)}, {"samples": noise(1)}, {"samples": copies}]))
    assert found["recall"].value == 0
    flat = values(run([{"samples": noise(0)}, {"samples": noise(1)}, {"samples": torch.zeros(300, 3)}]))
    assert (flat["variance_ratio"].value, flat["tail_share"].value, flat["recall"].value) == (0, 0, 0)
