"""Expect an error by its kind and key instead of by its wording."""

import pytest

from nasforge.core.errors import KINDS


def raises(error, kind, key=None, *names):
    """Return a context manager that expects one error.

    Args:
        error: its class.
        kind: its kind, one of `KINDS`.
        key: its key; None: the key does not matter.
        names: values that the message must name: a file, a number, a column.
    """
    assert kind in KINDS

    def check(raised):
        matches = raised.kind == kind and key in (None, raised.key) and all(str(name) in str(raised) for name in names)
        if not matches:
            print(f"expected {kind} at {key} with {names}, got {raised.kind} at {raised.key}: {raised}")
        return matches

    return pytest.raises(error, check=check)
