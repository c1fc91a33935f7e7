"""What is known of an attention block beside its weights: heads, their width, positions, which bias is whose."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collapse_cli.core.site import Role, Site
from collapse_cli.sources.fused import HeadCounts, head_counts, scoped
from collapse_cli.sources.recipes import Effective, module_of

__all__ = ["attention_facts", "biases_in_order", "rotary_lengths"]

_PROJECTIONS = (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V, Role.ATTENTION_O)
_ROTARY = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rotary_pct",
    "rotary_dim",
    "rotary_emb_base",
    "rotary_base",
)
_PARTIAL_ROTARY = ("partial_rotary_factor", "rotary_pct", "rotary_dim", "rotary_ndims")

Members = Mapping[Role, Sequence[Effective]]


def rotary_lengths(stored: Iterable[Site]) -> dict[str, int]:
    """Length of each rotary frequency buffer by the path of the module that owns its embedding."""
    ends = (".rotary_emb.inv_freq", ".rotary_pos_emb.inv_freq", ".inv_freq")
    found = {}
    for site in stored:
        end = next((end for end in ends if site.name.endswith(end)), None)
        if end and len(site.shape) == 1:
            found[site.name.removesuffix(end)] = site.shape[0]
    return found


def attention_facts(
    block: str, members: Members, *, config: Mapping[str, Any], rotary: Mapping[str, int]
) -> dict[str, Any]:
    """Plain facts of one attention block; what neither configuration nor shapes tell is absent."""
    first = next(iter(members.values()))[0]
    own = scoped(config, first.name)
    norms = members.get(Role.ATTENTION_QK_NORM, ())
    length = _frequencies(block, rotary)
    facts: dict[str, Any] = {"qk_norm": bool(norms)}
    has_rope = True if length is not None else _is_rotary(own)
    if has_rope is not None:
        facts["rope"] = has_rope
    queries, keys = (next(iter(members.get(role, ())), None) for role in _PROJECTIONS[:2])
    if queries is None or queries.is_unsplit or len(queries.shape) < 2:
        return facts
    facts["hidden"] = queries.shape[1]
    counts = head_counts(config, first.name)
    width = _declared_width(counts, queries.shape[0])
    if width is None and counts.heads is None and counts.head_dim is None:
        is_partial = any(own.get(key) is not None for key in _PARTIAL_ROTARY)
        width = _width_of_norm(norms, queries) or _width_of_rotary(None if is_partial else length, queries)
    if width is None:
        return facts
    facts |= {"head_dim": width, "heads": queries.shape[0] // width}
    if keys is not None and not keys.is_unsplit and keys.shape[0] % width == 0:
        facts["kv_heads"] = keys.shape[0] // width
    return facts


def _declared_width(counts: HeadCounts, rows: int) -> int | None:
    """Rows of one head where the configuration accounts for all rows; None where it is silent or contradicts them."""
    heads, head_dim = counts.heads, counts.head_dim
    if heads is None:
        return head_dim if head_dim is not None and rows % head_dim == 0 else None
    if rows % heads or head_dim not in {None, rows // heads}:
        return None
    return rows // heads


def _width_of_norm(norms: Sequence[Effective], queries: Effective) -> int | None:
    """Length of a norm per head; one over the whole projection (as long as the projection) says nothing."""
    lengths = {norm.shape[-1] for norm in norms if norm.shape}
    rows = queries.shape[0]
    length = next(iter(lengths)) if len(lengths) == 1 else None
    return length if length is not None and length < rows and rows % length == 0 else None


def _width_of_rotary(length: int | None, queries: Effective) -> int | None:
    width = 2 * (length or 0)
    return width if width and queries.shape[0] % width == 0 else None


def _frequencies(block: str, rotary: Mapping[str, int]) -> int | None:
    path = block
    while path:
        if path in rotary:
            return rotary[path]
        path = path.rpartition(".")[0]
    return None


def _is_rotary(config: Mapping[str, Any]) -> bool | None:
    if any(config.get(key) is not None for key in _ROTARY) or config.get("rotary") is True:
        return True
    if config.get("alibi") is True:
        return False
    kind = config.get("position_embedding_type")
    return None if not isinstance(kind, str) else kind in {"rope", "rotary"}


def biases_in_order(members: Members, biases: Sequence[Effective]) -> list[tuple[Effective, str]]:
    """Each bias with the part (`q`, `k`, `v`, `o`, or empty) it is added to, in the order of projections."""
    left = list(biases)
    ordered: list[tuple[Effective, str]] = []
    for role in _PROJECTIONS:
        part = role.value.partition(".")[2]
        modules = {module_of(one.name) for one in members.get(role, ()) if "#" not in one.name}
        for bias in list(left):
            name, _, taken = bias.name.partition("#")
            leaf = name.rpartition(".")[2]
            own = (
                taken == part if taken else module_of(name) in modules or leaf in {f"{part}_bias", f"{part}_proj_bias"}
            )
            if own:
                ordered.append((bias, part))
                left.remove(bias)
    return ordered + [(bias, "") for bias in left]
