"""The process of a worker: calls come through a pipe, answers go back, and it ends when the pipe or its parent does."""

import os
import pickle
import signal
import sys
import threading
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

__all__ = ["serve"]


def serve(pipe: Connection, prepare: bytes) -> None:
    """Calls from the pipe, answers into it, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # stdout belongs to the report
    sys.stdout.flush()
    os.dup2(2, 1)
    prepared = pickle.loads(prepare)  # noqa: S301 - from the process that began this one
    if prepared is not None:
        prepared()
    pipe.send((True, None))
    while True:
        try:
            call = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        pipe.send_bytes(_answer(call))


def _answer(call: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(call)  # noqa: S301 - as above
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:  # noqa: BLE001 - whoever waits for the result decides what it means
        try:
            return pickle.dumps((False, error))
        except Exception:  # noqa: BLE001 - foreign exceptions may hold anything
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _die_with_parent() -> None:
    """Wait for the end of the process that began this one: nobody would read what is still being done."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
