"""Wait for what another thread or process does, however busy the machine is."""

import time


def wait_until(condition, what="", limit_s=120.0):
    """Return as soon as `condition` is true; fails after `limit_s` seconds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(0.02)
