"""Several requests at once, in threads that an interrupted program need not wait for."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORKERS = 8
GRACE = 0.3
"""Seconds that requests in flight are given to clear up after themselves when the work ends early."""
T = TypeVar("T")


def in_parallel(jobs: Sequence[Callable[[], T]], *, stop: threading.Event | None = None) -> list[T]:
    """The results of all jobs in their order. An error of one, or a signal, ends them all, and sets `stop`."""
    stop = stop or threading.Event()
    results: list[Future[T]] = [Future() for _ in jobs]
    waiting: queue.SimpleQueue[tuple[Callable[[], T], Future[T]]] = queue.SimpleQueue()
    for job in zip(jobs, results, strict=True):
        waiting.put(job)
    threads = [threading.Thread(target=_work, args=(waiting, stop), daemon=True) for _ in jobs[:WORKERS]]
    for thread in threads:
        thread.start()
    try:
        for done in wait(results, return_when=FIRST_EXCEPTION).done:
            done.result()
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(GRACE / len(threads))
        raise
    return [result.result() for result in results]


def _work(waiting: queue.SimpleQueue[tuple[Callable[[], T], Future[T]]], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            job, result = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            result.set_result(job())
        except BaseException as error:  # noqa: BLE001 (raised where the results are awaited)
            result.set_exception(error)
