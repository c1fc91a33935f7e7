"""Fused projections → rows of their parts: where q, k and v, or gate and in, lie along the output axis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeadCounts", "Rows", "head_counts", "parts_of", "scoped"]

_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "nhead", "attention_heads", "heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "kv_n_heads", "num_query_groups")
_HEAD_DIM = ("head_dim", "d_kv", "kv_channels", "d_head", "dim_head")
_NESTED = ("hyper_parameters", "model_args", "args", "attn_config")
_TEXT = ("text_config", "llm_config", "language_config")
_QUERY, _KEY, _VALUE = Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one part: the output axis is cut into `groups` equal runs, of each the rows `start … start + length`."""

    groups: int
    start: int
    length: int

    @property
    def total(self) -> int:
        """Number of rows."""
        return self.groups * self.length

    def of(self, tensor: "Tensor") -> "Tensor":
        """The rows of that part; a view unless the part is scattered over runs of several rows."""
        if self.groups == 1:
            return tensor[self.start : self.start + self.length]
        width = tensor.shape[0] // self.groups
        if self.length == 1:
            return tensor[self.start :: width]
        rest = tensor.shape[1:]
        runs = tensor.reshape(self.groups, width, *rest)[:, self.start : self.start + self.length]
        return runs.reshape(self.total, *rest)


@final
@dataclass(frozen=True, slots=True)
class HeadCounts:
    """Query heads, key/value heads and width of a head as far as the configuration says."""

    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None


def scoped(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The part of a configuration that speaks of a tensor: `vision_config` for `vision_model.…`, and so on."""
    nested = [config[key] for key in _NESTED if isinstance(config.get(key), Mapping)]
    whole = {key: value for one in [*nested, config] for key, value in one.items()}
    path = [part for part in name.split(".") if not part.isdigit()]
    text = next((config[key] for key in _TEXT if isinstance(config.get(key), Mapping)), None)
    for words, key in ((("vision", "visual", "image"), "vision_config"), (("audio", "speech"), "audio_config")):
        if any(part.startswith(words) for part in path):
            own = config.get(key)
            if isinstance(own, Mapping):
                return own
            return {} if text is not None else whole
    side = next(
        (part for part in path if part in {"encoder", "decoder"} and isinstance(config.get(part), Mapping)), None
    )
    if side is not None:
        return dict(config[side])
    return whole if text is None else {**whole, **text}


def head_counts(config: Mapping[str, Any], name: str) -> HeadCounts:
    """What the configuration says of the attention a tensor belongs to; nothing is assumed."""
    own = scoped(config, name)
    path = name.split(".")
    sided = tuple(f"{side}_attention_heads" for side in ("decoder", "encoder") if side in path)
    heads = _first(own, (*sided, *_HEADS))
    kv_heads = _first(own, _KV_HEADS)
    if own.get("multi_query_attention"):
        kv_heads = _first(own, ("multi_query_group_num",)) or kv_heads
    if own.get("multi_query") and not own.get("new_decoder_architecture"):
        # Falcon-7B and GPT-BigCode share one key and value head, whatever the unused num_kv_heads says
        kv_heads = 1
    return HeadCounts(heads, kv_heads, _first(own, _HEAD_DIM))


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def parts_of(placement: Placement, *, rows: int, columns: int | None, counts: HeadCounts) -> tuple[Rows, ...] | None:
    """Rows of each fused part in storage order, None where the layout is unknown. `columns`: inputs of the weight."""
    fused = placement.fused
    if placement.fused_order == "interleaved":
        return None if rows % len(fused) else tuple(Rows(rows // len(fused), i, 1) for i in range(len(fused)))
    if placement.fused_order == "by_kind":
        sizes = _sizes(fused, rows=rows, columns=columns, counts=counts)
        return None if sizes is None else _in_runs(1, sizes)
    if placement.fused_order == "by_head":
        return _by_head(fused, rows=rows, columns=columns, counts=counts)
    return None


def _in_runs(groups: int, sizes: tuple[int, ...]) -> tuple[Rows, ...]:
    return tuple(Rows(groups, sum(sizes[:index]), size) for index, size in enumerate(sizes))


def _sizes(fused: tuple[Role, ...], *, rows: int, columns: int | None, counts: HeadCounts) -> tuple[int, ...] | None:
    resolved = _resolved(fused, rows=rows, columns=columns, counts=counts)
    if resolved is not None:
        heads, kv_heads, head_dim = resolved
        return tuple((heads if role is _QUERY else kv_heads) * head_dim for role in fused)
    equal = (rows // len(fused),) * len(fused)
    if rows % len(fused):
        return None
    # gate and in, key and value always have the same size; with a query only the square case is beyond doubt
    if set(fused) == {_KEY, _VALUE} or not any(role.kind == "attention" for role in fused):
        return equal
    is_square = columns is not None and rows == len(fused) * columns
    return equal if is_square and all(role.kind == "attention" for role in fused) else None


def _by_head(fused: tuple[Role, ...], *, rows: int, columns: int | None, counts: HeadCounts) -> tuple[Rows, ...] | None:
    resolved = _resolved(fused, rows=rows, columns=columns, counts=counts)
    if resolved is None:
        return None
    heads, kv_heads, head_dim = resolved
    return _in_runs(kv_heads, tuple((heads // kv_heads if role is _QUERY else 1) * head_dim for role in fused))


def _resolved(
    fused: tuple[Role, ...], *, rows: int, columns: int | None, counts: HeadCounts
) -> tuple[int, int, int] | None:
    """Heads, key/value heads and width of a head that account for every row, or None."""
    queries, others = fused.count(_QUERY), fused.count(_KEY) + fused.count(_VALUE)
    if queries + others != len(fused):
        return None
    heads, kv_heads, head_dim = counts.heads, counts.kv_heads, counts.head_dim
    if queries == 0:
        heads = kv_heads = kv_heads or heads
    if heads is None:
        return None
    if kv_heads is None:
        head_dim = head_dim or (columns // heads if columns and columns % heads == 0 else None)
        rest = rows - queries * heads * head_dim if head_dim else 0
        if head_dim is None or rest < 0 or (others and rest % (others * head_dim)):
            return None
        kv_heads = rest // (others * head_dim) if others else heads
    units = queries * heads + others * kv_heads
    if kv_heads < 1 or heads % kv_heads or units == 0 or rows % units:
        return None
    return None if head_dim not in {None, rows // units} else (heads, kv_heads, rows // units)
