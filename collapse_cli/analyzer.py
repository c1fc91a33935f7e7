"""An analyzer: a declaration plus one pure generator function. This module is all that an analyzer file needs.

```python
@weight_analyzer(name="stable-rank", family="spectrum", title="Stable rank", metrics=(STABLE_RANK,),
                 accepts=on.matrices(8), remedy="…", references=(Reference("…", "https://…"),),
                 examples={"healthy": healthy, "collapsed": collapsed})
def stable_rank(weight: Weight) -> Iterator[Measurement | Skip]:
    ...
```

It imports without torch: views are only named in annotations, mathematics is reached through `collapse_cli.kernels`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from collapse_cli.core.manual import Confidence, Manual, Reference
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Role, Site

__all__ = [
    "CHECKPOINT_VIEWS",
    "DUMP_VIEWS",
    "Acceptance",
    "Analyzer",
    "Example",
    "Limit",
    "Measurement",
    "Metric",
    "Reference",
    "Role",
    "Skip",
    "activation_analyzer",
    "activation_pair_analyzer",
    "activation_series_analyzer",
    "block_analyzer",
    "checkpoint_analyzer",
    "layers_analyzer",
    "on",
    "pair_analyzer",
    "pool_analyzer",
    "run_analyzer",
    "series_analyzer",
    "skip",
    "stored_analyzer",
    "weight_analyzer",
]

ViewKind = Literal[
    "stored",
    "weight",
    "block",
    "checkpoint",
    "activations",
    "layers",
    "pair",
    "pool",
    "series",
    "activation_pair",
    "activation_series",
    "run",
]
Measure = Callable[[Any], Iterator[Measurement | Skip]]


def skip(site: str, reason: str) -> Skip:
    """A stated non-application; the analyzer's name is filled in by the analyzer."""
    return Skip(None, site, reason)


@final
@dataclass(frozen=True, slots=True)
class Acceptance:
    """Which views an analyzer takes, decided from headers alone, and the same in words.

    Weight and stored analyzers are asked with the site; block analyzers with the block's site and the roles it has;
    activation and layers analyzers with the hook point's roles: `dump_roles` must be there, and where there are
    `alternatives` all of at least one of them;
    checkpoint analyzers with no site at all, and `is_accepted` then says which stored tensors they want hashed.
    """

    says: str
    is_accepted: Callable[[Site], bool]
    roles: frozenset[Role] = frozenset()
    dump_roles: frozenset[str] = frozenset()
    alternatives: tuple[frozenset[str], ...] = ()

    def takes(self, offered: Collection[str]) -> bool:
        """Whether a hook point that offers those roles is accepted."""
        has = set(offered)
        return self.dump_roles <= has and (not self.alternatives or any(one <= has for one in self.alternatives))

    def named_roles(self) -> frozenset[str]:
        """Every role of a dump that is accepted for."""
        return self.dump_roles.union(*self.alternatives)


