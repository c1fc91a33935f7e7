"""How many tokens every expert of a mixture gets, and what a router that chooses at random would give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.errors import BadValues
from collapse_cli.kernels.counts import Counts, chosen_experts
from collapse_cli.kernels.views import Activations

__all__ = [
    "ExpertLoad",
    "auxiliary_loss",
    "capacity",
    "dropped_share",
    "dropped_share_null",
    "expert_load",
    "group_distances",
    "load_cv_null",
    "stated_capacity",
    "violation_null",
]

_NORMAL = NormalDist()
#: Capacity factor of Switch Transformers (Fedus et al. 2022, table 1), where a dump states none.
_CAPACITY_FACTOR = "1.25"


@final
@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """Choices per expert, of `tokens` tokens with `chosen` experts each.

    `is_known`: the number of experts is that of the router, and not one more than the largest expert seen. `source` is
    the role the choices were read from; `groups` and `by_group` are empty where there are none.
    """

    counts: Int[Tensor, " experts"]
    tokens: int
    chosen: int
    is_known: bool
    source: str
    groups: Int[Tensor, " groups"]
    by_group: Int[Tensor, "groups experts"]
    has_too_many_groups: bool

    @property
    def experts(self) -> int:
        """E."""
        return self.counts.numel()

    @property
    def choices(self) -> int:
        """All choices, N·k where no expert was masked."""
        return int(self.counts.sum())

    @property
    def shares(self) -> Float[Tensor, " experts"]:
        """The share of the choices that each expert gets."""
        return self.counts.double() / max(self.choices, 1)


def expert_load(point: Activations) -> ExpertLoad:
    """The load of a hook point with `expert_index`, or with `router_logits` and the metadata `top_k` (1).

    Raises:
        BadValues: an expert that does not exist, or a `top_k` that is none.
    """
    source = "expert_index" if point.has("counts(expert_index)") else "router_logits"
    counts: Counts = point.read(f"counts({source})")
    width = point.shapes["router_logits"][-1] if "router_logits" in point.shapes else None
    _check_choices(counts, width, source)
    experts = counts.largest + 1 if width is None else width
    chosen = point.shapes[source][1] if source == "expert_index" else _stated_choices(point.metadata, experts)
    grouped: Counts | None = None
    if point.has(f"counts({source},groups)"):
        grouped = point.read(f"counts({source},groups)")
    by_group = torch.zeros(0, experts, dtype=torch.int64) if grouped is None else _wide(grouped.by_group, experts)
    return ExpertLoad(
        counts.histogram(experts),
        counts.rows - counts.masked_rows,
        chosen,
        width is not None,
        source,
        torch.zeros(0, dtype=torch.int64) if grouped is None else grouped.groups,
        by_group,
        grouped is not None and grouped.has_too_many_groups,
    )


def _wide(table: Int[Tensor, "groups seen"], experts: int) -> Int[Tensor, "groups experts"]:
    return torch.nn.functional.pad(table, (0, experts - table.shape[1]))


def _check_choices(counts: Counts, width: int | None, source: str) -> None:
    is_too_large = counts.beyond or (width is not None and counts.largest >= width)
    if not (counts.negative or is_too_large):
        return
    bound = "experts" if width is None else f"the {width:,} experts of router_logits"
    got = f"{counts.negative:,} are negative" if counts.negative else f"the largest is {counts.largest:,} or more"
    raise BadValues(
        source,
        expected=f"should name {bound}, from 0 on",
        got=got,
        hint="leave dropped tokens out of the dump instead of marking them",
    )


def _stated_choices(metadata: Mapping[str, str], experts: int) -> int:
    stated = metadata.get("top_k", "1").strip()
    chosen = chosen_experts(metadata)
    if str(chosen) != stated.lstrip("0") or chosen > experts:
        raise BadValues(
            "the metadata top_k",
            expected=f"should be a whole number from 1 to {experts:,}, the number of experts",
            got=f"it is {stated[:40]!r}",
            hint="write the number of experts per token, or dump expert_index",
        )
    return chosen


# --- against chance: every token takes k of E experts at random ------------------------------------------------------


def load_cv_null(load: ExpertLoad) -> float:
    """√((E−k)/(Nk)), the coefficient of variation of hypergeometric counts."""
    return math.sqrt(max(load.experts - load.chosen, 0) / max(load.choices, 1))


def violation_null(load: ExpertLoad) -> float:
    """The largest of E normal deviates, by Blom's scores (1958), in units of the mean load."""
    experts = load.experts
    return load_cv_null(load) * _NORMAL.inv_cdf((experts - 0.375) / (experts + 0.25))


def stated_capacity(metadata: Mapping[str, str]) -> Fraction:
    """The metadata `capacity_factor`, exactly; 1.25 where there is none.

    Raises:
        BadValues: it is no positive number.
    """
    stated = metadata.get("capacity_factor", _CAPACITY_FACTOR).strip()
    try:
        factor = Fraction(stated)
    except (ValueError, ZeroDivisionError):
        factor = Fraction(0)
    if factor <= 0:
        raise BadValues(
            "the metadata capacity_factor",
            expected="should be a positive number",
            got=f"it is {stated[:40]!r}",
            hint=f"write the capacity of an expert over its mean load, such as {_CAPACITY_FACTOR}",
        )
    return factor


def capacity(load: ExpertLoad, factor: Fraction) -> int:
    """Tokens that one expert takes, ⌈c·N·k/E⌉."""
    return math.ceil(factor * load.choices / load.experts)


def dropped_share(load: ExpertLoad, factor: Fraction) -> float:
    """Share of the choices beyond the capacity of their expert, were all rows one batch."""
    return int((load.counts - capacity(load, factor)).clamp_min(0).sum()) / load.choices


def dropped_share_null(load: ExpertLoad, factor: Fraction) -> float:
    """(sd/μ)(φ(a) − a(1−Φ(a))), a = (⌈cμ⌉−μ)/sd: the mean excess of a normal count over the capacity."""
    mean, share = load.choices / load.experts, load.chosen / load.experts
    deviation = math.sqrt(load.tokens * share * (1.0 - share))
    if deviation == 0.0:
        return 0.0
    distance = (capacity(load, factor) - mean) / deviation
    # erfc keeps the digits of a far tail, where 1 − Φ has none
    tail = 0.5 * math.erfc(distance / math.sqrt(2.0))
    return max(deviation / mean * (_NORMAL.pdf(distance) - distance * tail), 0.0)


def group_distances(load: ExpertLoad) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """Of every group, the total variation between its load and that of all, and what as many random choices give.

    Chance: ½Σ_e √(2f(1−f)/(π·n)), the mean absolute deviation of n normal counts about the shares f.
    """
    choices = load.by_group.sum(1, keepdim=True).double().clamp_min(1.0)
    distances = 0.5 * (load.by_group / choices - load.shares).abs().sum(1)
    spread = (load.shares * (1.0 - load.shares)).sqrt().sum()
    return distances, 0.5 * spread * (2.0 / (math.pi * choices[:, 0])).sqrt()


def auxiliary_loss(point: Activations) -> float | None:
    """E·Σ mₑcₑ of mean probabilities m and shares of first choices c (GShard, Switch); 1 for a balanced router."""
    if not point.has("logit_rows(router_logits)"):
        return None
    rows = point.read("logit_rows(router_logits)")
    if rows.count == 0:
        return None
    mass, decided = rows.classes.mass, rows.classes.decided.double()
    result: float = mass.numel() * float(mass @ decided) / rows.count**2
    return result
