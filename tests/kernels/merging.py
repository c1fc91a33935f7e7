"""Split the rows anywhere, feed the parts, merge in any order, and it is the whole: for every accumulator."""

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from collapse_cli.kernels.accumulators import Batch


def readings(accumulator: Any) -> dict[str, Any]:
    """Every public number, tensor and mapping of numbers that can be read."""
    names = [name for name in dir(accumulator) if not name.startswith("_")]
    found = {name: getattr(accumulator, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, int | float | Tensor | dict)}


def assert_is_the_whole(
    make: Callable[[], Any],
    roles: Mapping[str, Tensor],
    *,
    read: Callable[[Any], dict[str, Any]] = readings,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> None:
    """Feeding at once, in batches, and in merged parts (some empty, out of order) reads the same."""
    count = next(iter(roles.values())).shape[0]
    whole = make()
    whole.update(Batch(roles))
    expected = read(whole)
    assert expected, "nothing can be read of it"
    draw = random.Random(7)
    for parts in (1, 2, 3, 5, count):
        edges = [0, *sorted(draw.randint(0, count) for _ in range(parts - 1)), count]
        batches = [
            Batch({role: tensor[a:b] for role, tensor in roles.items()}, start=a) for a, b in itertools.pairwise(edges)
        ]
        streamed, merged = make(), make()
        for batch in batches:
            streamed.update(batch)
        for batch in draw.sample(batches, len(batches)):
            part = make()
            part.update(batch)
            merged.merge(part)
        merged.merge(make())
        for found in (read(streamed), read(merged)):
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                _assert_close(found[name], value, name, rtol=rtol, atol=atol)


def _assert_close(found: Any, expected: Any, name: str, *, rtol: float, atol: float) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            _assert_close(found[key], value, f"{name}[{key}]", rtol=rtol, atol=atol)
        return
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}"
    )
