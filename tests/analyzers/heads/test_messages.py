"""Findings of the metrics that need class counts, which no example carries, can be put into words."""

import torch

from collapse_cli.analyzers.heads.minority_collapse import minority_collapse
from collapse_cli.core.site import Role
from tests.views import at, block


def test_messages_of_the_minority_metrics_are_filled_by_their_evidence() -> None:
    rows = torch.eye(8, 12)
    rows[:4] = rows[0]
    results = at(minority_collapse.run(block({Role.HEAD: rows, Role.CLASS_COUNTS: torch.arange(8) + 1})))
    for name in ("minority_cosine", "cosine_gap"):
        metric, found = minority_collapse.manual.metric(name), results[name, "model.layers.0"]
        for limit in (metric.warn, metric.error):
            if limit is not None:
                assert limit.is_crossed(found.value, found.null)
                text = metric.message.format(
                    value=found.value, null=found.null or 0.0, bound=limit.bound, **found.evidence
                )
                assert "{" not in text
