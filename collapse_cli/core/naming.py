"""Tensor names → layer, block and role, as one table of patterns per model family.

The table is `families.py`, the endings that belong to no family are `leaves.py`, the counting of layers is `depth.py`;
here they are put together: the family's rule first, then leaf name and shape. A fused weight has the role of its
first part, its bias the same parts. Of a decomposed weight (`weight_v` with `weight_g`, `weight_orig`,
`parametrizations.weight.original1` with `original0`, `parametrizations.weight.original`) the direction has the role the
whole would have and the magnitude is `scale`; their leaf names tell the pair. Packed and scaling tensors of quantised
weights are `scale` with their module's path as block.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from collapse_cli.core import families
from collapse_cli.core.depth import layer_numbers, running_order
from collapse_cli.core.families import Rule
from collapse_cli.core.leaves import Leaf, adapter, leaf, optimizer_state, posterior
from collapse_cli.core.site import Role, Site

__all__ = ["Placement", "place"]


@final
@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stored tensor belongs in its model, as far as names, shapes and `config.json` tell.

    `block` is the path of the module it works in (`model.layers.0.self_attn`, `…mlp`, `…mlp.experts`); tensors with the
    same block and kind of role form a `Block`. `index` is the number of an expert or of a residual codebook level.
    `layout` is how its two axes are stored: `out_in` (nn.Linear), `in_out` (Conv1D of GPT-2, some stacked experts).
    `fused` lists the roles a fused tensor is split into, in storage order along the output axis (empty: not fused);
    `fused_order` says whether the parts follow one another whole (`by_kind`: all q, all k, all v), or per head
    (`by_head`: q₀ k₀ v₀ q₁ k₁ v₁ …), or alternate row by row (`interleaved`), or is `unknown` (then the tensor is not
    split). `stacked` is true for a 3-d tensor that holds one matrix per expert. `feeds` is the block whose input this
    norm scales (`…self_attn` for a pre-attention norm; `…mlp` also stands for `…mlp.experts`); `norm_offset` is 1.0
    where the gain is stored as γ − 1 (Gemma).
    """

    role: Role
    layer: int | None = None
    block: str = ""
    index: int | None = None
    layout: Literal["out_in", "in_out"] = "out_in"
    fused: tuple[Role, ...] = ()
    fused_order: Literal["by_kind", "by_head", "interleaved", "unknown"] = "by_kind"
    stacked: bool = False
    feeds: str = ""
    norm_offset: float = 0.0


_FLAGS = re.ASCII | re.DOTALL
#: A longer path is no module of anybody; this bounds the time a hostile name can take.
_LONGEST_PATH = 512

_BIASES = {
    "attention": Role.ATTENTION_BIAS,
    "mlp": Role.MLP_BIAS,
    "expert": Role.EXPERT_BIAS,
    "conv": Role.CONV_BIAS,
    "linear": Role.LINEAR_BIAS,
    "norm": Role.NORM_BIAS,
    "head": Role.HEAD_BIAS,
    "router": Role.ROUTER_BIAS,
    "ssm": Role.SSM_DT,
    "codebook": Role.LINEAR_BIAS,
}
_RULES = tuple(
    (
        family.witness,
        rule,
        re.compile(
            rf"(?P<block>(?:.*\.)?(?:{rule.block}))" + (rf"\.(?:{rule.tail})" if rule.tail else ""),
            _FLAGS,
        ),
    )
    for family in families.FAMILIES
    for rule in family.rules
)
_BARE = tuple((re.compile(pattern, _FLAGS), role) for pattern, role in families.BARE_PARAMETERS)
_HEADS = tuple(re.compile(pattern, _FLAGS) for pattern in families.HEAD)
_PLAIN_HEAD = re.compile(families.HEAD_OF_A_PLAIN_MODEL, _FLAGS)
_NORM = re.compile(families.NORM, _FLAGS | re.IGNORECASE)
_EMBEDDING, _POSITION = re.compile(families.EMBEDDING, _FLAGS), re.compile(families.POSITION, _FLAGS)
_QK_NORM = re.compile(
    r"(?P<block>(?:.*\.)?\w*(?:attn|attention)\w*)\.(?:[qk]_?(?:norm|ln|layernorm|layer_norm)|(?:norm|ln)_[qk])", _FLAGS
)
#: Modules that only wrap a model: what lies directly below them is its top level.
_WRAPPERS = re.compile(r"(?:(?:module|model|net|network|backbone|encoder_[qk]|student|teacher)\.)*", _FLAGS)
_LEVEL = re.compile(r"(?P<block>.+?)\.(?:_codebook|codebook|_embedding|embedding)", _FLAGS)
_LEVEL_NUMBER = re.compile(r".*\.(?:layers|quantizers|codebooks)\.(\d{1,6})", _FLAGS)


