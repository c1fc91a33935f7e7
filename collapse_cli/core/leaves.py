"""How a tensor's name ends: torch's own leaves, adapters, optimizer state, posteriors, quantisation."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, final

from collapse_cli.core import families
from collapse_cli.core.site import Role

__all__ = ["Adapter", "Leaf", "adapter", "leaf", "optimizer_state", "posterior"]

_FLAGS = re.ASCII | re.DOTALL


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """A name taken apart: the path of its module, and what it is there.

    `part` is `weight`, `bias`, or `bare` (a parameter of its own: `path` is its whole name); a `Role` where the leaf
    alone tells it (scales, vectors of a power iteration, …).
    """

    path: str
    part: "Literal['weight', 'bias', 'bare'] | Role"


@final
@dataclass(frozen=True, slots=True)
class Adapter:
    """One part of a low-rank adapter and the path of the module it adapts."""

    block: str
    role: Role
    layout: Literal["out_in", "in_out"] = "out_in"


#: What stands around an adapted module without being part of its path (peft).
_WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save\.[^.]+|original_module)(?=\.|$)", _FLAGS)

# first match wins; `of` says what the leaf is, a role stands for itself
_LEAVES: tuple[tuple[re.Pattern[str], Role | None], ...] = tuple(
    (re.compile(pattern, _FLAGS), role)
    for pattern, role in (
        (r"(?P<path>.+)\.parametrizations\.(?P<of>weight|bias)\.original1?", None),
        (r"(?P<path>.+)\.parametrizations\.(?:weight|bias)\.original0", Role.SCALE),
        (r"(?P<path>.+)\.parametrizations\.(?:weight|bias)\..+", Role.BUFFER),
        (r"(?P<path>.+)\.(?P<of>weight)_(?:v|orig)", None),
        (r"(?P<path>.+)\.weight_g", Role.SCALE),
        (r"(?P<path>.+)\.weight_u", Role.BUFFER),
        (r"(?P<path>.+)\.(?P<of>weight|bias)_[ih]h(?:_l\d+(?:_reverse)?)?", None),
        (rf"(?:(?P<path>.+?)\.)?(?:weight\.)?(?:{families.QUANTISATION})", Role.SCALE),
        (r"(?P<path>.+)\.weight\.(?:\w+\.)?\w+", Role.BUFFER),  # bitsandbytes keeps its tables below the weight
        (r"(?P<path>(?:.+\.)?(?:in|q|k|v)_proj)_(?P<of>weight|bias)", None),
        (r"(?:(?P<path>.+)\.)?(?P<of>weight|bias)", None),
        (r"(?P<path>.+)_(?P<of>bias)", None),
    )
)

_ADAPTERS: tuple[tuple[re.Pattern[str], Literal["out_in", "in_out"]], ...] = (
    (re.compile(r"(?P<block>.+?)\.lora_(?P<part>[ABab])(?:\.[^.]+)?\.weight", _FLAGS), "out_in"),
    (re.compile(r"(?P<block>.+?)\.lora_(?:embedding_)?(?P<part>[AB])(?:\.[^.]+)?", _FLAGS), "out_in"),
    # MLX keeps the factors as it multiplies: x @ a @ b
    (re.compile(r"(?P<block>.+?)\.lora_(?P<part>[ab])", _FLAGS), "in_out"),
    (re.compile(r"(?P<block>.+?)(?:[._]lora|\.lora_linear_layer)[._](?P<part>down|up)\.weight", _FLAGS), "out_in"),
    (re.compile(r"(?P<block>.+?)\.(?P<part>lora_magnitude_vector)(?:\.[^.]+)*", _FLAGS), "out_in"),
)
_ADAPTER_SCALE = re.compile(r"(?P<block>.+)\.(?:alpha|dora_scale|lora_alpha)", _FLAGS)
_FACTORS = dict.fromkeys(("A", "a", "down"), Role.ADAPTER_A) | dict.fromkeys(("B", "b", "up"), Role.ADAPTER_B)

_MU, _SIGMA = ("mu", "mean", "loc"), ("rho", "sigma", "log_sigma", "logsigma", "logvar", "log_var", "std")
_KINDS = "|".join(_MU + _SIGMA)
_POSTERIORS = (
    re.compile(rf"(?P<before>(?:.*\.)?(?P<of>weight|bias|kernel|W|b)_)(?P<kind>{_KINDS})", _FLAGS),
    re.compile(rf"(?P<before>(?:.*\.)?)(?P<kind>{_KINDS})(?P<after>_(?P<of>weight|bias|kernel))", _FLAGS),
)

_MOMENTS = {
    "exp_avg": Role.OPTIMIZER_M,
    "momentum_buffer": Role.OPTIMIZER_M,
    "exp_avg_sq": Role.OPTIMIZER_V,
    "square_avg": Role.OPTIMIZER_V,
    "step": Role.OPTIMIZER_STEP,
}
_OPTIMIZER = re.compile(r"(?:.*\.)?(?:optim\w*|(?:\w+_)?state)\..*", _FLAGS)


def leaf(name: str, names: Collection[str]) -> Leaf:
    """The module's path and what the tensor is there; `names` tells the two kinds of `weight_v` apart."""
    stripped = _WRAPPED.sub("", name)
    if stripped.endswith(".weight_v") and name[: -len("_v")] + "_orig" in names:
        return Leaf(stripped[: -len(".weight_v")], Role.BUFFER)
    for pattern, role in _LEAVES:
        found = pattern.fullmatch(stripped)
        if found is None:
            continue
        path = found.groupdict().get("path") or ""
        if role is not None:
            return Leaf(path, role)
        return Leaf(path, "bias" if found["of"] == "bias" else "weight")
    return Leaf(stripped, "bare")


