"""Discovery, selection and plugins."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from collapse_cli import analyzers
from collapse_cli.analyzer import CHECKPOINT_VIEWS, Analyzer
from collapse_cli.analyzers import catalogue, find
from collapse_cli.errors import UnknownAnalyzer

BUILT_IN = catalogue(plugins=False)


def names(*select: str, ignore: tuple[str, ...] = ()) -> set[str]:
    return {analyzer.name for analyzer in find(BUILT_IN, select=select, ignore=ignore)}


def test_all_weight_analyzers_of_the_first_two_tiers_are_there() -> None:
    expected = {
        "integrity": "dtype-range non-finite shard-index sparsity tied-tensors weight-outliers",
        "spectrum": "conditioning effective-rank power-law random-matrix stable-rank",
        "units": "dead-units duplicate-units normalization-scale",
        "heads": "embedding-table head-geometry minority-collapse",
        "attention-weights": "head-redundancy qk-spectrum",
        "experts": "expert-similarity router-weights",
        "codebook": "codebook-geometry",
        "adapters": "lora-spectrum",
        "optimizer": "optimizer-state",
    }
    found: dict[str, list[str]] = {}
    of_weights = [a for a in BUILT_IN.analyzers if a.view in CHECKPOINT_VIEWS]
    for analyzer in of_weights:
        found.setdefault(analyzer.manual.family, []).append(analyzer.name)
    assert {family: " ".join(members) for family, members in found.items()} == expected


def test_all_analyzers_of_structured_dumps_and_of_pairs_and_runs_are_there() -> None:
    expected = {
        "tokens": "length-collapse massive-activations token-similarity",
        "attention": "attention-entropy attention-information attention-sink head-similarity",
        "routing": "expert-load router-confidence",
        "codes": "cluster-collapse codebook-usage",
        "latents": "mean-versus-sampled posterior-collapse",
        "logits": "confidence logit-scale prediction-collapse softmax-collapse",
        "sparse": "activation-density dead-activations dead-latents",
        "samples": "distribution-distance memorisation mode-coverage precision-recall same-condition-diversity "
        "sample-diversity",
        "drift": "naive-loss-minimisation representation-drift update-rank weight-drift",
        "similarity": "feature-learning layer-redundancy representation-similarity",
        "merging": "merge-interference neuron-matching",
        "runs": "forgetting generation-drift prediction-histogram-drift trajectory trend",
    }
    for family, members in expected.items():
        found = [analyzer.name for analyzer in BUILT_IN.analyzers if analyzer.manual.family == family]
        assert " ".join(sorted(found)) == members


def test_selection_takes_names_families_globs_and_all() -> None:
    everything = {analyzer.name for analyzer in BUILT_IN.analyzers}
    assert names() == names("all") == everything
    assert names("effective-rank") == {"effective-rank"}
    assert names("experts") == {"expert-similarity", "router-weights"}
    assert names("*-rank", "codebook") == {"effective-rank", "stable-rank", "update-rank", "codebook-geometry"}
    assert names("spectrum", ignore=("*-rank",)) == {"conditioning", "power-law", "random-matrix"}
    assert names("all", ignore=("all",)) == set()


@pytest.mark.parametrize(
    ("token", "guess"), [("efective-rank", "effective-rank"), ("spectrm", "spectrum"), ("zzz", "collapse list")]
)
@pytest.mark.parametrize("where", ["select", "ignore"])
def test_a_token_that_matches_nothing_is_an_error_with_a_guess(token: str, guess: str, where: str) -> None:
    with pytest.raises(UnknownAnalyzer, match=f'no analyzer, family or pattern "{token}"') as caught:
        find(BUILT_IN, **{where: (token,)})  # type: ignore[arg-type]
    assert guess in str(caught.value)


def test_reading_the_manuals_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from collapse_cli.analyzers import catalogue\n"
        "assert len(catalogue().analyzers) >= 24\n"
        "print(sorted({'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _entry(name: str, value: str = "tests.test_catalogue:PLUGIN") -> EntryPoint:
    return EntryPoint(name, value, analyzers.PLUGIN_GROUP)


def _plugin() -> Analyzer:
    from dataclasses import replace

    first = BUILT_IN.analyzers[0]
    return replace(first, manual=replace(first.manual, name="their-own"))


PLUGIN = _plugin()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (_entry("effective-rank"), "already taken"),
        (_entry("broken", "no_such_module:thing"), "ModuleNotFoundError"),
        (_entry("number", "tests.test_catalogue:BUILT_IN"), "not an Analyzer"),
        (_entry("another-name"), "the entry is named another-name, the analyzer their-own"),
    ],
)
def test_a_plugin_that_fails_is_named_with_the_reason_and_the_rest_works(
    entry: EntryPoint, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyzers, "entry_points", lambda **_: [entry, _entry("their-own")])
    found = catalogue()
    assert reason in found.broken[entry.name]
    assert find(found, select=("their-own",)) == (PLUGIN,)
    assert "their-own" not in {analyzer.name for analyzer in catalogue(plugins=False).analyzers}


def test_selecting_a_broken_plugin_by_name_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(**_: Any) -> list[EntryPoint]:
        return [_entry("broken", "no_such_module:thing")]

    monkeypatch.setattr(analyzers, "entry_points", entries)
    with pytest.raises(UnknownAnalyzer, match="failed to load: ModuleNotFoundError"):
        find(catalogue(), select=("broken",))
