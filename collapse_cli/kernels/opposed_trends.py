"""Pairs of numbers of which one gets better while the other gets worse, and what that is a sign of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from collapse_cli.kernels.run_series import Trend

__all__ = ["ASKED", "RULES", "SIGNIFICANT", "Opposed", "Rule", "opposed"]

#: p, adjusted over sites, below which a series has a trend.
SIGNIFICANT: Final = 0.01
#: p above which a series shows none.
_FLAT: Final = 0.05

Direction = Literal["up", "down", "flat"]
Move = tuple[tuple[str, Direction], ...]


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """Moves that together are a sign; each is one of several series (`<analyzer>/<metric>`) with its direction.

    The first move leads: the others are looked for at its site, then among the figures of the metadata.
    """

    name: str
    says: str
    moves: tuple[Move, ...]


@final
@dataclass(frozen=True, slots=True)
class Opposed:
    """A rule at the site of its leading series: the least distance of its moves, 0 where one does not move so."""

    rule: Rule
    lead: Trend
    others: tuple[Trend, ...]
    distance: float


def _either(direction: Direction, *rules: str) -> Move:
    return tuple((rule, direction) for rule in rules)


_LOSS: Final = _either(
    "down",
    *(f"metadata/{name}" for name in ("train_loss", "training_loss", "loss", "val_loss", "eval_loss")),
)
_ACCURACY: Final = tuple(
    f"metadata/{name}" for name in ("val_accuracy", "val_acc", "eval_accuracy", "accuracy", "train_accuracy")
)

#: Ranks are those of features: the rank of weights falls in every sound training.
RULES: Final = (
    Rule(
        "rank down, loss down",
        "dimensional collapse",
        (_either("down", "rankme/rankme", "effective-rank-features/erank"), _LOSS),
    ),
    Rule(
        "kNN or probe down, loss down",
        "over-training",
        (
            _either(
                "down",
                "layer-probe/knn_accuracy",
                "layer-probe/ridge_accuracy",
                "layer-probe/centroid_accuracy",
                "nearest-centre/ncc_accuracy",
            ),
            _LOSS,
        ),
    ),
    Rule(
        "new classes down, base classes up",
        "fine-tuning forgets the new classes",
        (
            _either("down", "metadata/new_accuracy", "metadata/new_acc"),
            _either("up", "metadata/base_accuracy", "metadata/base_acc"),
        ),
    ),
    Rule(
        "logit scale up, accuracy flat",
        "naive loss minimisation",
        (_either("up", "logit-scale/logit_spread"), _either("flat", *_ACCURACY)),
    ),
    Rule(
        "largest logit up, loss down",
        "logit growth",
        (_either("up", "logit-scale/max_logit", "qk-spectrum/qk_logit_bound"), _LOSS),
    ),
    Rule(
        "attention entropy down, norm of Q·K up",
        "entropy collapse",
        (
            _either("down", "attention-entropy/entropy"),
            # the floor of entropy is a function of the norm of Q·K, and falls as it grows
            _either("down", "attention-entropy/entropy_floor"),
        ),
    ),
    Rule(
        "load entropy or live units down, loss down",
        "collapse of routing, of a codebook or of units",
        (
            (
                *_either(
                    "down",
                    "router-confidence/router_marginal_entropy",
                    "expert-load/effective_experts",
                    "codebook-usage/perplexity_share",
                    "codebook-usage/used_share",
                ),
                *_either(
                    "up", "dead-latents/dead_share", "dead-activations/dead_unit_share", "dead-units/dead_unit_share"
                ),
            ),
            _LOSS,
        ),
    ),
    Rule(
        "pass@N down, confidence up",
        "overconfidence narrows the answers",
        (_either("down", "confidence/pass_at_n"), _either("up", "confidence/overconfidence")),
    ),
    Rule(
        "recall or spread down, precision up",
        "mode collapse",
        (
            _either("down", "precision-recall/recall", "sample-diversity/mean_squared_distance"),
            _either("up", "precision-recall/precision"),
        ),
    ),
)

#: Every series that a rule asks for.
ASKED: Final = frozenset(name for rule in RULES for move in rule.moves for name, _direction in move)


def opposed(trends: Sequence[Trend], run_site: str) -> Iterator[Opposed]:
    """One result for each leading series whose rule has all its series; of several rules the one of most distance."""
    by_name = {(trend.series.site, trend.series.rule): trend for trend in trends if trend.p is not None}
    found: dict[tuple[str, str], Opposed] = {}
    for rule in RULES:
        first, *rest = rule.moves
        for lead_rule, direction in first:
            for (site, name), lead in by_name.items():
                if name != lead_rule:
                    continue
                parts = [_part(move, by_name, (site, run_site)) for move in rest]
                if any(part is None for part in parts):
                    continue
                others = [part for part in parts if part is not None]
                distances = [_distance(lead, direction), *(_distance(*part) for part in others)]
                result = Opposed(rule, lead, tuple(part[0] for part in others), min(distances))
                known = found.get((site, name))
                if known is None or result.distance > known.distance:
                    found[site, name] = result
    yield from found.values()


def _part(move: Move, by_name: dict[tuple[str, str], Trend], sites: tuple[str, ...]) -> tuple[Trend, Direction] | None:
    """The series of a move that moves most, at the first site that has any."""
    for site in sites:
        there = [(by_name[site, rule], direction) for rule, direction in move if (site, rule) in by_name]
        if there:
            return max(there, key=lambda part: _distance(*part))
    return None


def _distance(trend: Trend, direction: Direction) -> float:
    """How far a series moves in a direction, in scales of its residuals; flatness does not count as a distance."""
    if trend.p is None:
        return 0.0
    if direction == "flat":
        return float("inf") if trend.p > _FLAT else 0.0
    is_so = trend.slope > 0.0 if direction == "up" else trend.slope < 0.0
    return trend.distance if is_so and trend.p < SIGNIFICANT else 0.0
