"""One side of a comparison, alone in its process: `python bench/side.py SIDE JSON` prints seconds, peak and figures.

Every side first prepares (imports, loading of a peer's model, a warm-up on something small) and then runs against the
clock once. The peak is `ru_maxrss` of the whole process, nothing subtracted.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # has no types
from attention import attention_analyzers, attention_floor

#: Their name → ours, and what ours is raised to.
SHARED_METRICS = {
    "alpha": ("alpha", 1),
    "D": ("ks_distance", 1),
    "xmin": ("xmin", 1),
    "stable_rank": ("stable_rank", 1),
    "spectral_norm": ("spectral_norm", 2),
}

Figures = dict[str, dict[str, float]]
Prepared = Callable[[], Figures]


def collapse(path: str, select: list[str], sites: list[str] | None = None) -> Prepared:
    """`collapse_cli.runs.scan` on the CPU: opening, reading, digest, measuring and judging."""
    import torch
    from safetensors.torch import save_file

    from collapse_cli.core.policy import Policy
    from collapse_cli.runs import ScanOptions, scan

    def run(target: Path, sites: tuple[str, ...] = ()) -> Figures:
        report = scan([target], Policy(select=tuple(select)), ScanOptions(device="cpu", sites=sites))
        (subject,) = report.subjects
        if subject.status not in ("complete", "empty"):
            raise SystemExit(f"{target}: {subject.status}: {subject.failures[:3]} {subject.skips[:3]}")
        figures: Figures = {}
        for measurement in subject.measurements:
            figures.setdefault(measurement.site, {})[measurement.metric] = measurement.value
        return figures

    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.safetensors"
        save_file({"encoder.layer.0.attention.self.query.weight": torch.randn(48, 40)}, small)
        run(small)
    return lambda: run(Path(path), tuple(sites or ()))


def diff(path: str, other: str, sites: list[str]) -> Prepared:
    """`collapse_cli.compare.diff` of two checkpoints on the CPU."""
    from collapse_cli.compare import diff as compared
    from collapse_cli.core.policy import Policy
    from collapse_cli.runs import ScanOptions

    def run() -> Figures:
        options = ScanOptions(device="cpu", sites=tuple(sites))
        (subject,) = compared(path, [other], Policy(), options).subjects
        if subject.status != "complete":
            raise SystemExit(f"{path}: {subject.status}: {subject.failures[:3]} {subject.skips[:3]}")
        figures: Figures = {}
        for measurement in subject.measurements:
            figures.setdefault(measurement.site, {})[measurement.metric] = measurement.value
        return figures

    return run


def floor(path: str, names: list[str]) -> Prepared:
    """What no exact method can leave out: reading, a float64 Gram matrix and its eigenvalues, matrix by matrix."""
    import torch
    from safetensors import safe_open

    torch.linalg.eigvalsh(torch.eye(64, dtype=torch.float64))
    files = _files(Path(path))

    def run() -> Figures:
        for file in files:
            with safe_open(file, "pt") as stored:
                for name in sorted(set(stored.keys()) & set(names)):
                    matrix = stored.get_tensor(name).double()
                    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
                    torch.linalg.eigvalsh(tall.T @ tall)
        return {}

    return run


def weightwatcher_encoder(path: str) -> Prepared:
    """WeightWatcher with its default settings on the encoder that transformers loads; loading is not timed."""
    from transformers import AutoModel

    return _weightwatcher(AutoModel.from_pretrained(path).float())


def weightwatcher_subset(path: str, names: list[str]) -> Prepared:
    """WeightWatcher with its default settings on a module of these matrices, in float32; loading is not timed."""
    import torch
    from safetensors import safe_open

    module = torch.nn.Module()
    for file in _files(Path(path)):
        with safe_open(file, "pt") as stored:
            for name in sorted(set(stored.keys()) & set(names)):
                matrix = stored.get_tensor(name).float()
                linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
                linear.weight = torch.nn.Parameter(matrix)
                module.add_module(name.removesuffix(".weight").replace(".", "_"), linear)
    return _weightwatcher(module)


def _weightwatcher(model: Any) -> Prepared:
    import torch
    import weightwatcher  # type: ignore[import-not-found,import-untyped,unused-ignore]  # has no types

    weightwatcher.WeightWatcher(model=torch.nn.Sequential(torch.nn.Linear(64, 80))).analyze()

    def run() -> Figures:
        details = weightwatcher.WeightWatcher(model=model).analyze()
        if not (details["status"] == "success").all():
            raise SystemExit(f"WeightWatcher left out layers:\n{details[['longname', 'status', 'warning']]}")
        return {
            row["longname"]: {ours: float(row[theirs]) for theirs, (ours, _) in SHARED_METRICS.items()}
            for _, row in details.iterrows()
        }

    return run


def dump(path: str, select: list[str]) -> Prepared:
    """`collapse_cli.runs.scan` of a dump on the CPU: opening, streaming, digest, measuring and judging."""
    return collapse(path, select)


def batch(path: str, jobs: int) -> Prepared:
    """`collapse_cli.batch.batch` over a folder on the CPU, start of the workers and summary included.

    The figures tell when the first report was there, and when the last.
    """
    from collapse_cli.batch import BatchOptions
    from collapse_cli.batch import batch as batched
    from collapse_cli.runs import ScanOptions

    def run() -> Figures:
        began, ends = time.perf_counter(), list[float]()
        with tempfile.TemporaryDirectory() as folder:
            how = BatchOptions(
                results=Path(folder), jobs=jobs, advances=lambda _progress: ends.append(time.perf_counter() - began)
            )
            report = batched(path, options=ScanOptions(device="cpu"), how=how)
        if any(subject.status == "failed" for subject in report.subjects):
            raise SystemExit(f"{path}: a subject failed")
        return {"reports": {"first": ends[0], "last": ends[-1], "count": len(ends)}}

    return run


def scan_folder(path: str) -> Prepared:
    """`collapse_cli.runs.scan` of the same folder in one process, with nothing written."""
    from collapse_cli.runs import ScanOptions, scan

    def run() -> Figures:
        scan([path], options=ScanOptions(device="cpu"))
        return {}

    return run


def gram_floor(path: str) -> Prepared:
    """One float64 product XᵀX of all features of a dump, in memory before the clock starts."""
    from safetensors import safe_open

    with safe_open(path, "pt") as stored:
        features = stored.get_tensor("features").double()
    features[:1000].T @ features[:1000]

    def run() -> Figures:
        return {"": {"trace": float((features.T @ features).trace())}}

    return run


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


SIDES: dict[str, Callable[..., Prepared]] = {
    side.__name__: side
    for side in (
        attention_analyzers,
        attention_floor,
        batch,
        collapse,
        diff,
        dump,
        floor,
        gram_floor,
        scan_folder,
        weightwatcher_encoder,
        weightwatcher_subset,
    )
}


def main() -> None:
    """Prepare, run once against the clock, and print one line of JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        run = SIDES[sys.argv[1]](**json.loads(sys.argv[2]))
        process = psutil.Process()
        before = process.memory_info().rss
        read = process.io_counters().read_chars
        started, spent = time.perf_counter(), time.process_time()
        figures = run()
        seconds, spent = time.perf_counter() - started, time.process_time() - spent
        read = process.io_counters().read_chars - read
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {"seconds": seconds, "processor_seconds": spent, "peak": peak, "before": before, "read": read}
    print(json.dumps(measured | {"figures": figures}))


if __name__ == "__main__":
    main()
