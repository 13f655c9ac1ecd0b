"""Printed commands: a shell reads from them the words that were meant."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from nasforge.core.command_line import command_for, command_line

NAMES = ["runs 2", "it's", 'say "x"', "läufe 日本", "$HOME", "a;b&c", "*", "(x)", "new\nline", "~", "`id`", "50%", "#1"]
NAMES += ["a\tb", "\x1b[31m", "\\x\n'", "\udcff9"]


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_reads_the_words_that_were_meant(name: str, tmp_path: Path) -> None:
    command = command_for(tmp_path / name / "first", "retrain", "--top", name)
    words = ["nasforge", "retrain", "first", "--top", name, "--runs-dir", str(tmp_path / name)]
    assert command.isprintable()
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    assert [os.fsdecode(word) for word in shell.stdout.split(b"\0")[:-1]] == words
    if name.isprintable():
        assert shlex.split(command) == words


def test_the_default_runs_folder_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_for(tmp_path / "runs" / "first", "show") == "nasforge show first"
    assert command_for(Path("runs/first"), "show") == "nasforge show first"
    assert command_for(Path("other/first"), "show") == f"nasforge show first --runs-dir {tmp_path}/other"


def test_passwords_are_left_out() -> None:
    line = command_line("search", "tiny", "--tracking-uri", "http://me:secret@host:1", "--set", "a.b=c@d")
    assert line == "nasforge search tiny --tracking-uri http://host:1 --set a.b=c@d"
    assert command_line("track", "x", "--tracking-uri=http://me:secret@host") == (
        "nasforge track x --tracking-uri=http://host"
    )
