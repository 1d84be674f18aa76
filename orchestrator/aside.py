"""Work done aside: in a thread, for a result to be asked for later, which the end of the process does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def begin(name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a function in a thread of that name; its exception is raised where the result is asked for."""
    # No executor: Python joins the threads of those before it ends, and a model may think for minutes.
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001 - whatever it is, it is whoever asks for the result that it concerns
            result.set_exception(exc)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
