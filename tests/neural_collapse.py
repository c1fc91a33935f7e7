"""Neural collapse written out densely in numpy float64 over all rows, and dumps to compare on.

The definitions of Papyan, Han & Donoho 2020 as the package `neural-collapse` has them: Σ_W over all rows, Σ_B over
classes, global mean unweighted.
"""

from typing import Any

import numpy as np
import torch

from collapse_cli.analyzer import Analyzer
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources import dump as dumps

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def class_means(x: Matrix, y: Matrix) -> Matrix:
    return np.stack([x[y == k].mean(0) for k in np.unique(y)])


def within(x: Matrix, y: Matrix) -> Matrix:
    deviations = np.concatenate([x[y == k] - x[y == k].mean(0) for k in np.unique(y)])
    return deviations.T @ deviations / len(x)


def centred(means: Matrix) -> Matrix:
    return means - means.mean(0)


def nc1(x: Matrix, y: Matrix) -> tuple[float, float]:
    m = centred(class_means(x, y))
    between, spread = m.T @ m / len(m), within(x, y)
    return np.trace(np.linalg.pinv(between, rcond=1e-11) @ spread) / len(m), np.trace(spread) / np.trace(between)


def cdnv(x: Matrix, y: Matrix, power: int = 1) -> Matrix:
    """K × K; the diagonal is NaN."""
    means = class_means(x, y)
    spread = np.array([((x[y == k] - x[y == k].mean(0)) ** 2).sum(1).mean() for k in np.unique(y)])
    distances = ((means[:, None] - means) ** 2).sum(2)
    np.fill_diagonal(distances, np.nan)
    return (spread[:, None] + spread) / 2 / distances**power


def structure_error(a: Matrix, b: Matrix) -> float:
    k = len(a)
    product = b @ a.T
    ideal = (np.eye(k) - np.ones((k, k)) / k) / np.sqrt(k - 1)
    return float(np.linalg.norm(product / np.linalg.norm(product) - ideal))


def log_kernel(means: Matrix) -> tuple[float, float]:
    m = centred(means)
    u = m / np.linalg.norm(m, axis=1, keepdims=True)
    values = -np.log(np.linalg.norm(u[:, None] - u, axis=2)[~np.eye(len(u), dtype=bool)])
    return float(values.mean()), float(values.var())


#: classes, width, rows of each class
CASES = {
    "balanced": (6, 12, [40] * 6),
    "more_classes_than_width": (14, 5, [30] * 14),
    "imbalanced": (5, 9, [400, 90, 30, 8, 5]),
    "classes_of_one_row": (8, 7, [50, 50, 20, 20, 9, 1, 1, 1]),
    "offset_of_1000": (6, 12, [40] * 6),
    "float16": (6, 12, [40] * 6),
}


def rows_of(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Shuffled features in their stored dtype, and labels."""
    many, width, sizes = CASES[case]
    generator = np.random.default_rng(len(case))
    y = generator.permutation(np.repeat(np.arange(many), sizes))
    x = 2.0 * generator.normal(size=(many, width))[y] + generator.normal(size=(len(y), width))
    x += 1000.0 if case == "offset_of_1000" else 3.0
    return torch.tensor(x, dtype=torch.float16 if case == "float16" else torch.float64), torch.tensor(y)


def as_numpy(x: torch.Tensor, y: torch.Tensor, *, rows: int = 1) -> tuple[Matrix, Matrix]:
    """Both in float64, the classes with at least that many rows."""
    counts = np.bincount(y.numpy())
    kept = counts[y.numpy()] >= rows
    return x.double().numpy()[kept], y.numpy()[kept]


def measured(analyzer: Analyzer, monkeypatch: Any = None, *, window: int = 0, **arrays: torch.Tensor) -> Any:
    """The analysis of a dump of one site, read in windows of so many rows where that is given."""
    if window:
        monkeypatch.setattr(dumps, "_WINDOW", window * sum(a[:1].nbytes for a in arrays.values() if len(a) > 50))
    metadata = arrays.pop("metadata", {})
    return analyse_dump(dumps.memory_dump(arrays, metadata=metadata), [analyzer])


def found(analysis: Any) -> dict[str, Measurement]:
    """metric → measurement."""
    assert not analysis.failures, analysis.failures
    return {one.metric: one for one in analysis.measurements}
