"""Calls in several threads that never keep a process from ending, as those of an executor do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def in_threads(work: Callable[[_Item], None], items: Iterable[_Item], threads: int) -> None:
    """Call `work` with each item, and return when all calls have ended.

    Args:
        work: called in any order; after one that raises no other begins.
        items: one call each.
        threads: calls at a time; with 1 all are made in order by the caller's thread.

    Raises:
        BaseException: the first that `work` raised.
    """
    rest = iter(items)
    if threads == 1:
        for item in rest:
            work(item)
        return
    lock = threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            with lock:
                try:
                    item = next(rest)
                except StopIteration:
                    return
            try:
                work(item)
            except BaseException as error:  # raised again below, in the caller's thread
                errors.append(error)

    workers = [threading.Thread(target=run, name="nasforge-mlflow", daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def within(seconds: float, work: Callable[[], None]) -> None:
    """Call `work` in a thread, and return when it has ended.

    Args:
        seconds: the longest to wait; the thread goes on until the process ends.
        work: the call.

    Raises:
        TimeoutError: it has not ended in time.
        BaseException: what `work` raised.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    worker = threading.Thread(target=run, name="nasforge-mlflow", daemon=True)
    worker.start()
    worker.join(seconds)
    if errors:
        raise errors[0]
    if worker.is_alive():
        raise TimeoutError(f"timed out after {seconds:g} s")