def adapter(name: str, names: Collection[str]) -> Adapter | None:
    """The part of a low-rank adapter that this tensor is (peft, diffusers, kohya, MLX), if it is one."""
    if scale := _ADAPTER_SCALE.fullmatch(name):
        block = scale["block"]
        factors = (f"{block}.lora_down.weight", f"{block}.lora_A.weight", f"{block}_lora.down.weight")
        return Adapter(block, Role.ADAPTER_SCALE) if any(factor in names for factor in factors) else None
    if "lora" not in name:
        return None
    for pattern, layout in _ADAPTERS:
        if found := pattern.fullmatch(name):
            return Adapter(found["block"], _FACTORS.get(found["part"], Role.ADAPTER_SCALE), layout)
    return None


def posterior(name: str, names: Collection[str]) -> tuple[str, Role] | None:
    """Block and role of one half of a (mean, spread) pair of a Bayesian layer; both halves must be stored."""
    for pattern in _POSTERIORS:
        found = pattern.fullmatch(name)
        if found is None:
            continue
        groups = found.groupdict()
        is_mean = groups["kind"] in _MU
        before, after = groups["before"], groups.get("after") or ""
        if not any(before + other + after in names for other in (_SIGMA if is_mean else _MU)):
            return None
        module = name[: found.start("kind")].rpartition(".")[0]
        of_bias = groups["of"] in ("bias", "b")  # a block of its own, so that a block is one pair
        block = ".".join(part for part in (module, "bias" if of_bias else "") if part)
        return block, Role.POSTERIOR_MU if is_mean else Role.POSTERIOR_SIGMA
    return None


def optimizer_state(name: str) -> tuple[str, Role] | None:
    """Block (the path up to the parameter's index) and role of a tensor of an optimizer's state."""
    block, _, last = name.rpartition(".")
    if last in ("exp_avg", "exp_avg_sq") and block:
        return block, _MOMENTS[last]
    if _OPTIMIZER.fullmatch(name) is None:
        return None
    return block, _MOMENTS.get(last, Role.BUFFER)
