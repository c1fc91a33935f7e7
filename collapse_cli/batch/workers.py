"""An executor of spawned, long-lived worker processes that outlives the death of any of them.

`ProcessPoolExecutor` fails every task when one process dies. Here the task that a dead worker held is run again by a
new one, and fails alone when it has cost two workers; one that takes longer than allowed costs its worker and fails.
"""

import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, final

from collapse_cli.batch.serving import serve
from collapse_cli.errors import TimedOut, WorkerDied

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["LIVES", "Workers"]

Given = ParamSpec("Given")
Result = TypeVar("Result")

#: Workers that a task may cost: one may fall to a person or to other programs' memory, two are the task's doing.
LIVES: Final = 2
#: Workers in a row that may die before they take their first task; more, and none will ever live.
_FAILED_STARTS: Final = 3


@final
@dataclass(eq=False)
class _Task:
    """A call as bytes, the future that waits for it, and how many workers it has cost."""

    call: bytes
    future: "Future[Any]"
    deaths: int = 0


@final
@dataclass(eq=False)
class _Worker:
    """One process, the pipe to it, the task it holds, and when that must be done; not ready while it imports."""

    process: "SpawnProcess"
    pipe: Connection
    task: _Task | None = None
    deadline: float | None = None
    is_ready: bool = False


@final
@dataclass(eq=False)
class _State:
    """What the caller's thread and the manager's share, under one lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    queue: deque[_Task] = field(default_factory=deque)
    is_closed: bool = False
    is_killed: bool = False


@final
class Workers(Executor):
    """At most `count` processes, begun when there is work for them.

    `prepare` runs once in each before its first task; `seconds` is what one task may take before its worker is killed.
    """

    def __init__(
        self, count: int, *, prepare: Callable[[], object] | None = None, seconds: float | None = None
    ) -> None:
        self._count, self._seconds = count, seconds
        self._prepare = pickle.dumps(prepare)
        self._state = _State()
        self._woken, self._waking = os.pipe()
        self._manager = threading.Thread(target=self._manage, name="collapse-workers", daemon=True)
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._manager.start()

    def submit(self, fn: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> "Future[Result]":
        """The future of a call, which must be picklable.

        Raises:
            RuntimeError: after `shutdown`.
        """
        task = _Task(pickle.dumps((fn, args, kwargs)), Future())
        with self._state.lock:
            if self._state.is_closed:
                raise RuntimeError("cannot submit after shutdown")
            self._state.queue.append(task)
        self._wake()
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; what runs is finished, what waits as well unless `cancel_futures`."""
        with self._state.lock:
            self._state.is_closed = True
            dropped = list(self._state.queue) if cancel_futures else []
            if cancel_futures:
                self._state.queue.clear()
        for task in dropped:
            task.future.cancel()
        self._wake()
        if wait:
            self._manager.join()

    def kill(self) -> None:
        """End at once: what waits is cancelled, what runs is killed with its worker."""
        self._state.is_killed = True
        self.shutdown(wait=True, cancel_futures=True)

    @property
    def processes(self) -> tuple[int, ...]:
        """Process numbers of the workers that live."""
        return tuple(worker.process.pid or 0 for worker in list(self._workers))

    # --- the manager's thread ----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            os.write(self._waking, b"\0")
        except OSError:
            # the manager has ended and closed its side
            return

    def _manage(self) -> None:
        # Ctrl-C reaches the whole group: what is blocked here is blocked in the processes begun here
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while self._step():
                pass
        finally:
            for worker in self._workers:
                self._end(worker)
                if worker.task is not None:
                    worker.task.future.set_exception(WorkerDied("the workers were stopped"))
            self._give_up(WorkerDied("the workers were stopped"))
            os.close(self._woken)
            os.close(self._waking)

    def _step(self) -> bool:
        """Hand out, wait, take in; False when there is nothing left to do and nothing will come."""
        if self._state.is_killed:
            return False
        self._hand_out()
        busy = any(worker.task for worker in self._workers)
        with self._state.lock:
            if self._state.is_closed and not self._state.queue and not busy:
                return False
        sources: list[Any] = [self._woken]
        for worker in self._workers:
            sources += [worker.pipe, worker.process.sentinel]
        ready = wait(sources, self._patience())
        if self._woken in ready:
            os.read(self._woken, 4096)
        for worker in list(self._workers):
            # first the pipe: a worker may have answered before it died
            if worker.pipe in ready:
                self._take_in(worker)
            elif worker.process.sentinel in ready:
                self._bury(worker)
            elif worker.deadline is not None and time.monotonic() >= worker.deadline:
                self._stop_late(worker)
        return True

    def _hand_out(self) -> None:
        for worker in [one for one in self._workers if one.is_ready and one.task is None]:
            task = self._next()
            if task is None:
                return
            worker.task = task
            worker.deadline = None if self._seconds is None else time.monotonic() + self._seconds
            try:
                worker.pipe.send_bytes(task.call)
            except OSError:
                # it died in idleness, which is not the task's doing
                worker.task = None
                self._put_back(task)
                self._bury(worker)
        with self._state.lock:
            waiting = len(self._state.queue)
        starting = sum(not worker.is_ready for worker in self._workers)
        for _ in range(min(waiting - starting, self._count - len(self._workers))):
            self._workers.append(_begun(self._prepare))

    def _next(self) -> _Task | None:
        """The next call that nobody has cancelled meanwhile."""
        while True:
            with self._state.lock:
                if not self._state.queue:
                    return None
                task = self._state.queue.popleft()
            if task.future.running() or task.future.set_running_or_notify_cancel():
                return task

    def _put_back(self, task: _Task) -> None:
        with self._state.lock:
            self._state.queue.appendleft(task)

    def _patience(self) -> float | None:
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _take_in(self, worker: _Worker) -> None:
        try:
            is_result, value = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._bury(worker)
            return
        except Exception as error:  # noqa: BLE001 - an answer that cannot be unpickled is the task's, not the pool's
            is_result, value = False, error
        self._failed_starts = 0
        if not worker.is_ready:
            worker.is_ready = True
            return
        task, worker.task, worker.deadline = worker.task, None, None
        if task is None:
            return
        if is_result:
            task.future.set_result(value)
        else:
            task.future.set_exception(value)

    def _bury(self, worker: _Worker) -> None:
        """Run again what a dead worker held, unless it has cost too many."""
        self._end(worker)
        self._workers.remove(worker)
        why = _cause(worker.process.exitcode)
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                self._give_up(WorkerDied(f"{_FAILED_STARTS} workers in a row died before they were ready", got=why))
            return
        task = worker.task
        if task is None:
            return
        task.deaths += 1
        if task.deaths < LIVES:
            self._put_back(task)
            return
        task.future.set_exception(
            WorkerDied(
                f"its worker process died {LIVES} times",
                got=why,
                hint="out of memory? fewer --jobs, or a smaller --max-memory",
            )
        )

    def _give_up(self, error: WorkerDied) -> None:
        while (task := self._next()) is not None:
            task.future.set_exception(error)

    def _stop_late(self, worker: _Worker) -> None:
        task, worker.task = worker.task, None
        self._end(worker)
        self._workers.remove(worker)
        if task is not None:
            task.future.set_exception(
                TimedOut(f"its worker did not answer for {self._seconds:g} seconds", hint="--timeout gives it more")
            )

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"


def _begun(prepare: bytes) -> _Worker:
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, prepare), daemon=True)
    process.start()
    # with the last copy here closed, the death of the worker ends the pipe
    theirs.close()
    return _Worker(process, mine)
