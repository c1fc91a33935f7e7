"""How many units a classifier needs for what it puts out, by really removing or merging them. No kind of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["linears", "needed_after_merging", "needed_after_removal", "rectifiers", "varied"]

#: Change of a held-out logit in units of their standard deviation; predictions alone would hang on the closest call.
_TOLERATED = 0.01
#: What becomes of the outputs of each layer.
_Change = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def needed_after_removal(model: nn.Module, layers: Sequence[nn.Module], x: Tensor, held_x: Tensor) -> float:
    """Share of units left when the least varying on `x` give way to their mean as long as the held-out logits stay.

    `layers` put out the units: rows × units, or rows × channels × places.
    """
    outputs = [_by_unit(output) for output in _outputs(model, layers, x)]
    means = [output.mean(0) for output in outputs]
    order = torch.cat([output.std(0) for output in outputs]).argsort(stable=True)
    sizes = [mean.numel() for mean in means]

    def change(removed: int) -> _Change:
        gone = torch.zeros(len(order), dtype=torch.bool)
        gone[order[:removed]] = True
        masks = gone.split(sizes)
        return lambda place, output: torch.where(_across(masks[place], output), _across(means[place], output), output)

    return 1 - _longest(model, layers, held_x, change, len(order)) / len(order)


@torch.no_grad()
def needed_after_merging(model: nn.Module, layers: Sequence[nn.Module], x: Tensor, held_x: Tensor) -> float:
    """Share of units left when those most alike on `x`, up to scale, give way as long as the held-out logits stay."""
    partners, scales, likeness = zip(*(_partners(output) for output in _outputs(model, layers, x)), strict=True)
    order = torch.cat(likeness).argsort(descending=True, stable=True)
    sizes = [one.numel() for one in likeness]

    def change(merged: int) -> _Change:
        gone = torch.zeros(len(order), dtype=torch.bool)
        gone[order[:merged]] = True
        masks = gone.split(sizes)

        def changed(place: int, output: Tensor) -> Tensor:
            output = output.clone()
            for unit in masks[place].nonzero().flatten().tolist():
                output[:, unit] = scales[place][unit] * output[:, partners[place][unit]]
            return output

        return changed

    return 1 - _longest(model, layers, held_x, change, len(order) - len(layers)) / len(order)


def linears(model: nn.Module) -> list[nn.Linear]:
    """Its linear layers in their order, the head last."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def rectifiers(model: nn.Module) -> list[nn.Module]:
    """The layers that put out the units of a network with ReLU."""
    return [module for module in model.modules() if isinstance(module, nn.ReLU)]


def varied(x: Tensor) -> Tensor:
    """Which pixels vary over the images; the others teach a weight nothing."""
    return x.var(0) > 1e-3


def _outputs(model: nn.Module, layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _module, _given, output: found.append(output)) for layer in layers]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def _by_unit(output: Tensor) -> Tensor:
    return output.transpose(0, 1).flatten(1).T


def _across(by_unit: Tensor, output: Tensor) -> Tensor:
    return by_unit.view(1, -1, *[1] * (output.dim() - 2))


def _partners(output: Tensor) -> tuple[list[int], list[float], Tensor]:
    """Of every unit the earlier one most like it, the factor between them, and their cosine; the silent come first."""
    norms = output.norm(dim=0)
    unit = output / norms.clamp_min(1e-12)
    cosine = (unit.T @ unit).tril(-1) + torch.full((len(norms),) * 2, -2.0).triu()
    likeness, partner = cosine.max(1)
    scale = norms / norms[partner].clamp_min(1e-12)
    silent = norms == 0
    return partner.tolist(), torch.where(silent, 0.0, scale).tolist(), torch.where(silent, 2.0, likeness)


def _longest(
    model: nn.Module, layers: Sequence[nn.Module], held_x: Tensor, change: Callable[[int], _Change], most: int
) -> int:
    """How many units can go, by bisection."""
    meant = model(held_x)
    tolerated = _TOLERATED * float(meant.std())

    def holds(count: int) -> bool:
        changed = change(count)
        hooks = [
            layer.register_forward_hook(lambda _module, _given, output, place=place: changed(place, output))
            for place, layer in enumerate(layers)
        ]
        is_same = float((model(held_x) - meant).abs().max()) <= tolerated
        for hook in hooks:
            hook.remove()
        return is_same

    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