@final
@dataclass(frozen=True, slots=True)
class _Headers:
    """What the names and shapes of one checkpoint tell together."""

    sites: Mapping[str, Site]
    leaves: Mapping[str, Leaf]
    weights: Mapping[str, Site]  # by module path
    modules: Collection[str]  # every path of a module, the inner ones included
    layers: Mapping[str, int]  # by path
    rules: Sequence[tuple[Rule, re.Pattern[str]]]
    model_types: frozenset[str]
    config: Mapping[str, Any]
    has_unit_offset: bool  # RMS norms of this model multiply by 1 + gain
    matched: dict[str, int] = field(
        default_factory=dict
    )  # memo: the rule of a path, by the path with its large numbers cut

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape of the weight of a module; empty if there is none."""
        return self.weights[path].shape if path in self.weights else ()


def place(sites: Iterable[Site], config: Mapping[str, Any] | None = None) -> dict[str, Placement]:
    """The placement of every stored tensor by name. Names that no family knows get a role by shape and leaf name."""
    headers = _headers(tuple(sites), config or {})
    weights = {path: _weight(path, site, headers) for path, site in headers.weights.items()}
    weights = _with_head(weights, headers)
    order = _plain_order(weights, headers)
    placed: dict[str, Placement] = {}
    for name, site in headers.sites.items():
        found = _companion(name, headers) or _part(site, weights, headers)
        path = headers.leaves[name].path
        layer = headers.layers.get(path, order.get(path)) if found.layer is None else found.layer
        if found.role.kind in ("optimizer", "head", "codebook"):
            layer = None
        placed[name] = replace(found, layer=layer)
    return placed


def _headers(sites: tuple[Site, ...], config: Mapping[str, Any]) -> _Headers:
    names = {site.name: site for site in sites}
    leaves = {name: leaf(name, names) for name in names}
    weights: dict[str, Site] = {}
    modules: set[str] = set()
    for name, found in leaves.items():
        # a parameter of its own may be a weight (stacked experts, codebooks, a projection without a module)
        is_own = found.part == "bare" and len(names[name].shape) >= 2
        if (found.part == "weight" or is_own) and _companion_role(name, names) is None:
            weights.setdefault(found.path, names[name])
        _add_ancestors(found.path, modules)
    witnesses = {family.witness: False for family in families.FAMILIES}
    for witness in witnesses:
        pattern = re.compile(witness, _FLAGS)
        witnesses[witness] = not witness or any(
            pattern.fullmatch(path) for path in modules if len(path) <= _LONGEST_PATH
        )
    return _Headers(
        sites=names,
        leaves=leaves,
        weights=weights,
        modules=modules,
        has_unit_offset=_has_unit_offset(modules, frozenset(_model_types(config))),
        layers=layer_numbers({found.path for found in leaves.values() if len(found.path) <= _LONGEST_PATH}),
        rules=tuple((rule, pattern) for witness, rule, pattern in _RULES if witnesses[witness]),
        model_types=frozenset(_model_types(config)),
        config=config,
    )


def _add_ancestors(path: str, modules: set[str]) -> None:
    path = path if len(path) <= _LONGEST_PATH else ""
    while path and path not in modules:
        modules.add(path)
        path = path.rpartition(".")[0]


def _model_types(config: Mapping[str, Any]) -> Iterable[str]:
    inner = (value for key, value in config.items() if isinstance(value, Mapping) and str(key).endswith("_config"))
    for part in (config, *inner):
        model_type = part.get("model_type")
        if isinstance(model_type, str):
            yield model_type


def _has_unit_offset(modules: Collection[str], model_types: Collection[str]) -> bool:
    if model_types:
        return not families.UNIT_OFFSET.isdisjoint(model_types)
    components = {path.rpartition(".")[2] for path in modules}
    return "pre_feedforward_layernorm" in components and components.isdisjoint(families.PLAIN_GAIN_WITNESSES)


def _companion_role(name: str, names: Collection[str]) -> tuple[str, Role, Literal["out_in", "in_out"]] | None:
    """Block, role and layout of what is no part of the model proper: optimizer state, adapters, posteriors."""
    if len(name) > _LONGEST_PATH:
        return None
    if (state := optimizer_state(name)) is not None:
        return (*state, "out_in")
    if (factor := adapter(name, names)) is not None:
        return factor.block, factor.role, factor.layout
    if (half := posterior(name, names)) is not None:
        return (*half, "out_in")
    return None


def _companion(name: str, headers: _Headers) -> Placement | None:
    found = _companion_role(name, headers.sites)
    if found is None:
        return None
    block, role, layout = found
    return Placement(role, layer=headers.layers.get(block), block=block, layout=layout)


def _part(site: Site, weights: Mapping[str, Placement], headers: _Headers) -> Placement:
    """Any tensor of the model proper: a weight, its bias, what is kept beside it, or a parameter of its own."""
    path, part = headers.leaves[site.name].path, headers.leaves[site.name].part
    if path in weights and headers.weights[path] is site:
        return weights[path]
    if isinstance(part, Role):
        last = site.name.rpartition(".")[2]
        if last == "scale" and _is_norm(path, headers):
            return _norm(path, Role.NORM_GAIN, headers)
        return Placement(part, block=path)
    if (own := _own(site, headers)) is not None:
        return own
    if part == "bias":
        return _bias(path, site, weights, headers)
    if path in weights:  # a second weight of the same module (the recurrent one of an LSTM)
        return weights[path]
    return _bare(site, headers)


def _own(site: Site, headers: _Headers) -> Placement | None:
    """A parameter or buffer known by its last component."""
    parent, _, last = site.name.rpartition(".")
    if last in ("gamma", "beta") and _is_norm(parent, headers):
        return _norm(parent, Role.NORM_GAIN if last == "gamma" else Role.NORM_BIAS, headers)
    if len(last) > _LONGEST_PATH:
        return None
    role = next((role for pattern, role in _BARE if pattern.fullmatch(last)), None)
    if role is None:
        return None
    if role in (Role.CODEBOOK_USAGE, Role.BUFFER) and (level := _LEVEL.fullmatch(parent)):
        parent = level["block"]
    number = _LEVEL_NUMBER.fullmatch(parent) if role is Role.CODEBOOK_USAGE else None
    if role in (Role.EMBEDDING, Role.POSITION):
        parent = site.name
    return Placement(role, block=parent, index=int(number[1]) if number else None)


def _bare(site: Site, headers: _Headers) -> Placement:
    """A parameter of its own that is no matrix."""
    parent, _, last = site.name.rpartition(".")
    if not site.is_floating:
        return Placement(Role.BUFFER, block=parent)
    if last in ("A", "B", "C") and any(f"{parent}.{other}".lstrip(".") in headers.sites for other in ("D", "log_dt")):
        return Placement({"A": Role.SSM_A, "B": Role.SSM_B, "C": Role.SSM_C}[last], block=parent)
    return Placement(Role.OTHER, block=parent)


def _bias(path: str, site: Site, weights: Mapping[str, Placement], headers: _Headers) -> Placement:
    if len(site.shape) >= 3 and site.shape[-1] == site.shape[-2] > 1:  # a triangle registered as a buffer
        return Placement(Role.MASK, block=path)
    of = weights.get(path)
    if of is None:
        of = _by_rule(path, site, headers) or _by_name(path, headers)
    if of is None:
        return Placement(Role.OTHER if site.is_floating else Role.BUFFER, block=path)
    role = Role.NORM_BIAS if of.role is Role.ATTENTION_QK_NORM else _BIASES.get(of.role.kind, Role.OTHER)
    if of.stacked:  # experts × out: neither an axis to turn nor rows to split
        return replace(of, role=role, fused=(), fused_order="by_kind", layout="out_in")
    return replace(of, role=role, norm_offset=0.0)


def _by_name(path: str, headers: _Headers) -> Placement | None:
    if _is_head(path, headers) or path == "cls.predictions":
        return Placement(Role.HEAD, block=path)
    if _is_norm(path, headers):
        return _norm(path, Role.NORM_GAIN, headers)
    return None


def _weight(path: str, site: Site, headers: _Headers) -> Placement:
    """A tensor that multiplies, by the rules of the families, then by leaf name and shape."""
    rank, last = len(site.shape), path.rpartition(".")[2][-_LONGEST_PATH:]
    if site.name == path and (own := _own(site, headers)) is not None:
        return own
    if rank < 2:
        return _vector(path, site, headers)
    if (ruled := _by_rule(path, site, headers)) is not None:
        return ruled
    if not site.is_floating and not _is_quantised(path, headers):
        return Placement(Role.BUFFER, block=path)
    parent = path.rpartition(".")[0]
    if rank >= 3:
        role = Role.CONV if site.name != path else Role.OTHER
        return Placement(role, block=parent)
    if _is_head(path, headers):
        return Placement(Role.HEAD, block=path)
    if f"{path}.bias" not in headers.sites:
        if _POSITION.fullmatch(last):
            return Placement(Role.POSITION, block=path)
        if _EMBEDDING.fullmatch(last):
            return Placement(Role.EMBEDDING, block=path)
    if site.name == path:
        # CLIP multiplies its two projections from the right: features @ proj
        is_projection = last in ("proj", "text_projection", "image_projection", "visual_projection")
        return (
            Placement(Role.LINEAR, block=parent, layout="in_out")
            if is_projection
            else Placement(Role.OTHER, block=parent)
        )
    return Placement(Role.LINEAR, block=parent)


def _vector(path: str, site: Site, headers: _Headers) -> Placement:
    if found := _QK_NORM.fullmatch(path[:_LONGEST_PATH]):
        return replace(_norm(path, Role.ATTENTION_QK_NORM, headers), block=found["block"], feeds="")
    bias = headers.sites.get(f"{path}.bias")
    # an unnamed member of a Sequential with gain and bias of one length is a norm; a PReLU has no bias
    is_pair = bias is not None and len(site.shape) == 1 and bias.shape == site.shape
    if site.is_floating and (_is_norm(path, headers) or is_pair):
        return _norm(path, Role.NORM_GAIN, headers)
    return Placement(Role.OTHER if site.is_floating else Role.BUFFER, block=path)


def _is_norm(path: str, headers: _Headers) -> bool:
    last = path.rpartition(".")[2]
    return f"{path}.running_mean" in headers.sites or (len(last) <= _LONGEST_PATH and _NORM.fullmatch(last) is not None)


def _is_quantised(path: str, headers: _Headers) -> bool:
    return any(
        f"{path}.{scale}" in headers.sites for scale in ("SCB", "weight.absmax", "weight_scale", "weight_scale_inv")
    )


def _is_head(path: str, headers: _Headers) -> bool:
    if path in headers.layers or len(path) > _LONGEST_PATH:
        return False
    return any(pattern.fullmatch(path) for pattern in _HEADS)


def _norm(path: str, role: Role, headers: _Headers) -> Placement:
    # gated norms of linear attention and layer norms (they have a bias, as have Nemotron's) multiply by the gain itself
    is_plain = "linear_attn" in path or (f"{path}.bias" in headers.sites and "nemotron" not in headers.model_types)
    has_offset = headers.has_unit_offset and not is_plain
    return Placement(role, block=path, feeds=_feeds(path, headers), norm_offset=1.0 if has_offset else 0.0)


def _feeds(path: str, headers: _Headers) -> str:
    """The block that reads what this norm gives, where the names prove a pre-norm model."""
    parent, _, last = path.rpartition(".")
    stack = parent.rpartition(".")[0].rpartition(".")[0]

    def exists(relative: str) -> bool:
        beside = f"{stack}.{relative[2:]}" if relative.startswith("^.") else f"{parent}.{relative}"
        return beside.lstrip(".") in headers.modules

    for feed in families.FEEDS:
        if feed.norm != last or not all(map(exists, feed.evidence)) or any(map(exists, feed.absent)):
            continue
        if feed.target == ".":
            return parent
        for target in feed.target.split("|"):
            if exists(target):
                return f"{parent}.{target}".lstrip(".")
    return ""


def _by_rule(path: str, site: Site, headers: _Headers) -> Placement | None:
    """What the first rule that matches says of this path."""
    if len(path) > _LONGEST_PATH:
        return None
    # rules name no number above 9, so all experts and layers beyond share one search
    key = re.sub(r"(?<=\.)\d{2,}(?=\.)", "9", path, flags=re.ASCII)
    if key not in headers.matched:
        positions = (position for position, (_, pattern) in enumerate(headers.rules) if pattern.fullmatch(key))
        headers.matched[key] = next(positions, -1)
    position = headers.matched[key]
    if position < 0:
        return None
    rule, pattern = headers.rules[position]
    found = pattern.fullmatch(path)
    if found is None:
        return None
    block = found["block"]
    for _ in range(rule.above):
        block = block.rpartition(".")[0] or block
    index = found.groupdict().get("index")
    stacked = rule.stacked and len(site.shape) == 3
    placement = Placement(rule.role, block=block, index=int(index[:6]) if index else None, stacked=stacked)
    return _with_storage(placement, rule, site, headers)


def _with_storage(placement: Placement, rule: Rule, site: Site, headers: _Headers) -> Placement:
    """The same with its axes and fused parts, as far as shapes and siblings tell."""
    layout: Literal["out_in", "in_out"] = "out_in"
    if rule.layout == "in_out":
        layout = _conv1d(headers)
    elif placement.stacked:
        layout = _stacked_layout(placement.block, headers)
    if not rule.fused:
        return replace(placement, layout=layout)
    if rule.halved_by:
        other, shape = headers.shape(f"{placement.block}.{rule.halved_by}"), site.shape
        if len(other) < 2 or len(shape) < 2 or shape[0] != 2 * other[1]:
            return replace(
                placement, role=rule.role if rule.order != "by_kind" or not other else Role.MLP_IN, layout=layout
            )
    order = rule.order
    if order == "thirds":
        order = _heads_order(site, headers)
    if placement.stacked and (f"{site.name}_bias" in headers.sites or "gpt_oss" in headers.model_types):
        order = "interleaved"  # of these only gpt-oss has biases, and it alternates gate and up
    return replace(placement, layout=layout, fused=rule.fused, fused_order=order)


def _conv1d(headers: _Headers) -> Literal["out_in", "in_out"]:
    """How GPT-2's names are stored: by Conv1D (in, out), or by an nn.Linear (nanoGPT, GPT-BigCode)."""
    for tail in (".attn.c_attn", ".mlp.c_fc"):
        for path, site in headers.weights.items():
            if path.endswith(tail) and len(site.shape) == 2 and site.shape[0] != site.shape[1]:
                return "in_out" if site.shape[1] > site.shape[0] else "out_in"
    return "in_out"


