"""Lines for the user while a command works: where a function sends them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Takes a line for the user."""


def to_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)


def silent(line: str) -> None:
    """Print nothing."""
