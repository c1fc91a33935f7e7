"""Checkpoints scanned one after the other beside a training run, which never waits for them and never fails by them."""

import logging
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, final

from collapse_cli.analyzers import catalogue, find
from collapse_cli.core.finding import Severity
from collapse_cli.core.policy import Policy
from collapse_cli.core.text import plain
from collapse_cli.errors import BadPolicy, UnknownAnalyzer
from collapse_cli.integrations.scalars import HEADLINES
from collapse_cli.integrations.scan_process import Request, Scanned, environment
from collapse_cli.runs import ScanOptions

__all__ = ["BESIDE", "WAIT", "Scanner", "Watch", "quietly"]

#: How a scan beside a training run measures: not on the GPU, which is the training's, and with one thread.
BESIDE: Final = ScanOptions(device="cpu", threads=1)
#: Seconds that the end of the training waits for scans. A convention: longer than most scans, short enough for a job.
WAIT: Final = 300.0
#: Checkpoints that may wait for their turn; of more, the oldest is given up, for the newest says most.
_QUEUE: Final = 2
#: Seconds that a killed process may take to be gone.
_DYING: Final = 5.0
#: The search path of this process is the scan's: what can be imported here can be imported there.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; from collapse_cli.integrations.scan_process import main; main()"
)
_log = logging.getLogger("collapse")
Given = ParamSpec("Given")


def quietly(call: Callable[Given, object]) -> Callable[Given, None]:
    """The same call, whose errors are logged: a training run never fails by being watched."""

    @wraps(call)
    def safe(*args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the boundary to somebody else's training run
            _log.warning("watching the checkpoints failed; the training goes on", exc_info=True)

    return safe


@final
class Scanner:
    """A bounded queue of checkpoints, and one thread, alive while there is work, that hands each to a process."""

    def __init__(self, *, waiting: int = _QUEUE) -> None:
        self._changed = threading.Condition()
        self._capacity = waiting
        self._waiting: deque[Request] = deque()
        self._done: deque[Scanned] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_running = self._is_closed = False

    def submit(self, request: Request) -> None:
        """Scan it when its turn comes; returns at once."""
        with self._changed:
            if len(self._waiting) == self._capacity:
                given_up = self._waiting.popleft()
                _log.warning("%s is not scanned: newer checkpoints wait", _shown(given_up.path))
            self._waiting.append(request)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._work, name="collapse-scanner", daemon=True).start()

    def finished(self) -> list[Scanned]:
        """What was scanned since the last call, oldest first."""
        found = []
        while self._done:
            found.append(self._done.popleft())
        return found

    def wait(self, seconds: float) -> bool:
        """Whether everything is scanned within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_running, seconds)

    def close(self) -> None:
        """Give up what waits and end what runs; nothing is taken after it."""
        with self._changed:
            for request in self._waiting:
                _log.warning("%s is not scanned: the training is over", _shown(request.path))
            self._waiting.clear()
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_running = False
                    self._changed.notify_all()
                    return
                request = self._waiting.popleft()
            try:
                self._done.append(self._scanned(request))
            except Exception as error:  # noqa: BLE001 - a thread's traceback on stderr helps nobody
                failure = f"{type(error).__name__}: {error}"
                self._done.append(Scanned(request.path, request.step, failure=failure))

    def _scanned(self, request: Request) -> Scanned:
        with subprocess.Popen(  # noqa: S603 - this interpreter, and a constant program
            [sys.executable, "-P", "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(request),
        ) as process:
            with self._changed:
                self._process = process
                if self._is_closed:
                    process.kill()
            answer, said = process.communicate(pickle.dumps(request))
            with self._changed:
                self._process = None
        if process.returncode == 0:
            found: Scanned = pickle.loads(answer)  # noqa: S301 - from the process begun here
            return found
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        failure = f"its scan ended with code {process.returncode}" + (f": {last}" if last else "")
        return Scanned(request.path, request.step, failure=failure)


@final
class Watch:
    """What all callbacks do with the checkpoints of a run: hand them over, log what came of them, say when to stop.

    Raises:
        UnknownAnalyzer: the policy or a rule names what does not exist.
        BadPolicy: `stop_on` is not a severity.
    """

    def __init__(
        self,
        policy: Policy = Policy(),
        *,
        rules: Sequence[str] = HEADLINES,
        stop_on: str | None = None,
        options: ScanOptions = BESIDE,
    ) -> None:
        _check(policy, rules, stop_on, options)
        self._policy, self._rules, self._options = policy, tuple(rules), options
        self._stop_on = None if stop_on is None else Severity(stop_on)
        # made when the first checkpoint comes: before that, some trainers copy their callbacks to other processes
        self._scanner: Scanner | None = None
        self.is_over = False

    @property
    def may_stop(self) -> bool:
        """Whether a finding ends the training."""
        return self._stop_on is not None

    def begin(self, path: Path, step: int) -> None:
        """Have the checkpoint of a step scanned."""
        if self._scanner is None:
            self._scanner = Scanner()
        self._scanner.submit(Request(path.absolute(), step, self._policy, self._options, self._rules))

    def news(self) -> list[Scanned]:
        """What was scanned since the last call, logged; what failed is logged only."""
        found = self._told()
        for one in found:
            if self._stop_on is not None and one.worst is not None and one.worst.rank >= self._stop_on.rank:
                _log.warning("%s has a finding of severity %s: the training is stopped", _shown(one.path), one.worst)
                self.is_over = True
        return found

    def end(self, seconds: float) -> list[Scanned]:
        """What is scanned within so many seconds; the rest is given up, and another training may begin."""
        if self._scanner is not None and not self._scanner.wait(seconds):
            _log.warning("scans are not done within %g seconds of the end of the training", seconds)
            self._scanner.close()
            self._scanner.wait(_DYING)
        found = self._told()
        self._scanner, self.is_over = None, False
        return found

    def _told(self) -> list[Scanned]:
        found = [] if self._scanner is None else self._scanner.finished()
        for one in found:
            _say(one)
        return [one for one in found if one.scalars is not None]


def _check(policy: Policy, rules: Sequence[str], stop_on: str | None, options: ScanOptions) -> None:
    """What is asked for exists: a typing error is found now, not after the first day of training."""
    available = catalogue(plugins=options.plugins)
    find(available, select=policy.select, ignore=policy.ignore)
    known = [f"{one.name}/{metric.name}" for one in available.analyzers for metric in one.manual.metrics]
    for glob in rules:
        if not any(fnmatchcase(rule, glob) for rule in known):
            close = get_close_matches(glob, known, n=1)
            hint = (
                f'did you mean "{close[0]}"?' if close else "`collapse explain NAME` lists the metrics of an analyzer"
            )
            raise UnknownAnalyzer(f'no rule or pattern "{glob}"', hint=hint)
    if stop_on is not None and stop_on not in ("warning", "error"):
        raise BadPolicy(f'stop_on="{stop_on}"', expected="should be warning or error")


def _say(one: Scanned) -> None:
    if one.scalars is None:
        _log.warning("%s is not scanned: %s", _shown(one.path), plain(one.failure))
        return
    is_bad = one.outcome != "pass"
    text = "".join(f"\n  {plain(message)}" for message in one.messages)
    level = logging.WARNING if is_bad or one.messages else logging.INFO
    _log.log(level, "%s: %s; %s%s", _shown(one.path), one.outcome, _shown(one.report), text)


def _shown(path: Any) -> str:
    return plain(str(path))
