"""Work done aside: in a thread, for a result to be asked for later, which no end of a process waits for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar
from weakref import WeakSet

T = TypeVar("T")
P = ParamSpec("P")

_begun: WeakSet[threading.Thread] = WeakSet()


def begin(name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a function in a thread of that name; its exception is raised where the result is asked for."""
    # No executor: Python joins the threads of those before it ends, and a model may think for minutes.
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001 - whatever it is, it is whoever asks for the result that it concerns
            result.set_exception(exc)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _begun.add(thread)
    thread.start()
    return result


def wait(patience_s: float) -> None:
    """Let what was begun come to its end, for so long at most: a process that ends under a thread of torch's aborts."""
    deadline = time.monotonic() + patience_s
    for thread in list(_begun):
        thread.join(max(0.0, deadline - time.monotonic()))
