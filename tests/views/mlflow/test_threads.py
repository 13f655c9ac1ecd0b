"""Calls in several threads: each once, the first error is the caller's, and none keeps a process from ending."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from nasforge.views.mlflow.threads import in_threads


@pytest.mark.parametrize("threads", [1, 4])
def test_each_item_is_one_call(threads: int) -> None:
    calls: list[int] = []
    in_threads(calls.append, range(200), threads)
    assert sorted(calls) == list(range(200))


def test_as_many_calls_at_a_time_as_there_are_threads() -> None:
    together = threading.Barrier(4, timeout=60)
    in_threads(lambda item: together.wait(), range(8), 4)


def test_one_thread_is_the_callers_own() -> None:
    names: list[str] = []
    in_threads(lambda item: names.append(threading.current_thread().name), range(3), 1)
    assert names == [threading.current_thread().name] * 3


@pytest.mark.parametrize("threads", [1, 3])
def test_after_an_error_no_call_begins(threads: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            begun.append(number)
            yield number

    failed = threading.Event()

    def work(item: int) -> None:
        if item == 2:
            failed.set()
            raise ConnectionError("the line is cut")
        if threads > 1:
            failed.wait(60)

    with pytest.raises(ConnectionError, match="the line is cut"):
        in_threads(work, items(), threads)
    assert len(begun) < 20


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    code = """
import threading, time
from nasforge.views.mlflow.threads import in_threads
hanging = threading.Event()
def hang(item):
    hanging.set()
    time.sleep(600)
threading.Thread(target=in_threads, args=(hang, [1, 2], 2), daemon=True).start()
hanging.wait()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
