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
TICK = 0.1
T = TypeVar("T")


def in_parallel(
    jobs: Sequence[Callable[[], T]],
    *,
    stop: threading.Event | None = None,
    tick: Callable[[], object] | None = None,
) -> list[T]:
    """The results of all jobs in their order. An error of one, or a signal, ends them all, and sets `stop`.

    `tick` is called by the thread that waits, some ten times a second and at the end.
    """
    stop = stop or threading.Event()
    results: list[Future[T]] = [Future() for _ in jobs]
    waiting: queue.SimpleQueue[tuple[Callable[[], T], Future[T]]] = queue.SimpleQueue()
    for job in zip(jobs, results, strict=True):
        waiting.put(job)
    threads = [threading.Thread(target=_work, args=(waiting, stop), daemon=True) for _ in jobs[:WORKERS]]
    for thread in threads:
        thread.start()
    try:
        _await(results, tick)
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(GRACE / len(threads))
        raise
    return [result.result() for result in results]


def _await(results: Sequence[Future[T]], tick: Callable[[], object] | None) -> None:
    waiting = True
    while waiting:
        done, pending = wait(results, timeout=TICK if tick else None, return_when=FIRST_EXCEPTION)
        for one in done:
            one.result()
        waiting = bool(pending)
        if tick is not None:
            tick()


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
