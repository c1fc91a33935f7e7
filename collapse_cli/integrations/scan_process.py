"""The process in which one checkpoint is scanned beside a training run: a request comes on stdin, one answer goes back.

It is begun anew for each checkpoint, so that nothing of it stays in memory between two, and not by `multiprocessing`,
which would run an unguarded training script a second time.
"""

import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from collapse_cli.core.finding import Severity
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Report, to_json
from collapse_cli.errors import CollapseError
from collapse_cli.integrations.scalars import scalars
from collapse_cli.runs import ScanOptions, scan
from collapse_cli.whole_file import write_whole

__all__ = ["REPORT", "Request", "Scanned", "environment", "main", "report_file", "scanned"]

#: Name of the report in a checkpoint's folder, and end of its name beside a checkpoint that is one file.
REPORT: Final = "collapse.json"
#: Added to the niceness of the training, as the command `nice` does: a tenth of a processor that the training fills.
_NICENESS: Final = 10
#: Findings that the answer quotes; the report has them all.
_QUOTED: Final = 3
#: Seconds between two looks whether the training is still there.
_HEARTBEAT: Final = 1.0
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@final
@dataclass(frozen=True, slots=True)
class Request:
    """A checkpoint, the training step it was saved at, and what is wanted of its scan."""

    path: Path
    step: int
    policy: Policy
    options: ScanOptions
    rules: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Scanned:
    """What came of a checkpoint: where its report lies, its headline numbers, and its worst findings in words.

    With a `failure` there is no report.
    """

    path: Path
    step: int
    report: Path | None = None
    scalars: dict[str, float] | None = None
    outcome: str = ""
    worst: Severity | None = None
    messages: tuple[str, ...] = ()
    failure: str = ""


def report_file(path: Path) -> Path:
    """In a checkpoint that is a folder; beside one that is a file."""
    return path / REPORT if path.is_dir() else path.with_name(f"{path.stem}.{REPORT}")


def environment(request: Request) -> dict[str, str]:
    """The variables of this process for a scan's: its share of the processors, and no GPU unless one is named."""
    options = request.options
    own = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(options.threads or 1))
    return own if options.device.startswith("cuda") else own | {"CUDA_VISIBLE_DEVICES": ""}


def scanned(request: Request) -> Scanned:
    """Scan, write the report whole, and say what it says in short."""
    try:
        if not request.path.exists():
            # a trainer keeps so many checkpoints and removes the others
            return Scanned(request.path, request.step, failure="it was removed before its turn")
        report = scan([request.path], request.policy, replace(request.options, threads=request.options.threads or 1))
        file = report_file(request.path)
        write_whole(file, to_json(report))
    except CollapseError as error:
        return Scanned(request.path, request.step, failure=str(error))
    return _answer(request, file, report)


def _answer(request: Request, file: Path, report: Report) -> Scanned:
    findings = [finding for subject in report.subjects for finding in subject.findings if finding.suppressed is None]
    findings.sort(key=lambda finding: -finding.severity.rank)
    said = [
        f"{finding.severity}: {finding.measurement.rule} at {finding.measurement.site}: {finding.message}"
        for finding in findings
        if finding.severity is not Severity.INFO
    ]
    broken = [failure.message for subject in report.subjects for failure in subject.failures]
    return Scanned(
        request.path,
        request.step,
        file,
        scalars(report, request.rules),
        report.verdict.outcome,
        findings[0].severity if findings else None,
        tuple((said + broken)[:_QUOTED]),
    )


def main() -> None:
    """Answer the request on stdin; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ctrl-C is for the training, which may catch it; if it ends, so does this
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    request: Request = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the process that began this one
    with answers:
        answers.write(pickle.dumps(scanned(request)))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_HEARTBEAT)
    os._exit(1)
