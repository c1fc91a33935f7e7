"""Verdicts on a terminal, for whoever works on a kind or a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from collapse_cli.core.finding import Severity
from zoo.case import Truth
from zoo.verdicts import Row

__all__ = ["print_verdicts"]

_TRUTHS: tuple[Truth, ...] = ("healthy", "control", "unclear", "mild", "collapsed")


def print_verdicts(rows: Iterable[Row], metrics: Sequence[str] = ()) -> None:
    """By kind, view and truth: how many, how many were found, what else was said, and the diagnoses."""
    everything = list(rows)
    for key in dict.fromkeys((row.case.kind, row.view) for row in everything):
        of_key = [row for row in everything if (row.case.kind, row.view) == key]
        print(f"\n{key[0]} / {key[1]}")
        for truth in _TRUTHS:
            chosen = [row for row in of_key if row.truth == truth]
            if chosen:
                _print(truth, chosen, metrics)


def _print(truth: Truth, chosen: Sequence[Row], metrics: Sequence[str]) -> None:
    errors = sum(row.severity is Severity.ERROR for row in chosen)
    warned = sum(row.is_detected for row in chosen)
    meant = Counter(row.case.level for row in chosen)
    print(f"  {truth:9} {len(chosen):3}  family: {errors} error, {warned} warning or worse   meant: {dict(meant)}")
    said = Counter(rule for row in chosen for rule in row.alarms)
    print("            alarms:", ", ".join(f"{rule} ×{count}" for rule, count in said.most_common(12)) or "none")
    print("            diagnoses:", dict(Counter(f"{row.kind} by {row.primary}" for row in chosen if row.kind)))
    for rule in metrics:
        for row in chosen:
            found = [one for one in row.subject.measurements if one.rule == rule]
            values = ", ".join(
                f"{one.value:.4g}" + (f" (null {one.null:.3g})" if one.null else "") for one in found[:6]
            )
            print(f"            {row.case.name}: {rule} {values}")
