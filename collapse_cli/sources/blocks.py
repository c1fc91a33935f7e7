"""Effective weights that belong together: which weights form a block, and what the configuration says of it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from collapse_cli.core.site import Role
from collapse_cli.sources.adapters import adapter_blocks
from collapse_cli.sources.attention import attention_facts, biases_in_order
from collapse_cli.sources.base import OptimizerGroup
from collapse_cli.sources.chains import chain_blocks
from collapse_cli.sources.fused import scoped
from collapse_cli.sources.optimizers import optimizer_blocks
from collapse_cli.sources.recipes import BlockRecipe, Effective, module_of, stem_of

__all__ = ["Surroundings", "blocks_of"]

#: Roles of a block in the order of its members; the first role present is the role of the block's site.
_MEMBERS: dict[str, tuple[Role, ...]] = {
    "attention": (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V, Role.ATTENTION_O, Role.ATTENTION_QK_NORM),
    "mlp": (Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT),
    "norm": (
        Role.NORM_GAIN,
        Role.NORM_BIAS,
        Role.NORM_MEAN,
        Role.NORM_VAR,
        Role.NORM_COUNT,
        Role.LAYER_SCALE,
    ),
    "head": (Role.HEAD, Role.HEAD_BIAS, Role.CLASS_COUNTS),
    "router": (Role.ROUTER, Role.ROUTER_BIAS),
    "expert": (Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT),
    "ssm": (Role.SSM_A, Role.SSM_B, Role.SSM_C, Role.SSM_DT),
}
_EPSILONS = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layernorm_epsilon",
    "norm_epsilon",
    "norm_eps",
    "layernorm_eps",
)
_COSINE = ("use_cosine_sim", "codebook_l2_norm", "use_l2_norm", "l2_norm", "cosine")
_SPREADS = ("sigma", "rho", "logvar", "log_var", "log_sigma", "log_variance")
#: Paddings of a vocabulary are multiples of at most this (Megatron pads to 128 per rank of tensor parallelism).
_PADDING = 1024

Members = Mapping[Role, Sequence[Effective]]


@final
@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a checkpoint says beside its weights; `rotary` are lengths of frequency buffers by module path."""

    config: Mapping[str, Any]
    adapter: Mapping[str, Any]
    optimizer: tuple[OptimizerGroup, ...]
    rotary: Mapping[str, int]


def blocks_of(effective: Sequence[Effective], around: Surroundings) -> list[BlockRecipe]:
    """Every block, in the order of their first weights in the source."""
    blocks = [
        *_modules(effective, around),
        *_embeddings(effective, around.config),
        *_codebooks(effective, around.config),
        *_posteriors(effective),
        *chain_blocks(effective),
        *adapter_blocks(effective, around.adapter),
        *optimizer_blocks(around.optimizer, effective),
    ]
    position: dict[str, int] = {}
    for place, one in enumerate(effective):
        position.setdefault(one.name, place)
    return sorted(blocks, key=lambda block: min(position[n] for names in block.members.values() for n in names))


def _modules(effective: Sequence[Effective], around: Surroundings) -> Iterator[BlockRecipe]:
    feeding: dict[str, list[Effective]] = {}
    for one in effective:
        if one.placement.feeds and one.placement.role is Role.NORM_GAIN:
            feeding.setdefault(one.placement.feeds, []).append(one)
    for (path, kind), group in _grouped(effective).items():
        members = _by_role(group, _MEMBERS[kind])
        if not members or (kind == "head" and Role.HEAD not in members):
            continue
        if Role.ATTENTION_QK_NORM in members:
            members[Role.ATTENTION_QK_NORM].sort(key=_is_key_norm)
        gains = feeding.get(path, []) if kind in {"attention", "mlp"} else []
        extra, facts = _facts(kind, path, members, around=around, group=group)
        if gains:
            extra[Role.NORM_GAIN] = gains
            facts["norm_offset"] = gains[0].placement.norm_offset
        if any(one.is_unsplit for ones in members.values() for one in ones):
            facts["skip"] = "fused layout unknown"
        yield _recipe(path, {**members, **extra}, facts)