def _stacked_layout(block: str, headers: _Headers) -> Literal["out_in", "in_out"]:
    """Out × in where what the first map gives is what the second one takes, with the axes in that order."""
    first = next((headers.shape(f"{block}.{name}") for name in _FIRST if f"{block}.{name}" in headers.weights), ())
    second = next((headers.shape(f"{block}.{name}") for name in _SECOND if f"{block}.{name}" in headers.weights), ())
    if len(first) != 3 or len(second) != 3:
        return "out_in"
    is_in_out = first[1] == second[2] and first[2] in (second[1], 2 * second[1])
    is_out_in = first[2] == second[1] and first[1] in (second[2], 2 * second[2])
    return "in_out" if is_in_out and not is_out_in else "out_in"


_FIRST, _SECOND = ("gate_up_proj", "gate_proj", "up_proj", "input_linear", "w1"), ("down_proj", "output_linear", "w2")


def _heads_order(site: Site, headers: _Headers) -> Literal["by_kind", "by_head", "unknown"]:
    if site.shape[0] == 3 * site.shape[-1]:
        return "by_head"
    # Falcon with one key head: all queries, the key, the value
    is_falcon = not headers.model_types.isdisjoint({"falcon", "RefinedWebModel", "RefinedWeb"})
    is_single = headers.config.get("multi_query") is True and headers.config.get("new_decoder_architecture") is not True
    return "by_kind" if is_falcon and is_single else "unknown"


