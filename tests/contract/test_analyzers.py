"""What is true of every analyzer. Nothing here is edited when one is added."""

import hashlib
import inspect
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collapse_cli.analyzer import CHECKPOINT_VIEWS, Analyzer, Example
from collapse_cli.analyzers import catalogue
from collapse_cli.core.finding import Severity
from collapse_cli.core.metric import Limit
from collapse_cli.engine import Options
from tests.contract.examples import analysed, judged, tensors
from tests.contract.transformations import TRANSFORMATIONS

ANALYZERS = catalogue(plugins=False).analyzers
OF_DUMPS = tuple(a for a in ANALYZERS if a.examples["healthy"]().metadata is not None)
OF_RUNS = tuple(analyzer for analyzer in ANALYZERS if analyzer.view == "run")
OF_WEIGHTS = tuple(analyzer for analyzer in ANALYZERS if analyzer not in OF_DUMPS + OF_RUNS)
each = pytest.mark.parametrize("analyzer", ANALYZERS, ids=lambda analyzer: analyzer.name)
FOLDER = Path(inspect.getfile(catalogue)).parent


def worst_allowed(analyzer: Analyzer) -> Severity | None:
    """The worst severity that the analyzer's limits allow, None if it never judges."""
    limits = [(m.error is not None, m.warn is not None) for m in analyzer.manual.metrics]
    if any(error for error, _ in limits) and analyzer.manual.confidence == "established":
        return Severity.ERROR
    return Severity.WARNING if any(error or warn for error, warn in limits) else None


@each
def test_is_one_file_named_after_it_in_the_folder_of_its_family(analyzer: Analyzer) -> None:
    expected = FOLDER / analyzer.manual.family.replace("-", "_") / f"{analyzer.name.replace('-', '_')}.py"
    assert Path(inspect.getfile(analyzer.measure)) == expected


@each
def test_manual_says_everything(analyzer: Analyzer) -> None:
    manual = analyzer.manual
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", manual.name)
    for heading in ("## Why it matters", "## How to read it", "## Limits"):
        assert len(manual.text.partition(heading)[2].strip()) > 80, heading
    assert len(manual.summary) < 121
    assert len(manual.remedy) > 20
    assert manual.references
    for reference in manual.references:
        assert re.search(r"\b(19|20)\d\d\b", reference.cite), reference.cite
        assert reference.url.startswith("https://"), reference.cite
    names = [metric.name for metric in manual.metrics]
    assert len(set(names)) == len(names)
    for metric in manual.metrics:
        assert re.fullmatch(r"[a-z0-9_]+", metric.name)
        assert metric.says.endswith(".")
        if metric.warn or metric.error:
            assert metric.message, f"{metric.name} is judged and has no message"


@each
def test_error_limit_is_stricter_than_warning_and_on_the_same_side(analyzer: Analyzer) -> None:
    for metric in analyzer.manual.metrics:
        for limit in (metric.warn, metric.error):
            if limit is not None:
                assert limit.source
                assert metric.better is None or (limit.side == "below") == (metric.better == "higher"), metric.name
                assert limit.of == "value" or metric.null, f"{metric.name} is judged against a null it does not state"
        if metric.warn is not None and metric.error is not None:
            assert metric.warn.side == metric.error.side
            # one may be so many times the null and the other a closed form of the value: then neither is comparable
            if metric.warn.of == metric.error.of:
                assert _is_stricter(metric.error, metric.warn), metric.name


def _is_stricter(error: Limit, warn: Limit) -> bool:
    return error.bound <= warn.bound if error.side == "below" else error.bound >= warn.bound


@each
def test_healthy_example_has_no_finding(analyzer: Analyzer) -> None:
    subject = judged(analyzer, analyzer.examples["healthy"]())
    assert subject.measurements, subject.skips
    assert not subject.failures
    assert [finding.message for finding in subject.findings] == []