def _grouped(effective: Iterable[Effective]) -> dict[tuple[str, str], list[Effective]]:
    groups: dict[tuple[str, str], list[Effective]] = {}
    for one in effective:
        kind = one.placement.role.kind
        if kind not in _MEMBERS or (kind == "expert" and "shared" in module_of(one.name)):
            continue
        # a norm is its module: several norms of one block are not one
        path = module_of(one.name) if kind == "norm" else one.placement.block
        groups.setdefault((path or stem_of(one.name), kind), []).append(one)
    return groups


def _by_role(group: Iterable[Effective], roles: tuple[Role, ...]) -> dict[Role, list[Effective]]:
    """Members by role, in the order of `roles` and of their index; an unsplit tensor stands for each of its parts."""
    found: dict[Role, list[Effective]] = {role: [] for role in roles}
    for one in group:
        for role in one.stands_for:
            if role in found:
                found[role].append(one)
    # sorting is stable: what has no index keeps the order of the source
    return {role: sorted(ones, key=lambda one: one.placement.index or 0) for role, ones in found.items() if ones}


def _is_key_norm(norm: Effective) -> bool:
    """Files list `k_norm` before `q_norm`; members stand query first."""
    words = module_of(norm.name).rpartition(".")[2].split("_")
    return "k" in words or "key" in words


def _recipe(path: str, members: Members, facts: Mapping[str, Any]) -> BlockRecipe:
    role, ones = next(iter(members.items()))
    site = replace(ones[0].recipe.site, name=path, layer=ones[0].placement.layer, role=role)
    return BlockRecipe(site, {role: tuple(one.name for one in ones) for role, ones in members.items()}, facts)


def _facts(
    kind: str,
    path: str,
    members: Members,
    *,
    around: Surroundings,
    group: Sequence[Effective],
) -> tuple[dict[Role, Sequence[Effective]], dict[str, Any]]:
    """Members that are found by more than their role, and the facts of the block."""
    if kind == "attention":
        biases = biases_in_order(members, [one for one in group if one.placement.role is Role.ATTENTION_BIAS])
        facts = attention_facts(path, members, config=around.config, rotary=around.rotary)
        if not biases:
            return {}, facts
        return {Role.ATTENTION_BIAS: [one for one, _ in biases]}, {**facts, "bias_parts": [part for _, part in biases]}
    if kind == "mlp":
        return _mlp_bias(members, group), _mlp_facts(members, around.config)
    if kind == "expert":
        return {}, {"experts": max(len(ones) for ones in members.values())}
    plain: dict[str, Callable[[Members, Mapping[str, Any]], dict[str, Any]]] = {
        "norm": _norm_facts,
        "head": _head_facts,
    }
    return {}, plain[kind](members, around.config) if kind in plain else {}


def _mlp_bias(members: Members, group: Iterable[Effective]) -> dict[Role, Sequence[Effective]]:
    """The bias of the first projection."""
    inputs = members.get(Role.MLP_IN, ())
    if not inputs or inputs[0].is_unsplit:
        return {}
    first = inputs[0]
    for one in group:
        is_same_module = module_of(one.name) == module_of(first.name)
        is_same_part = one.name.partition("#")[2] == first.name.partition("#")[2]
        if one.placement.role is Role.MLP_BIAS and is_same_module and is_same_part and one.shape == first.shape[:1]:
            return {Role.MLP_BIAS: [one]}
    return {}


def _mlp_facts(members: Members, config: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(members.values()))[0]
    own = scoped(config, first.name)
    activation = next(
        (own[key] for key in ("hidden_act", "hidden_activation", "activation_function") if own.get(key)), None
    )
    return {"activation": activation} if isinstance(activation, str) else {}


