"""The rows kept of two sets: which, where, how many, and what is refused."""

import pytest
import torch

from collapse_cli.core.site import Role, Site
from collapse_cli.errors import BadValues
from collapse_cli.kernels.accumulators import Batch, Sample
from collapse_cli.kernels.generated_sets import (
    at_most,
    distinct,
    facts,
    first_of_each,
    kept,
    refuse_duplicates,
    same_width,
)
from collapse_cli.kernels.views import Activations


def point(samples: torch.Tensor, reference: torch.Tensor, *, rows: int = 50) -> Activations:
    accumulators = {}
    for role, tensor in (("samples", samples), ("reference", reference)):
        accumulators[f"sample({role})"] = Sample(rows=rows)
        labels = torch.arange(tensor.shape[0])  # one row of every class is kept beside the uniform ones
        accumulators[f"sample({role})"].update(Batch({role: tensor, "labels": labels}))
    shapes = {"samples": tuple(samples.shape), "reference": tuple(reference.shape)}
    site = Site("output", (), "", None, Role.ACTIVATION)
    count = samples.shape[0]
    dtypes = dict.fromkeys(shapes, "F32")
    return Activations(site, accumulators, shapes=shapes, dtypes=dtypes, rows=count, finite_rows=count)


def rows(count: int, width: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


def test_kept_rows_are_the_uniform_ones_in_their_order() -> None:
    found = point(rows(200), rows(30))
    assert torch.equal(kept(found, "reference"), rows(30))
    some = kept(found, "samples")
    assert some.shape == (50, 3)
    places = [rows(200).eq(row).all(1).nonzero().item() for row in some]
    assert places == sorted(places)
    assert facts(found)["exact"] is False
    assert (facts(found)["M"], facts(found)["N"], facts(found)["D"]) == (200, 30, 3)


def test_sets_that_are_empty_or_absent_have_no_rows() -> None:
    assert kept(point(rows(9), rows(0)), "reference").shape == (0, 3)
    assert kept(point(rows(9), rows(0)), "features").shape == (0, 0)


def test_distinct_rows_keep_their_order_and_zero_has_no_sign() -> None:
    given = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0], [3.0, 0.0], [2.0, 0.0]])
    assert first_of_each(given).tolist() == [0, 1, 3]
    assert distinct(given).tolist() == [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
    assert first_of_each(given[:0]).numel() == 0
    assert torch.equal(distinct(given[:2]), given[:2])


def test_at_most_draws_without_repetition() -> None:
    some = at_most(rows(100), 20)
    assert some.shape == (20, 3)
    assert first_of_each(some).numel() == 20
    assert at_most(rows(10), 20).shape == (10, 3)


def test_other_widths_and_copies_are_refused() -> None:
    same_width(point(rows(9), rows(9)))
    with pytest.raises(BadValues, match="3 features and reference 5"):
        same_width(point(rows(9), rows(9, 5)))
    refuse_duplicates(5, 10, 0.5)
    with pytest.raises(BadValues, match="6 of 10"):
        refuse_duplicates(6, 10, 0.5)