@each
def test_collapsed_example_gives_the_worst_the_limits_allow(analyzer: Analyzer) -> None:
    subject = judged(analyzer, analyzer.examples["collapsed"]())
    assert subject.measurements, subject.skips
    assert not subject.failures
    worst = max((finding.severity for finding in subject.findings), key=lambda s: s.rank, default=None)
    assert worst == worst_allowed(analyzer)
    for finding in subject.findings:
        assert "{" not in finding.message
        assert len(finding.message) > 10


@each
def test_measures_every_metric_it_declares(analyzer: Analyzer) -> None:
    seen = {m.metric for example in analyzer.examples.values() for m in judged(analyzer, example()).measurements}
    skipped = " ".join(s.reason for example in analyzer.examples.values() for s in judged(analyzer, example()).skips)
    for metric in analyzer.manual.metrics:
        assert metric.name in seen or metric.name in skipped, f"{metric.name}: neither measured nor named in a skip"


@each
def test_metrics_with_a_null_in_words_state_it_in_numbers(analyzer: Analyzer) -> None:
    subject = judged(analyzer, analyzer.examples["healthy"]())
    for measurement in subject.measurements:
        metric = analyzer.manual.metric(measurement.metric)
        if (metric.warn and metric.warn.of == "null") or (metric.error and metric.error.of == "null"):
            assert measurement.null is not None, metric.name
        if measurement.null is not None:
            assert metric.null, f"{metric.name} gives a null it does not name"


@each
def test_two_runs_are_equal_to_the_bit_and_leave_no_trace(
    analyzer: Analyzer, capsys: pytest.CaptureFixture[str]
) -> None:
    example = analyzer.examples["collapsed"]()
    before = {name: _digest(tensor) for name, tensor in tensors(example).items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = analysed(analyzer, example)
    assert torch.equal(torch.get_rng_state(), state), "global random state was used"
    second = analysed(analyzer, example, options=Options(threads=1))
    assert (first.measurements, first.skips) == (second.measurements, second.skips)
    assert {name: _digest(tensor) for name, tensor in tensors(example).items()} == before
    assert capsys.readouterr() == ("", "")


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()


@pytest.mark.parametrize(
    ("analyzer", "promise"),
    [(analyzer, promise) for analyzer in ANALYZERS for promise in analyzer.unmoved_by],
    ids=lambda part: getattr(part, "name", part),
)
def test_keeps_its_promise_of_invariance(analyzer: Analyzer, promise: str) -> None:
    for example in analyzer.examples.values():
        before = analysed(analyzer, example())
        after = analysed(analyzer, example(), change=TRANSFORMATIONS[promise])
        kept = [
            (a, b)
            for a, b in zip(before.measurements, after.measurements, strict=True)
            if not analyzer.unmoved_metrics or a.metric in analyzer.unmoved_metrics
        ]
        assert kept
        for a, b in kept:
            assert (a.metric, a.site) == (b.metric, b.site)
            assert b.value == pytest.approx(a.value, rel=1e-3, abs=1e-6), (a.metric, promise)


@each
@pytest.mark.parametrize("device", ["cuda"] if torch.cuda.is_available() else [])
def test_cuda_agrees_with_the_cpu(analyzer: Analyzer, device: str) -> None:
    for example in analyzer.examples.values():
        on_cpu = analysed(analyzer, example())
        on_device = analysed(analyzer, example(), options=Options(device=device))
        for a, b in zip(on_cpu.measurements, on_device.measurements, strict=True):
            assert (a.metric, a.site) == (b.metric, b.site)
            assert b.value == pytest.approx(a.value, rel=analyzer.tolerance, abs=1e-6), a.metric


EDGES = {
    "one_row": lambda: torch.ones(1, 64),
    "one_column": lambda: torch.ones(64, 1),
    "one_entry": lambda: torch.full((1, 1), 0.5),
    "all_zero": lambda: torch.zeros(64, 64),
    "constant": lambda: torch.full((64, 48), 0.1),
    "empty": lambda: torch.zeros(0, 64),
    "tiny": lambda: torch.full((64, 64), 1e-38),
    "huge": lambda: torch.full((64, 64), 3e38),
    "one_nonzero": lambda: torch.zeros(64, 64).index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(1.0)),
}


