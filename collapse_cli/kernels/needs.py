"""What an analyzer of dumps may need: the accumulators by name, with the roles they are fed.

`moments` is `moments(features)`; a name in brackets gives other roles: `cross_moments(view_a,view_b)`,
`class_moments(features,groups)`, `folds(class_moments(features,labels))`. Equal names are one accumulator.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, final

from collapse_cli.kernels.accumulators import (
    Attempts,
    AttentionMarginals,
    AttentionRows,
    CategoricalPosterior,
    ChannelMoments,
    ClassMoments,
    Counts,
    CrossMoments,
    Extremes,
    Folds,
    GaussianPosterior,
    HeadGram,
    LengthBins,
    LogitColumns,
    LogitRows,
    Moments,
    NearestTraining,
    Quantiles,
    Sample,
    SoftAssignments,
    SoftmaxAbsorption,
    TokenMoments,
    TokenSample,
    TopEntries,
    UnitActivity,
)
from collapse_cli.kernels.attention_visibility import Visibility
from collapse_cli.kernels.batches import STRUCTURED
from collapse_cli.kernels.counts import chosen_experts
from collapse_cli.kernels.reservoir import UNIFORM_ROWS
from collapse_cli.kernels.softmax_absorption import loss_dtype
from collapse_cli.kernels.token_layout import grid_sides, leading_tokens

__all__ = ["Feeding", "Need", "need"]

_NAME = re.compile(r"(\w+)(?:\((.*)\))?")
#: Rows of `samples` and `reference` that are kept: 50,000 would be compared as exactly, and take half an hour.
SET_ROWS: Final = 10_000
#: Bytes of the rows that one sample keeps; long token rows are fewer.
_SAMPLE_BYTES: Final = 1 << 30
_DTYPE_BYTES: Final = re.compile(r"[A-Z]+(\d+)")


@final
@dataclass(frozen=True, slots=True)
class Feeding:
    """What is known of a hook point when its accumulators are made.

    `shapes` and `dtypes` are those of all its roles. `before` are the accumulators that are finished by then: rows of
    `reference` are read after those of `samples`.
    """

    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)


Make = Callable[[tuple[str, ...], Feeding], Any]


@final
@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of accumulator: how one is made, and the roles it is fed when none are given.

    `optional` roles are read with them where a hook point has them. `is_quadratic`: its state grows with the square of
    the columns.
    """

    make: Make
    roles: tuple[str, ...]
    optional: tuple[str, ...] = ()
    is_quadratic: bool = False


def _unit_activity(roles: tuple[str, ...], feeding: Feeding) -> UnitActivity:
    """Sums of both signs are taken where a reader of pre-activations will want them."""
    is_before = feeding.metadata.get("activation", "").strip().lower() == "pre-relu"
    return UnitActivity(*roles, seed=feeding.seed, with_sums=is_before)


def _token_moments(roles: tuple[str, ...], feeding: Feeding) -> TokenMoments:
    leading, grid = leading_tokens(feeding.metadata), grid_sides(feeding.metadata)
    return TokenMoments(*roles, leading=leading, grid=grid, seed=feeding.seed)


def _counts(roles: tuple[str, ...], feeding: Feeding) -> Counts:
    """A router's choices are as many as the metadata says; of other logits only the first counts."""
    return Counts(*roles, chosen=chosen_experts(feeding.metadata) if roles[0] == "router_logits" else 1)


def _attention_rows(roles: tuple[str, ...], feeding: Feeding) -> AttentionRows:
    """Token norms are taken where there are projections that make a bound of them."""
    is_bounded = feeding.shapes.keys() >= {"query_weight", "key_weight", "tokens"}
    return AttentionRows(*roles, visibility=Visibility.of(feeding.metadata), with_tokens=is_bounded)


def _nearest_training(roles: tuple[str, ...], feeding: Feeding) -> NearestTraining:
    """Beside the samples that are finished by then; cosines where the embedding is made for finding copies."""
    is_copy_detector = feeding.metadata.get("embedding", "").strip().lower() == "sscd"
    samples = feeding.before.get("sample(samples)")
    return NearestTraining.of(samples, role=roles[0], with_cosines=is_copy_detector)


_KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        "moments": _Kind(lambda roles, _: Moments(*roles), ("features",), is_quadratic=True),
        "nearest_training": _Kind(_nearest_training, ("reference",)),
        "extremes": _Kind(lambda roles, _: Extremes(*roles), ("features",)),
        "class_moments": _Kind(lambda roles, _: ClassMoments(*roles), ("features", "labels"), is_quadratic=True),
        "cross_moments": _Kind(lambda roles, _: CrossMoments(*roles), ("view_a", "view_b"), is_quadratic=True),
        "counts": _Kind(_counts, ("codes",)),
        "gaussian_posterior": _Kind(
            lambda roles, _: GaussianPosterior(*roles),
            ("mu", "logvar"),
            ("prior_mu", "prior_logvar"),
            is_quadratic=True,
        ),
        "categorical_posterior": _Kind(
            lambda roles, _: CategoricalPosterior(*roles), ("latent_logits", "prior_logits")
        ),
        "unit_activity": _Kind(_unit_activity, ("sparse",), ("mask",)),
        "attention_rows": _Kind(_attention_rows, ("attention",), ("mask", "tokens")),
        "attention_marginals": _Kind(
            lambda roles, feeding: AttentionMarginals(*roles, visibility=Visibility.of(feeding.metadata)),
            ("attention",),
            ("mask",),
        ),
        "head_gram": _Kind(
            lambda roles, feeding: HeadGram(*roles, visibility=Visibility.of(feeding.metadata)),
            ("attention",),
            ("mask",),
        ),
        "attempts": _Kind(lambda roles, _: Attempts(*roles), ("correct",)),
        "logit_columns": _Kind(lambda roles, _: LogitColumns(*roles), ("router_logits",), is_quadratic=True),
        "logit_rows": _Kind(lambda roles, _: LogitRows(*roles), ("logits",), ("labels", "groups")),
        "soft_assignments": _Kind(lambda roles, _: SoftAssignments(*roles), ("assignments",)),
        "softmax_absorption": _Kind(
            lambda roles, feeding: SoftmaxAbsorption(loss_dtype(feeding.metadata, feeding.dtypes), *roles),
            ("logits",),
            ("labels", "features"),
        ),
        "token_moments": _Kind(_token_moments, ("tokens",), ("mask", "token_labels")),
        "token_sample": _Kind(lambda roles, feeding: TokenSample(*roles, seed=feeding.seed), ("tokens",), ("mask",)),
        "length_bins": _Kind(lambda roles, _: LengthBins(*roles), ("features", "lengths")),
        "quantiles": _Kind(lambda roles, _: Quantiles(*roles), ("features",), ("mask",)),
        "top_entries": _Kind(lambda roles, _: TopEntries(*roles), ("features",), ("mask",)),
        "channel_moments": _Kind(lambda roles, _: ChannelMoments(*roles), ("features",), ("mask",)),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Need:
    """One accumulator an analyzer declared: the roles it must be fed, those it also reads, and how one is made."""

    name: str
    roles: tuple[str, ...]
    make: Callable[[Feeding], Any]
    optional: tuple[str, ...] = ()
    is_quadratic: bool = False


def need(name: str) -> Need:
    """The accumulator that a name means.

    Raises:
        ValueError: there is none of that name: a bug of the analyzer.
    """
    match = _NAME.fullmatch(name.replace(" ", ""))
    kind, given = (match[1], match[2]) if match else ("", None)
    if kind == "sample":
        roles = tuple(given.split(",")) if given else ("features",)
        # rows travel with every role that is read, so the sample demands only what it is asked for
        return Need(name, roles, lambda feeding: _sample(roles, feeding))
    if kind == "folds" and given:
        return _folds(name, given)
    if kind not in _KINDS:
        raise ValueError(f"no accumulator is named {name!r}; there are sample, folds, {', '.join(_KINDS)}")
    found = _KINDS[kind]
    chosen = tuple(given.split(",")) if given else found.roles
    return Need(name, chosen, lambda feeding: found.make(chosen, feeding), found.optional, found.is_quadratic)


def _folds(name: str, given: str) -> Need:
    """`folds(moments)`, or `folds(moments,by=groups)`: rows of one group stay together where there are groups."""
    what, _, by = given.partition(",by=")
    inner = need(what)

    def make(feeding: Feeding) -> Any:
        together = by if by in feeding.shapes else None
        return Folds(lambda: inner.make(feeding), seed=feeding.seed, by=together)

    return Need(name, inner.roles, make, (*inner.optional, *((by,) if by else ())), inner.is_quadratic)


def _sample(roles: tuple[str, ...], feeding: Feeding) -> Sample:
    """A sample without the long roles that nobody asked it for, of so many rows as a GiB holds."""
    without = STRUCTURED - frozenset(roles)
    row_bytes = sum(
        _row_bytes(shape, feeding.dtypes.get(role, "F64"))
        for role, shape in feeding.shapes.items()
        if role not in without
    )
    most = SET_ROWS if roles[0] in ("samples", "reference") else UNIFORM_ROWS
    rows = max(1, min(most, _SAMPLE_BYTES // max(1, row_bytes)))
    return Sample(seed=feeding.seed, rows=rows, without=without)


def _row_bytes(shape: tuple[int, ...], dtype: str) -> int:
    match = _DTYPE_BYTES.match(dtype)
    total = int(match[1]) // 8 if match else 1
    for side in shape[1:]:
        total *= side
    return max(1, total)