def _with_head(weights: dict[str, Placement], headers: _Headers) -> dict[str, Placement]:
    """The same with the heads that only position and shape betray."""
    linear = [path for path, found in weights.items() if found.role is Role.LINEAR and path not in headers.layers]
    named = [path for path in linear if _is_head_sequence(path, headers)]
    result = dict(weights)
    for parent in {path.rpartition(".")[0] for path in named}:
        last = running_order([path for path in named if path.rpartition(".")[0] == parent])[-1]
        result[last] = Placement(Role.HEAD, block=last)
    if any(found.role is Role.HEAD for found in result.values()) or not linear:
        return result
    last = running_order(linear)[-1]
    rows, columns = headers.shape(last)
    name = last[_wrapper(last) :]
    tables = {headers.shape(path) for path, found in weights.items() if found.role is Role.EMBEDDING}
    is_named = _PLAIN_HEAD.fullmatch(name) is not None and (name == "fc" or rows < columns or (rows, columns) in tables)
    is_series = not headers.layers and _is_series(last, linear) and rows < columns
    if is_named or is_series:
        result[last] = Placement(Role.HEAD, block=last)
    return result


def _wrapper(path: str) -> int:
    found = _WRAPPERS.match(path)
    return found.end() if found else 0


def _is_head_sequence(path: str, headers: _Headers) -> bool:
    """Whether this is a numbered member of a Sequential that is named like a head (`classifier.6`)."""
    parent, _, last = path.rpartition(".")
    return last.isdecimal() and _is_head(parent, headers)


def _is_series(last: str, linear: Sequence[str]) -> bool:
    """Whether a linear map is the end of a numbered series (`net.4` after `net.0`, `fc3` after `fc1`)."""
    template = re.sub(r"\d+", "#", last, flags=re.ASCII)
    return template != last and sum(re.sub(r"\d+", "#", path, flags=re.ASCII) == template for path in linear) >= 2


def _plain_order(weights: Mapping[str, Placement], headers: _Headers) -> dict[str, int]:
    """Layer numbers for a model without numbered layers: its convolutions and linear maps in running order."""
    if headers.layers:
        return {}
    roles = (Role.LINEAR, Role.CONV)
    plain = [path for path, found in weights.items() if found.role in roles and headers.weights[path].name != path]
    return {path: position for position, path in enumerate(running_order(plain))}
