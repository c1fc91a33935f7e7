"""One analyzer run over arrays of one hook point in memory, for closed-form tests of dumps."""

from collections.abc import Mapping
from typing import Any

import torch

from collapse_cli.analyzer import Analyzer, Example
from collapse_cli.core.finding import Severity
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.contract.examples import judged


def results(analyzer: Analyzer, arrays: Mapping[str, torch.Tensor], **metadata: str) -> list[Any]:
    """Measurements and skips of arrays named by role, at the site `output`, or `<site>/<role>`."""
    analysis = analyse_dump(memory_dump(dict(arrays), metadata=metadata), [analyzer])
    assert [failure.message for failure in analysis.failures] == []
    return [*analysis.measurements, *analysis.skips]


def measured(analyzer: Analyzer, arrays: Mapping[str, torch.Tensor], **metadata: str) -> dict[str, Measurement]:
    """metric → measurement."""
    found = results(analyzer, arrays, **metadata)
    return {result.metric: result for result in found if isinstance(result, Measurement)}


def findings(analyzer: Analyzer, arrays: Mapping[str, torch.Tensor], **metadata: str) -> list[Severity]:
    """Severities of what is found, worst first; every message has its numbers filled in."""
    subject = judged(analyzer, Example(dict(arrays), metadata=metadata))
    assert not subject.failures
    assert all("{" not in finding.message for finding in subject.findings)
    return [finding.severity for finding in subject.findings]
