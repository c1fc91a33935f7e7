"""The rows of `samples` and `reference` that are kept of a hook point, where they lie, at equal size where asked."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.errors import BadValues
from collapse_cli.kernels.distinct_rows import content_hash
from collapse_cli.kernels.nearest_rows import thinned, uniform_rows
from collapse_cli.kernels.views import Activations

__all__ = ["at_most", "distinct", "facts", "first_of_each", "kept", "refuse_duplicates", "same_width"]


def same_width(point: Activations) -> None:
    """Nothing, where samples and reference have rows of one width.

    Raises:
        BadValues: they were embedded differently: no distance between them means anything.
    """
    widths = {role: _width(point.shapes[role]) for role in ("samples", "reference") if role in point.shapes}
    if len(set(widths.values())) > 1:
        raise BadValues(
            "samples and reference of different widths:",
            expected="both need the same embedding",
            got=f"samples have {widths['samples']:,} features and reference {widths['reference']:,}",
            hint="embed both with the same network at the same layer",
        )


def _width(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape[1:]:
        total *= side
    return total


def kept(point: Activations, role: str) -> Float[Tensor, "rows features"]:
    """The uniformly kept rows of a role, as stored, on the device they were fed from; none if it has none."""
    if not point.has(f"sample({role})"):
        return torch.zeros(0, 0, dtype=torch.float64)
    sample = point.read(f"sample({role})")
    if sample.count == 0:
        return torch.zeros(0, _width(point.shapes[role]), dtype=torch.float64)
    return uniform_rows(sample, role).flatten(1).to(sample.device)


def at_most(rows: Tensor, count: int) -> Tensor:
    """At most so many rows, drawn by a fixed seed, in their order."""
    return rows if rows.shape[0] <= count else rows[thinned(rows.shape[0], count).to(rows.device)]


def first_of_each(rows: Tensor) -> Int[Tensor, " distinct"]:
    """The places of the rows that equal no earlier one bit for bit (−0 and 0 are the same), ascending."""
    hashes = torch.cat([content_hash(part) for part in torch.split(rows, 4096)]) if rows.shape[0] else rows.new_zeros(0)
    _, group = torch.unique(hashes, return_inverse=True)
    places = torch.arange(rows.shape[0], device=rows.device)
    first = torch.full((int(group.max()) + 1 if rows.shape[0] else 0,), rows.shape[0], device=rows.device)
    return first.scatter_reduce_(0, group, places, "amin").sort().values


def distinct(rows: Tensor) -> Tensor:
    """The rows without exact repetitions, in their order."""
    places = first_of_each(rows)
    return rows if places.numel() == rows.shape[0] else rows[places]


def refuse_duplicates(repeated: int, count: int, most: float) -> None:
    """Nothing, where at most that share of the reference rows repeats others.

    Raises:
        BadValues: distances between real rows are mostly those between copies.
    """
    if repeated > most * count:
        raise BadValues(
            "duplicated reference:",
            expected=f"at most {most:.0%} of the rows may equal an earlier one",
            got=f"{repeated:,} of {count:,} do",
            hint="write every real row once",
        )


def facts(point: Activations) -> dict[str, Any]:
    """Evidence of every measurement of samples: rows, finite rows, width, stored dtype, embedding, exact or sampled."""
    result: dict[str, Any] = {
        "M": point.rows,
        "finite_rows": point.finite_rows,
        "D": _width(point.shapes["samples"]),
        "dtype": point.dtypes["samples"],
        "embedding": point.metadata.get("embedding", "not stated"),
        "exact": bool(point.read("sample(samples)").is_exact),
    }
    if point.has("sample(reference)"):
        reference = point.read("sample(reference)")
        result |= {"N": reference.count, "exact": result["exact"] and bool(reference.is_exact)}
    return result
