"""The same executor over Ray core tasks: the machines of a cluster, and its GPUs. Optional, the extra `ray`.

Core tasks and not `ray.util.multiprocessing` or joblib over Ray, which lose the tasks of a worker that dies.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar, final

from collapse_cli.batch.workers import LIVES
from collapse_cli.errors import InputError, TimedOut, WorkerDied

__all__ = ["RayWorkers"]

Given = ParamSpec("Given")
Result = TypeVar("Result")

#: Seconds between two looks at new calls and deadlines while tasks run.
_TICK: Final = 0.1
#: Seconds that a worker of Ray may need to begin and to import torch; they do not count for its first task.
_STARTING: Final = 60.0

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@final
class RayWorkers(Executor):
    """At most `count` tasks at once, or one a processor of the cluster (a GPU where `on_gpu`).

    Joins the cluster that `RAY_ADDRESS` names, else begins one on this machine and ends it afterwards.

    Raises:
        InputError: Ray is not installed, or no cluster can be joined or begun.
    """

    def __init__(self, count: int | None = None, *, seconds: float | None = None, on_gpu: bool = False) -> None:
        if find_spec("ray") is None:
            raise InputError("--executor ray needs Ray", hint='pip install "collapse-cli[ray]"')
        # read when Ray is imported: nothing is told to anybody about a run
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray: Any = ray
        self._is_own = not ray.is_initialized()
        if self._is_own:
            try:
                # of a cluster that is joined nothing may be said here
                how_to_begin = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
                ray.init(log_to_driver=False, logging_level="error", **how_to_begin)
            except Exception as error:
                raise InputError("cannot join or begin a Ray cluster", got=str(error).splitlines()[0]) from error
        owned = ray.cluster_resources()
        self._count = count or max(1, int(owned.get("GPU" if on_gpu else "CPU", 1)))
        self._seconds = seconds
        # a worker that dies is begun again as often as one of this machine
        how = {"num_cpus": 1, "num_gpus": 1 if on_gpu else 0, "max_retries": LIVES - 1}
        self._remote = ray.remote(**how)(_call)
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._is_closed = self._is_killed = False
        self._manager = threading.Thread(target=self._manage, name="collapse-ray", daemon=True)
        self._manager.start()

    def submit(self, fn: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> "Future[Result]":
        """The future of a call, which must be picklable.

        Raises:
            RuntimeError: after `shutdown`.
        """
        if self._is_closed:
            raise RuntimeError("cannot submit after shutdown")
        future: Future[Result] = Future()
        self._calls.put((future, fn, args, dict(kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; what runs is finished, what waits as well unless `cancel_futures`."""
        self._is_closed = True
        if cancel_futures:
            self._cancel_waiting()
        if wait:
            self._manager.join()
            if self._is_own:
                self._is_own = False
                self._ray.shutdown()

    def kill(self) -> None:
        """End at once: what waits is cancelled, what runs is killed."""
        self._is_killed = True
        self.shutdown(cancel_futures=True)

    def _cancel_waiting(self) -> None:
        while True:
            try:
                self._calls.get_nowait()[0].cancel()
            except Empty:
                return

    def _manage(self) -> None:
        running: dict[Any, tuple[Future[Any], float]] = {}
        while not self._is_killed:
            self._fill(running)
            if not running:
                if self._is_closed and self._calls.empty():
                    return
                time.sleep(_TICK)
                continue
            ready, _ = self._ray.wait(list(running), num_returns=1, timeout=_TICK)
            for reference in ready:
                self._settle(running.pop(reference)[0], reference)
            self._stop_late(running)
        for reference, (future, _begun) in running.items():
            self._ray.cancel(reference, force=True)
            future.set_exception(WorkerDied("the workers were stopped"))

    def _fill(self, running: dict[Any, tuple["Future[Any]", float]]) -> None:
        while len(running) < self._count:
            try:
                future, function, args, kwargs = self._calls.get_nowait()
            except Empty:
                return
            if future.set_running_or_notify_cancel():
                running[self._remote.remote(function, args, kwargs)] = future, time.monotonic()

    def _settle(self, future: "Future[Any]", reference: Any) -> None:
        errors = self._ray.exceptions
        try:
            is_result, value = self._ray.get(reference)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            said = str(error).splitlines()[0]
            future.set_exception(WorkerDied(f"its worker process died {LIVES} times", got=said))
        except Exception as error:  # noqa: BLE001 - whoever waits for the result decides what it means
            future.set_exception(error)
        else:
            if is_result:
                future.set_result(value)
            else:
                future.set_exception(value)

    def _stop_late(self, running: dict[Any, tuple["Future[Any]", float]]) -> None:
        if self._seconds is None:
            return
        for reference, (future, begun) in list(running.items()):
            if time.monotonic() - begun > self._seconds + _STARTING:
                del running[reference]
                self._ray.cancel(reference, force=True)
                said = f"its worker did not answer for {self._seconds:g} seconds"
                future.set_exception(TimedOut(said, hint="--timeout gives it more"))


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """The result, or what was raised: as a value, so that Ray does not wrap it in an error of its own."""
    try:
        return True, function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - as above
        return False, error
