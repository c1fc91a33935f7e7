"""What the engine asks of a weight before anybody computes with it."""

import pytest
import torch

from collapse_cli.kernels import views
from tests.views import weight


@pytest.mark.parametrize("place", [0, 777, -1])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_entry_in_any_block_is_found(bad: float, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_BLOCK_ENTRIES", 64)
    matrix = torch.ones(40, 32, dtype=torch.bfloat16)
    assert views.is_finite(weight(matrix))
    matrix.view(-1)[place] = bad
    assert not views.is_finite(weight(matrix))
    assert not views.is_finite(weight(matrix.double()))
    assert not views.is_finite(weight(matrix.view(-1)))


def test_infinities_that_cancel_are_found() -> None:
    assert not views.is_finite(weight(torch.tensor([[torch.inf, -torch.inf]])))


@pytest.mark.parametrize("tensor", [torch.zeros(0, 3), torch.tensor(2.0), torch.full((9, 9), 3e38)])
def test_what_is_finite(tensor: torch.Tensor) -> None:
    assert views.is_finite(weight(tensor))


def test_squares_that_no_float64_holds_are_told_before_they_are_made() -> None:
    assert views.is_finite(weight(torch.full((4, 4), 1e74, dtype=torch.float64)))
    assert not views.is_finite(weight(torch.full((4, 4), -1e76, dtype=torch.float64)))
