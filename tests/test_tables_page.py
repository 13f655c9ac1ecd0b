"""docs/howto/tables.md as a reader follows it: its files written, its commands run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nasforge.cli.app import main
from nasforge.experiment.state import load_state

PAGE = Path(__file__).parents[1] / "docs/howto/tables.md"
DATA = os.environ.get("NASFORGE_DATA")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for block in blocks("python") + blocks("yaml"):
        name = re.match(r"# (\w+\.\w+)\n", block)
        assert name, block
        (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> None:
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
    else:
        assert words[0] == "nasforge"
        more = ["--tracking-uri", "none"] if words[1] == "search" else []
        assert main([*words[1:], *more]) == 0


def test_your_own_table(folder):
    for words in commands(blocks("bash")[1]):
        run(words)
    state = load_state(folder / "runs/tabled")
    assert state.accepted == 10, "two of the twelve points exceed 30k params, so the search ends before its budget"
    assert state.best and state.best.metrics["cost/params"] <= 30e3
    assert state.charged.worker_seconds <= 12 * 120
    assert state.best.metrics["val/accuracy"] == pytest.approx(
        max(5 / 20 + 8 / 100 + 0.1, 3 / 20 + 16 / 100 + 0.1) * 1.3
    )
    by_hand = load_state(folder / "runs/by_hand")
    assert by_hand.counts()["finished"] == 12 == by_hand.charged.worker_seconds
    assert by_hand.best and by_hand.best.metrics["val/accuracy"] == pytest.approx((5 / 20 + 16 / 100 + 0.1) * 1.3)


@pytest.mark.skipif(not DATA, reason="NASFORGE_DATA does not point to the folder with the tables")
def test_nasbench201(folder):
    (folder / "nasbench201_cifar10.npz").symlink_to(Path(DATA or "") / "nasbench201_cifar10.npz")
    (words,) = commands(blocks("bash")[0])
    run([*words, "--name", "page"])
    state = load_state(folder / "runs/page")
    assert state.counts()["finished"] == 150
    assert state.best and state.best.metrics["cost/millions"] <= 0.5