@pytest.mark.parametrize("analyzer", OF_WEIGHTS, ids=lambda analyzer: analyzer.name)
@pytest.mark.parametrize("edge", EDGES)
def test_edges_give_measurements_or_skips_and_never_a_failure(analyzer: Analyzer, edge: str) -> None:
    """Every tensor of the example replaced by a degenerate one of any shape, then each in turn."""
    example = analyzer.examples["healthy"]()
    floating = [name for name, tensor in tensors(example).items() if tensor.is_floating_point()]
    for replaced in [floating, *([name] for name in floating[:4])]:
        changed = {
            name: _like(EDGES[edge](), tensor) if name in replaced else tensor
            for name, tensor in tensors(example).items()
        }
        # the further members of a pair, a pool or a run have the same shapes, and half the entries
        others = tuple({**other, **{name: changed[name] / 2 for name in replaced}} for other in example.others)
        analysis = analysed(analyzer, replace(_with(example, changed), others=others))
        assert [failure.message for failure in analysis.failures] == []
        assert all(math.isfinite(m.value) for m in analysis.measurements)


@pytest.mark.parametrize("analyzer", OF_DUMPS, ids=lambda analyzer: analyzer.name)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9])
def test_few_samples_give_measurements_or_skips_and_no_finding(analyzer: Analyzer, rows: int) -> None:
    """The collapsed example cut to its first rows: below the sample size nothing is judged and nothing fails."""
    example = analyzer.examples["collapsed"]()
    samples = max(tensor.shape[0] for tensor in tensors(example).values())
    cut = {name: t[:rows] if t.shape[0] == samples else t for name, t in tensors(example).items()}
    others = tuple(
        {name: t[:rows] if t.shape[0] == samples else t for name, t in other.items()} for other in example.others
    )
    subject = judged(analyzer, replace(_with(example, cut), others=others))
    assert [failure.message for failure in subject.failures] == []
    assert subject.measurements or subject.skips
    if rows <= 3:
        assert [finding.message for finding in subject.findings if finding.severity == Severity.ERROR] == []


def _like(edge: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """The edge in the dtype of what it replaces, for a vector as a vector; 3e38 stays fp32."""
    shaped = edge.reshape(-1) if original.dim() == 1 else edge
    return shaped if bool((shaped.abs() > 6e4).any()) else shaped.to(original.dtype)


def _with(example: Example, changed: dict[str, torch.Tensor]) -> Example:
    return replace(example, tensors=changed)


@each
def test_same_shapes_filled_with_zeros_constants_or_nan_never_fail(analyzer: Analyzer) -> None:
    example = analyzer.examples["healthy"]()
    for value in (0.0, 1.0, -(2.0**-20), math.nan, math.inf):
        changed = {
            name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
            for name, tensor in tensors(example).items()
        }
        analysis = analysed(analyzer, _with(example, changed))
        # ones are no attention and no codes of a small codebook: an analyzer may say so
        assert [failure.message for failure in analysis.failures if failure.error != "BadValues"] == []
        if math.isfinite(value) or analyzer.reads_non_finite or analyzer.view == "checkpoint":
            continue
        assert not analysis.measurements or analyzer in OF_DUMPS + OF_RUNS
        if analyzer.view in CHECKPOINT_VIEWS:
            assert {skip.reason for skip in analysis.skips} == {"not finite"}


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_are_read(analyzer: Analyzer, dtype: torch.dtype) -> None:
    example = analyzer.examples["healthy"]()
    analysis = analysed(analyzer, example, change=lambda tensor: tensor.to(dtype))
    assert [failure.message for failure in analysis.failures] == []
    assert analysis.measurements