def _norm_facts(members: Members, config: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(members.values()))[0]
    facts: dict[str, Any] = {"norm_offset": first.placement.norm_offset}
    keys = ("batch_norm_eps",) if Role.NORM_VAR in members else _EPSILONS
    own = scoped(config, first.name)
    epsilon = next((own[key] for key in keys if isinstance(own.get(key), float | int)), None)
    # JSON knows integers that no float holds, and NaN, which no comparison lets through
    if epsilon is None or not 0.0 <= epsilon <= sys.float_info.max:
        return facts
    return {**facts, "eps": float(epsilon)}


def _head_facts(members: Members, config: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(members.values()))[0]
    own, rows = scoped(config, first.name), first.shape[0] if first.shape else 0
    facts = _vocabulary(own, rows)
    labels = own.get("num_labels") or config.get("num_labels") or len(config.get("id2label") or ()) or None
    module = module_of(first.name).rpartition(".")[2]
    if module in {"lm_head", "embed_out"} or "predictions" in first.name:
        facts["is_language_model"] = True
    elif labels == rows:
        facts |= {"is_language_model": False, "num_labels": rows}
    elif "vocab_size" in facts:
        facts["is_language_model"] = True
    return facts


def _vocabulary(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Vocabulary and padded size where the rows are tokens."""
    size = config.get("vocab_size")
    if not isinstance(size, int) or not size <= rows < size + _PADDING:
        return {}
    return {"vocab_size": size, "padded_size": rows} if rows > size else {"vocab_size": size}


def _embeddings(effective: Iterable[Effective], config: Mapping[str, Any]) -> Iterator[BlockRecipe]:
    for one in effective:
        if one.placement.role is not Role.EMBEDDING:
            continue
        own = scoped(config, one.name)
        facts = _vocabulary(own, one.shape[0] if one.shape else 0)
        padding = own.get("pad_token_id")
        if facts and isinstance(padding, int) and 0 <= padding < one.shape[0]:
            facts["padding_idx"] = padding
        yield _recipe(stem_of(one.name), {Role.EMBEDDING: [one]}, facts)


def _codebooks(effective: Sequence[Effective], config: Mapping[str, Any]) -> Iterator[BlockRecipe]:
    usages = {
        (one.placement.block, one.placement.index): one
        for one in effective
        if one.placement.role is Role.CODEBOOK_USAGE
    }
    for one in effective:
        if one.placement.role is not Role.CODEBOOK:
            continue
        facts: dict[str, Any] = {"projected": len(one.recipe.reads) > 1}
        if one.placement.index is not None:
            facts["level"] = one.placement.index
        cosine = next((config[key] for key in _COSINE if isinstance(config.get(key), bool)), None)
        if cosine is not None:
            facts["cosine"] = cosine
        members: dict[Role, list[Effective]] = {Role.CODEBOOK: [one]}
        usage = usages.get((one.placement.block, one.placement.index))
        if usage is not None:
            members[Role.CODEBOOK_USAGE] = [usage]
        stem, sign, level = one.name.partition("#")
        yield _recipe(stem_of(stem) + sign + level, members, facts)


def _posteriors(effective: Iterable[Effective]) -> Iterator[BlockRecipe]:
    effective = list(effective)
    sigmas = {one.name: one for one in effective if one.placement.role is Role.POSTERIOR_SIGMA}
    for one in effective:
        if one.placement.role is not Role.POSTERIOR_MU:
            continue
        head, found, tail = one.name.rpartition("mean") if "mean" in one.name else one.name.rpartition("mu")
        names = [head + spread + tail for spread in _SPREADS] if found else []
        spread = next((sigmas[name] for name in names if name in sigmas), None)
        if spread is not None:
            members = {Role.POSTERIOR_MU: [one], Role.POSTERIOR_SIGMA: [spread]}
            yield _recipe(f"{one.name}#posterior", members, {})
