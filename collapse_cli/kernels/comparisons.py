"""What an analyzer of pairs, pools and runs is handed: one site in several checkpoints or dumps, or their reports."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

from collapse_cli.core.site import Site
from collapse_cli.kernels.views import Activations, Weight, site_generator

if TYPE_CHECKING:
    import torch

    from collapse_cli.core.metric import Metric
    from collapse_cli.core.report import Subject

__all__ = ["ActivationSeries", "Comparison", "Model", "Run"]

T = TypeVar("T")


@final
class Comparison:
    """The same effective weight in two or more checkpoints, all of one shape.

    A pair is before and after; a pool is a base and its descendants, unordered (`base` is None where there is none);
    a series is ordered, with a step for each member; `kind` says which it is. `labels` name the members as reports do.
    """

    def __init__(
        self,
        site: Site,
        members: tuple[Weight, ...],
        *,
        labels: tuple[str, ...],
        steps: tuple[float, ...] = (),
        has_base: bool = True,
        kind: Literal["pair", "pool", "series"] = "pair",
        seed: int = 0,
    ) -> None:
        self.site, self.members, self.labels, self.kind, self.seed = site, members, labels, kind, seed
        self.steps, self.has_base = steps or tuple(float(place) for place in range(len(labels))), has_base
        self._memo: dict[Callable[[Comparison], Any], Any] = {}

    @property
    def before(self) -> Weight:
        """The first member."""
        return self.members[0]

    @property
    def after(self) -> Weight:
        """The last member."""
        return self.members[-1]

    @property
    def base(self) -> Weight | None:
        """What the others descend from, if that is known."""
        return self.members[0] if self.has_base else None

    @property
    def descendants(self) -> tuple[Weight, ...]:
        """The members without the base."""
        return self.members[1:] if self.has_base else self.members

    def generator(self) -> "torch.Generator":
        """A fresh CPU generator that depends on the run's seed and the site alone, so that order never matters."""
        return site_generator(self.seed, self.site)

    def get(self, quantity: "Callable[[Comparison], T]") -> T:
        """`quantity(self)`, computed once; it outlives the tensors, so it should be small."""
        if quantity not in self._memo:
            self._memo[quantity] = quantity(self)
        result: T = self._memo[quantity]
        return result

    def release(self) -> None:
        """Drop the tensors; what was computed with `get` stays."""
        self.members = ()


@final
class Model:
    """All sites of a comparison together, when each was shown: their tensors are gone, what `get` computed is not.

    `site.name` is `#model`. A part for which a quantity was never computed is not among `parts_with` it.
    """

    def __init__(self, site: Site, parts: tuple[Comparison, ...], *, labels: tuple[str, ...]) -> None:
        self.site, self.parts, self.labels = site, parts, labels

    def parts_with(self, quantity: Callable[[Comparison], T]) -> tuple[tuple[Comparison, T], ...]:
        """The sites for which that quantity was computed, and its values, in source order."""
        return tuple((part, part.get(quantity)) for part in self.parts if quantity in part._memo)


@final
class ActivationSeries:
    """One hook point in an ordered run of dumps; rows of different members are not paired unless `ids` say so."""

    def __init__(
        self,
        site: Site,
        members: tuple[Activations, ...],
        *,
        labels: tuple[str, ...],
        steps: tuple[float, ...],
        seed: int = 0,
    ) -> None:
        self.site, self.members, self.labels, self.steps, self.seed = site, members, labels, steps, seed

    def generator(self) -> "torch.Generator":
        """A fresh CPU generator that depends on the run's seed and the site alone, so that order never matters."""
        return site_generator(self.seed, self.site)


@final
class Run:
    """An ordered run as its reports tell it: one measured subject for each member, its step, and its free metadata.

    `site.name` is `#run`. `metrics` are the declarations behind the measurements by rule, `<analyzer>/<metric>`.
    `metadata` is empty where the members are known by their reports alone.
    """

    def __init__(
        self,
        site: Site,
        members: "tuple[Subject, ...]",
        *,
        labels: tuple[str, ...],
        steps: tuple[float, ...],
        metrics: "Mapping[str, Metric] | None" = None,
        metadata: tuple[Mapping[str, str], ...] = (),
    ) -> None:
        self.site, self.members, self.labels, self.steps = site, members, labels, steps
        self.metrics, self.metadata = dict(metrics or {}), metadata
