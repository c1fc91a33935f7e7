"""Sides on attention that is made as it is needed: the analyzers of it, and one pass of a·log a over the same maps.

Maps are softmaxes of seeded Gaussian logits, turned anew for every sequence and sharper from layer to layer; making
them is not timed, and only one sequence is in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Figures = dict[str, dict[str, float]]

#: What is measured of one layer, all in one pass.
ANALYZERS = ("attention-entropy", "attention-information", "head-similarity", "attention-sink")


def attention_analyzers(layers: int, samples: int, heads: int, tokens: int, is_causal: bool) -> Callable[[], Figures]:
    """The accumulators that a dump's hook points are fed to, sequence after sequence, and the analyzers of them."""
    from collapse_cli.analyzers import catalogue
    from collapse_cli.core.metric import Measurement
    from collapse_cli.core.site import Role, Site
    from collapse_cli.kernels.batches import Batch
    from collapse_cli.kernels.needs import Feeding, need
    from collapse_cli.kernels.views import Activations

    analyzers = [one for one in catalogue(plugins=False).analyzers if one.name in ANALYZERS]
    needs = {name: need(name) for one in analyzers for name in one.needs}
    shape = (samples, heads, tokens, tokens)
    metadata = {"causal": "true"} if is_causal else {}

    def layer(number: int, maps: Iterator[Tensor]) -> tuple[float, dict[str, float]]:
        seconds, row = 0.0, 0
        made = {name: one.make(Feeding(metadata=metadata, shapes={"attention": shape})) for name, one in needs.items()}
        for one in maps:
            started = time.perf_counter()
            for block in Batch({"attention": one}, start=row).blocks():
                for accumulator in made.values():
                    accumulator.update(block)
            seconds, row = seconds + time.perf_counter() - started, row + len(one)
        started = time.perf_counter()
        site = Site(f"layer.{number}", shape, "F32", number, Role.ACTIVATION)
        point = Activations(
            site,
            made,
            shapes={"attention": shape},
            dtypes={"attention": "F32"},
            metadata=metadata,
            rows=row,
            finite_rows=row,
        )
        found = {m.metric: m.value for analyzer in analyzers for m in analyzer.run(point) if isinstance(m, Measurement)}
        return seconds + time.perf_counter() - started, found

    layer(0, _maps(0, samples=2, heads=2, tokens=32, is_causal=is_causal))

    def run() -> Figures:
        timed = [
            layer(number, _maps(number, samples=samples, heads=heads, tokens=tokens, is_causal=is_causal))
            for number in range(layers)
        ]
        seconds = {"seconds": sum(spent for spent, _ in timed)}
        return {"time": seconds, **{f"layer.{number}": found for number, (_, found) in enumerate(timed)}}

    return run


def attention_floor(layers: int, samples: int, heads: int, tokens: int, is_causal: bool) -> Callable[[], Figures]:
    """One pass of `(a * a.log()).sum(-1)` in the stored format over the same maps."""

    def run() -> Figures:
        seconds = 0.0
        for number in range(layers):
            for one in _maps(number, samples=samples, heads=heads, tokens=tokens, is_causal=is_causal):
                started = time.perf_counter()
                (one * one.log()).sum(-1)
                seconds += time.perf_counter() - started
        return {"time": {"seconds": seconds}}

    return run


def _maps(layer: int, *, samples: int, heads: int, tokens: int, is_causal: bool) -> Iterator[Tensor]:
    import torch

    logits = torch.randn(1, heads, tokens, tokens, generator=torch.Generator().manual_seed(0))
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    for sample in range(samples):
        turned = logits.roll((sample, layer), (1, 2)).mul_(0.5 + layer / 8)
        if is_causal:
            turned.masked_fill_(hidden, -torch.inf)
        yield turned.softmax(-1)
