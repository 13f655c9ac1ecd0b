"""A made experiment with trials of every status."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "views/mlflow"))
from made_journal import mixed, trial, write


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write(tmp_path / "runs" / "made", [*mixed(), *trial(8, "running")])