@final
@dataclass(frozen=True, slots=True)
class Example:
    """A tiny checkpoint in memory: stored tensors by name (numpy arrays or torch tensors) and a configuration.

    `shards` maps shard file to the tensors it holds, `index` tensor to shard file, for analyzers of the layout;
    `adapter` is `adapter_config.json`; `optimizer` are `sources.base.OptimizerGroup`s; `intent` is declared when the
    example is judged. With `metadata` (it may be empty) the tensors are the arrays of a dump, `<site>/<role>`.
    `others` are the further members of a pair, a pool or a series, `steps` their steps; `subjects` are the measured
    `Subject`s of a run.
    """

    tensors: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    optimizer: tuple[Any, ...] = ()
    shards: Mapping[str, tuple[str, ...]] | None = None
    index: Mapping[str, str] | None = None
    intent: str | None = None
    metadata: Mapping[str, str] | None = None
    others: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[float, ...] = ()
    subjects: tuple[Any, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Analyzer:
    """One analyzer: its manual, what it accepts, and the function that measures.

    `companions`, for a weight analyzer: blocks it also wants to see, for what one weight does not show; the function is
    then handed a `Block` as well as each `Weight`. `unmoved_by` names the transformations (of
    `tests/contract/transformations.py`) that must not move any of its
    `unmoved_metrics` (all of them if empty). `reads_non_finite`: it is also shown tensors with NaN or inf in them.
    `tolerance` is the relative error allowed between dtypes and devices. Of an analyzer of dumps, `needs` are the
    accumulators it reads (`moments`, `class_moments(features,groups)`, see `kernels/needs.py`) and `uses` the roles it
    reads where they are there, beyond those its acceptance demands.

    Of an analyzer of pairs, pools or series: `also` names further kinds of views that its function takes (a pair of
    weights, and with `companions` a pair of dumps); with `sums_up` it is handed the `Model` when all sites were shown.
    """

    manual: Manual
    view: ViewKind
    acceptance: Acceptance
    measure: Measure
    examples: Mapping[str, Callable[[], Example]]
    companions: Acceptance | None = None
    unmoved_by: tuple[str, ...] = ()
    unmoved_metrics: tuple[str, ...] = ()
    reads_non_finite: bool = False
    tolerance: float = 1e-3
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    also: tuple[ViewKind, ...] = ()
    sums_up: bool = False

    @property
    def name(self) -> str:
        """`effective-rank`."""
        return self.manual.name

    def run(self, view: Any) -> Iterator[Measurement | Skip]:
        """What the function yields, under the analyzer's name.

        Raises:
            ValueError: a metric that is not declared, or one yielded twice for a site: a bug of the analyzer.
        """
        declared = {metric.name for metric in self.manual.metrics}
        seen: set[tuple[str, str]] = set()
        for result in self.measure(view):
            if isinstance(result, Measurement):
                key = (result.metric, result.site)
                if result.metric not in declared or key in seen:
                    raise ValueError(f"{self.name} yields {result.metric} at {result.site}: not declared, or twice")
                seen.add(key)
            yield replace(result, analyzer=self.name)


def _declaration(view: ViewKind) -> Callable[..., Callable[[Measure], Analyzer]]:
    def declare(  # noqa: PLR0913 - the fields of the declaration, all by keyword
        *,
        name: str,
        family: str,
        title: str,
        metrics: tuple[Metric, ...],
        accepts: Acceptance,
        remedy: str,
        references: tuple[Reference, ...],
        examples: Mapping[str, Callable[[], Example]],
        confidence: Confidence = "established",
        companions: Acceptance | None = None,
        unmoved_by: tuple[str, ...] = (),
        unmoved_metrics: tuple[str, ...] = (),
        reads_non_finite: bool = False,
        tolerance: float = 1e-3,
        needs: tuple[str, ...] = (),
        uses: tuple[str, ...] = (),
        also: tuple[ViewKind, ...] = (),
        sums_up: bool = False,
    ) -> Callable[[Measure], Analyzer]:
        def decorate(measure: Measure) -> Analyzer:
            import inspect

            text = inspect.getdoc(measure) or ""
            manual = Manual(
                name, family, title, confidence, text, metrics, remedy, references, view=view, accepts=accepts.says
            )
            return Analyzer(
                manual,
                view,
                accepts,
                measure,
                examples,
                companions,
                unmoved_by,
                unmoved_metrics,
                reads_non_finite,
                tolerance,
                needs,
                uses,
                also,
                sums_up,
            )

        return decorate

    return declare


#: An analyzer of one stored tensor, any shape and dtype, nothing dequantised or split. It is handed a `Stored`.
stored_analyzer = _declaration("stored")
#: An analyzer of one effective weight. It is handed a `Weight`.
weight_analyzer = _declaration("weight")
#: An analyzer of the weights of one module. It is handed a `Block`.
block_analyzer = _declaration("block")
#: An analyzer of the checkpoint as a whole. It is handed an `Inventory` when everything else was read.
checkpoint_analyzer = _declaration("checkpoint")

#: An analyzer of one hook point of a dump. It is handed an `Activations`: its `needs` are fed once per batch.
activation_analyzer = _declaration("activations")
#: An analyzer of several hook points in depth order. It is handed a `Layers`.
layers_analyzer = _declaration("layers")

#: An analyzer of one weight before and after. It is handed a `Comparison` of two.
pair_analyzer = _declaration("pair")
#: An analyzer of one weight in a base and its descendants. It is handed a `Comparison`.
pool_analyzer = _declaration("pool")
#: An analyzer of one weight over an ordered run of checkpoints. It is handed a `Comparison` with steps.
series_analyzer = _declaration("series")
#: An analyzer of one hook point in two dumps of the same rows. It is handed an `Activations`, in which the roles of the
#: second dump are called `after.features`, `after.logits`, …
activation_pair_analyzer = _declaration("activation_pair")
#: An analyzer of one hook point over an ordered run of dumps. It is handed an `ActivationSeries`.
activation_series_analyzer = _declaration("activation_series")
#: An analyzer of the reports of an ordered run. It is handed a `Run`.
run_analyzer = _declaration("run")

#: Views of one checkpoint, and of one dump: what `scan` shows.
CHECKPOINT_VIEWS = frozenset({"stored", "weight", "block", "checkpoint"})
DUMP_VIEWS = frozenset({"activations", "layers"})

#: Roles of tensors that multiply, so that a matrix of numbers is a weight and not a table of statistics.
_MULTIPLIES = frozenset(
    {
        Role.EMBEDDING,
        Role.POSITION,
        Role.HEAD,
        Role.ATTENTION_Q,
        Role.ATTENTION_K,
        Role.ATTENTION_V,
        Role.ATTENTION_O,
        Role.MLP_IN,
        Role.MLP_GATE,
        Role.MLP_OUT,
        Role.CONV,
        Role.LINEAR,
        Role.ROUTER,
        Role.EXPERT_IN,
        Role.EXPERT_GATE,
        Role.EXPERT_OUT,
        Role.CODEBOOK,
        Role.CODEBOOK_PROJECTION,
        Role.SSM_B,
        Role.SSM_C,
        Role.SSM_DT,
        Role.OTHER,
    }
)


def sides(shape: Iterable[int]) -> tuple[int, int]:
    """Rows and columns of the effective matrix of a tensor of that shape."""
    first, *rest = shape if (shape := tuple(shape)) else (1,)
    columns = 1
    for side in rest:
        columns *= side
    return (first, columns) if rest else (1, first)


class on:  # noqa: N801 - a namespace that reads as a phrase: accepts=on.matrices(8)
    """Acceptances with names, so that `explain` can say them."""

    @staticmethod
    def matrices(
        min_side: int = 1,
        *,
        min_entries: int = 1,
        roles: frozenset[Role] = _MULTIPLIES,
        but: frozenset[Role] = frozenset(),
    ) -> Acceptance:
        """Floating weights of two axes or more whose folded matrix has both sides ≥ `min_side`."""
        wanted = roles - but

        def is_accepted(site: Site) -> bool:
            if not site.is_floating or len(site.shape) < 2 or site.role not in wanted:
                return False
            return min(sides(site.shape)) >= min_side and site.numel >= min_entries

        says = f"weight matrices with both sides ≥ {min_side}" if min_side > 1 else "weight matrices"
        if min_entries > 1:
            says += f" and at least {min_entries} entries"
        if but:
            says += " (not " + ", ".join(sorted(but)) + ")"
        return Acceptance(says, is_accepted)

    @staticmethod
    def weights(*roles: Role, says: str, min_rows: int = 1) -> Acceptance:
        """Floating weights of the given roles with at least `min_rows` rows."""
        wanted = frozenset(roles)

        def is_accepted(site: Site) -> bool:
            return site.is_floating and site.role in wanted and bool(site.shape) and site.shape[0] >= min_rows

        return Acceptance(says, is_accepted, wanted)

    @staticmethod
    def floating(*, min_entries: int = 0) -> Acceptance:
        """Every floating tensor with at least `min_entries` entries, buffers and optimizer state included."""

        def is_accepted(site: Site) -> bool:
            return site.is_floating and site.numel >= min_entries

        return Acceptance("floating tensors" + (f" with ≥ {min_entries} entries" if min_entries else ""), is_accepted)

    @staticmethod
    def block(kinds: str | tuple[str, ...], *roles: Role, says: str) -> Acceptance:
        """Blocks of a kind (`attention`, `mlp`, `expert`, …) or of several that have every one of `roles`."""
        wanted = (kinds,) if isinstance(kinds, str) else kinds
        return Acceptance(says, lambda site: site.role.kind in wanted, frozenset(roles))

    @staticmethod
    def points(*roles: str, says: str, any_of: tuple[tuple[str, ...], ...] = ()) -> Acceptance:
        """Hook points of a dump that have every one of the roles, and all the roles of one of the alternatives."""
        alternatives = tuple(frozenset(one) for one in any_of)
        return Acceptance(says, lambda _site: True, dump_roles=frozenset(roles), alternatives=alternatives)

    @staticmethod
    def runs(says: str) -> Acceptance:
        """Ordered runs of reports."""
        return Acceptance(says, lambda _site: True)

    @staticmethod
    def checkpoint(says: str, hashed: Callable[[Site], bool] = lambda _site: False) -> Acceptance:
        """The whole checkpoint; `hashed` says whose content hash is needed (these tensors are read)."""
        return Acceptance(says, hashed)
