"""One pass: what is read, in which order results stand, what happens when something goes wrong."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from collapse_cli.analyzer import (
    Analyzer,
    Measurement,
    Metric,
    Role,
    Skip,
    block_analyzer,
    checkpoint_analyzer,
    on,
    skip,
    stored_analyzer,
    weight_analyzer,
)
from collapse_cli.engine import Options, Progress, analyse
from collapse_cli.engine.job import content_hash
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.memory import MemoryCheckpoint, memory_checkpoint

SUM = Metric("total", "1", "The sum.")
DECLARED: dict[str, Any] = {
    "family": "test", "title": "", "metrics": (SUM,), "remedy": "", "references": (), "examples": {},
}  # fmt: skip


def totals(view: Any) -> Iterator[Measurement | Skip]:
    yield SUM.at(view.site.name, float(view.tensor.double().sum()))


WEIGHT = weight_analyzer(name="weight-total", accepts=on.matrices(), **DECLARED)(totals)
STORED = stored_analyzer(name="stored-total", accepts=on.floating(), reads_non_finite=True, **DECLARED)(totals)


@block_analyzer(name="mlp-total", accepts=on.block("mlp", Role.MLP_IN, Role.MLP_OUT, says="mlp"), **DECLARED)
def MLP(block: Any) -> Iterator[Measurement | Skip]:
    total = sum(float(weight.tensor.double().sum()) for weights in block.weights.values() for weight in weights)
    yield SUM.at(f"{block.site.name}#mlp", total)


def llama(layers: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(32, 16, generator=generator)}
    for layer in range(layers):
        for name, shape in (("mlp.gate_proj", (24, 16)), ("mlp.up_proj", (24, 16)), ("mlp.down_proj", (16, 24))):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.randn(*shape, generator=generator)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = torch.ones(16)
    return tensors


def checkpoint(tensors: dict[str, torch.Tensor] | None = None) -> MemoryCheckpoint:
    return memory_checkpoint(tensors or llama())


def test_every_tensor_is_read_once_however_many_analyzers_want_it() -> None:
    source = checkpoint()
    result = analyse(source, [STORED, WEIGHT, MLP])
    assert sorted(source.reads) == sorted(llama())
    assert result.coverage.read == result.coverage.wanted == result.coverage.sites == len(llama())


def test_what_nobody_accepts_is_not_read() -> None:
    source = checkpoint()
    result = analyse(source, [MLP])
    assert set(source.reads) == {name for name in llama() if "mlp" in name}
    assert result.coverage.wanted == 9
    nothing = checkpoint()
    nobody = replace(WEIGHT, acceptance=on.matrices(10_000))
    result = analyse(nothing, [nobody])
    assert nothing.reads == []
    assert result.skips == (Skip("weight-total", None, "nothing to accept: takes weight matrices"),)


def test_results_stand_in_source_order_whatever_the_threads() -> None:
    expected = [name for name in llama() if "norm" not in name]
    for threads in (1, 2, 4):
        result = analyse(checkpoint(), [WEIGHT, MLP], Options(threads=threads))
        weights = [m.site for m in result.measurements if m.analyzer == "weight-total"]
        assert weights == expected
        assert result == replace(analyse(checkpoint(), [WEIGHT, MLP], Options(threads=1)), seconds=result.seconds)


def test_values_are_those_of_the_tensors() -> None:
    result = analyse(checkpoint(), [STORED, MLP])
    by_site = {m.site: m.value for m in result.measurements}
    tensors = llama()
    for name, tensor in tensors.items():
        assert by_site[name] == pytest.approx(float(tensor.numpy().astype("float64").sum()), rel=1e-12)
    parts = [tensors[f"model.layers.1.mlp.{part}_proj.weight"].double().sum() for part in ("gate", "up", "down")]
    assert by_site["model.layers.1.mlp#mlp"] == pytest.approx(float(sum(parts)), rel=1e-12)


def test_sites_hold_every_name_a_result_uses() -> None:
    result = analyse(checkpoint(), [STORED, MLP])
    names = {site.name for site in result.sites}
    assert {m.site for m in result.measurements} <= names
    derived = next(site for site in result.sites if site.name == "model.layers.1.mlp#mlp")
    assert derived.layer == 1


def test_globs_choose_tensors() -> None:
    source = checkpoint()
    analyse(source, [STORED], Options(sites=("*.mlp.*",), ignore_sites=("*.layers.2.*",)))
    assert source.reads == [name for name in llama() if ".mlp." in name and ".layers.2." not in name]


def test_one_broken_analyzer_stops_nothing() -> None:
    def broken(view: Any) -> Iterator[Measurement | Skip]:
        if "up_proj" in view.site.name:
            raise ZeroDivisionError("a bug")
        yield from totals(view)

    bad = weight_analyzer(name="broken", accepts=on.matrices(), **DECLARED)(broken)
    result = analyse(checkpoint(), [bad, WEIGHT])
    assert [failure.site for failure in result.failures] == [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    assert {(f.analyzer, f.error) for f in result.failures} == {("broken", "ZeroDivisionError")}
    assert len([m for m in result.measurements if m.analyzer == "weight-total"]) == 10


def test_an_undeclared_metric_is_a_failure_and_not_a_number() -> None:
    def wrong(view: Any) -> Iterator[Measurement | Skip]:
        yield Metric("other", "1", "Other.").at(view.site.name, 1.0)

    bad = weight_analyzer(name="wrong", accepts=on.matrices(), **DECLARED)(wrong)
    result = analyse(checkpoint(), [bad])
    assert not result.measurements
    assert {failure.error for failure in result.failures} == {"ValueError"}


def test_a_tensor_that_cannot_be_read_is_a_skip_and_the_rest_goes_on() -> None:
    class Failing:
        def __init__(self) -> None:
            self.inner = checkpoint()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def read(self, name: str) -> torch.Tensor:
            if name == "model.layers.1.mlp.up_proj.weight":
                raise UnreadableCheckpoint("the disk failed", where="memory")
            return self.inner.read(name)

    result = analyse(Failing(), [STORED, MLP])  # type: ignore[arg-type]
    assert Skip(None, "model.layers.1.mlp.up_proj.weight", "cannot read memory: the disk failed") in result.skips
    assert result.coverage.read == result.coverage.wanted - 1
    blocks = {m.site for m in result.measurements if m.analyzer == "mlp-total"}
    assert blocks == {"model.layers.0.mlp#mlp", "model.layers.2.mlp#mlp"}
    assert any(s.analyzer == "mlp-total" and "companion" in s.reason for s in result.skips)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_skipped_by_all_who_did_not_ask_for_it(value: float) -> None:
    tensors = llama()
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].index_put((torch.tensor(0), torch.tensor(3)), torch.tensor(value))

    @stored_analyzer(name="counts", accepts=on.floating(), reads_non_finite=True, **DECLARED)
    def counts(view: Any) -> Iterator[Measurement | Skip]:
        yield SUM.at(view.site.name, float((~torch.isfinite(view.tensor)).sum()))

    result = analyse(checkpoint(tensors), [counts, WEIGHT, MLP])
    assert {m.site: m.value for m in result.measurements if m.analyzer == "counts"}[name] == 1
    assert Skip("weight-total", name, "not finite") in result.skips
    assert Skip("mlp-total", "model.layers.1.mlp", "not finite") in result.skips
    assert len([m for m in result.measurements if m.analyzer == "weight-total"]) == 9


def test_a_block_beyond_the_budget_is_skipped_with_what_would_help_and_its_weights_are_not() -> None:
    result = analyse(checkpoint(), [WEIGHT, MLP], Options(max_memory=4000))
    reasons = [s.reason for s in result.skips if s.analyzer == "mlp-total"]
    assert len(reasons) == 3
    assert all("4,608 bytes" in reason and "--max-memory" in reason for reason in reasons)
    assert len([m for m in result.measurements if m.analyzer == "weight-total"]) == 10


def test_a_timeout_states_what_was_not_reached() -> None:
    def slow(view: Any) -> Iterator[Measurement | Skip]:
        import time

        time.sleep(0.05)
        yield from totals(view)

    lazy = weight_analyzer(name="slow", accepts=on.matrices(), **DECLARED)(slow)
    result = analyse(checkpoint(), [lazy], Options(timeout=0.01, threads=1))
    missed = [s for s in result.skips if s.analyzer is None]
    assert missed
    assert all("0.01 seconds" in s.reason for s in missed)
    assert result.coverage.read < result.coverage.wanted


def test_progress_counts_up_to_everything() -> None:
    seen: list[Progress] = []
    analyse(checkpoint(), [STORED], progress=seen.append)
    assert [p.tensors for p in seen] == list(range(1, 14))
    assert (seen[-1].tensors, seen[-1].bytes) == (seen[-1].all_tensors, seen[-1].all_bytes)


def test_the_whole_checkpoint_is_shown_last_with_the_hashes_that_were_asked_for() -> None:
    shown: list[Any] = []

    @checkpoint_analyzer(
        name="whole", accepts=on.checkpoint("all", hashed=lambda site: "up_proj" in site.name), **DECLARED
    )
    def whole(view: Any) -> Iterator[Measurement | Skip]:
        shown.append(view)
        yield SUM.at(view.site.name, len(view.hashes))

    source = checkpoint()
    result = analyse(source, [whole])
    assert set(source.reads) == {f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)}
    assert result.measurements == (Measurement("whole", "total", "#checkpoint", 3.0),)
    assert len(shown[0].sites) == 13


def test_content_hashes_tell_contents_apart_and_constants_from_weights() -> None:
    torch_seed = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 40, generator=torch_seed)
    assert content_hash(weight) == content_hash(weight.clone())
    assert content_hash(weight)[0] != content_hash(weight.T.contiguous())[0]
    assert content_hash(weight)[1]
    for dull in (torch.ones(40, 40), torch.eye(40), torch.zeros(0), torch.ones(1), torch.tensor(3.0)):
        assert not content_hash(dull)[1]
    assert content_hash(torch.arange(3, dtype=torch.uint8))[1]
    assert content_hash(weight.bfloat16())[1]


def test_memory_that_runs_out_on_the_cpu_is_a_failure_of_that_site() -> None:
    def greedy(view: Any) -> Iterator[Measurement | Skip]:
        if "layers.1" in view.site.name:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 10 TB")
        yield from totals(view)

    hungry = weight_analyzer(name="hungry", accepts=on.matrices(), **DECLARED)(greedy)
    result = analyse(checkpoint(), [hungry])
    assert {f.error for f in result.failures} == {"OutOfMemory"}
    assert len(result.measurements) == 7


def test_memory_that_runs_out_on_the_device_sends_the_job_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapse_cli.engine import job as jobs

    attempts: list[str] = []

    def greedy(view: Any) -> Iterator[Measurement | Skip]:
        attempts.append(view.site.name)
        if attempts.count(view.site.name) == 1 and "layers.1.mlp.up" in view.site.name:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from totals(view)

    # no CUDA device is needed to see the fallback: the first attempt is told that it runs on one
    monkeypatch.setattr(jobs, "_device", lambda _view: torch.device("cuda"))
    hungry = weight_analyzer(name="hungry", accepts=on.matrices(), **DECLARED)(greedy)
    result = analyse(checkpoint(), [hungry], Options(threads=1))
    assert not result.failures
    assert len(result.measurements) == 10
    assert attempts.count("model.layers.1.mlp.up_proj.weight") == 2
    assert any("analysed on the CPU" in notice for notice in result.notices)


def test_a_chain_of_layers_is_freed_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen linear layers, each paired with the next: never more than a few are held at once."""
    import gc
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watched(view: Any) -> Iterator[Measurement | Skip]:
        nonlocal most
        gc.collect()
        alive.append(weakref.ref(view.tensor))
        most = max(most, sum(ref() is not None for ref in alive))
        yield skip(view.site.name, "seen")

    def pairs(view: Any) -> Iterator[Measurement | Skip]:
        yield skip(view.site.name, "pair")

    single = weight_analyzer(name="watched", accepts=on.matrices(), **DECLARED)(watched)
    paired = block_analyzer(name="pairs", accepts=on.block("linear", Role.LINEAR, says="chains"), **DECLARED)(pairs)
    tensors = {f"net.{2 * i}.weight": torch.randn(20, 20) for i in range(16)}
    tensors |= {f"net.{2 * i}.bias": torch.zeros(20) for i in range(16)}
    result = analyse(checkpoint(tensors), [single, paired], Options(threads=1))
    assert len([s for s in result.skips if s.analyzer == "pairs"]) >= 14
    assert most <= 3


def test_analyzers_of_tests_are_frozen_records() -> None:
    assert isinstance(WEIGHT, Analyzer)
    with pytest.raises(AttributeError):
        WEIGHT.view = "block"  # type: ignore[misc]


def test_ctrl_c_stops_jobs_that_run_and_begins_no_other() -> None:
    import threading

    seen: list[str] = []
    release = threading.Event()

    def interrupting(view: Any) -> Iterator[Measurement | Skip]:
        seen.append(view.site.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        release.wait(0.3)
        yield from totals(view)

    stopper = weight_analyzer(name="stopper", accepts=on.matrices(), **DECLARED)(interrupting)
    with pytest.raises(KeyboardInterrupt):
        analyse(checkpoint(llama(40)), [stopper, WEIGHT], Options(threads=2))
    assert len(seen) < 20
