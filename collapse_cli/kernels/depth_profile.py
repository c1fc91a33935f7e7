"""A quantity along the depth of a model: which layer each hook point is, and the series as evidence."""

from collections.abc import Sequence
from dataclasses import replace

from collapse_cli.core.metric import Measurement
from collapse_cli.core.roles import OUTPUT
from collapse_cli.kernels.views import Activations

__all__ = ["layer_indices", "ordered", "with_series"]

#: Points of a curve in evidence.
_LONGEST = 128


def ordered(points: Sequence[Activations]) -> tuple[Activations, ...]:
    """The hook points whose depth is known: those with a layer number, and the output behind them."""
    return tuple(point for point in points if point.site.layer is not None or point.site.name == OUTPUT)


def layer_indices(points: Sequence[Activations]) -> list[int]:
    """The layer of each hook point, the output one behind the last; their places where numbers lack or repeat."""
    layers = [point.site.layer for point in points]
    if len(layers) > 1 and layers[-1] is None and layers[-2] is not None:
        layers[-1] = layers[-2] + 1
    numbered = [layer for layer in layers if layer is not None]
    is_usable = len(numbered) == len(points) and len(set(numbered)) == len(points)
    return numbered if is_usable else list(range(len(points)))


def with_series(
    measurement: Measurement, layers: Sequence[int], values: Sequence[float], sites: Sequence[str]
) -> Measurement:
    """The measurement with `layer`, `value`, `sites` as evidence: 128 evenly spaced points at most, both ends kept."""
    count = len(layers)
    chosen = range(count) if count <= _LONGEST else [round(i * (count - 1) / (_LONGEST - 1)) for i in range(_LONGEST)]
    curve = {
        "layer": [layers[i] for i in chosen],
        "value": [float(values[i]) for i in chosen],
        "sites": [sites[i] for i in chosen],
    }
    return replace(measurement, evidence=measurement.evidence | curve)
