"""A clock that a test moves, for times that a busy machine must not change."""

import threading
import time


class Clock:
    """In the thread that makes it, sleeping moves this clock, and nothing else does.

    Attributes:
        passed: seconds since the clock was made.
    """

    def __init__(self, monkeypatch):
        self.passed = 0.0
        thread, sleep = threading.get_ident(), time.sleep
        for name in ("monotonic", "perf_counter"):
            began = getattr(time, name)()
            monkeypatch.setattr(time, name, lambda began=began: began + self.passed)
        monkeypatch.setattr(
            time, "sleep", lambda seconds: self.move(seconds) if threading.get_ident() == thread else sleep(seconds)
        )

    def move(self, seconds):
        self.passed += seconds
