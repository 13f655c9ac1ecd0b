"""Commands that are printed: read by a shell they run, from runs folders of any name, and show no password."""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import cli_toys
import pytest

import nasforge.api.compare
from nasforge.cli import app as cli
from nasforge.core.tracking_uri import VARIABLE

SEARCH = ("search", "nested.yaml", "--evaluator", "cli_toys:planted", "--runner", "local", "--epochs", "1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    cli_toys.write_space(tmp_path)
    return tmp_path


def run(capfd: Any, *words: str) -> tuple[int, str]:
    code = cli.main(list(words))
    captured = capfd.readouterr()
    return code, captured.out + captured.err


def printed(text: str) -> list[list[str]]:
    """The words of every command in a text, as a shell reads them."""
    return [shlex.split(line[line.index("nasforge ") :]) for line in text.splitlines() if "nasforge " in line]


@pytest.mark.parametrize("name", ["my runs", "r%20a", "it's", "läufe #1?", "$HOME", "-x"])
def test_the_commands_after_a_search_find_its_runs_folder(name: str, place: Path, capfd: Any) -> None:
    words = ("--max-trials", "1", "--tracking-uri", "none", "--name", "first", "--runs-dir", name)
    code, out = run(capfd, *SEARCH, *words, "--data", "digits")
    assert code == 0
    commands = printed(out)
    assert [words[:2] for words in commands] == [["nasforge", "retrain"], ["nasforge", "dashboard"]]
    for command in commands:
        assert command[command.index("--runs-dir") + 1] == str(place / name)
    code, out = run(capfd, "show", "first", *commands[0][3:])
    assert code == 0 and "first: 1 finished" in out


def test_the_command_after_a_search_in_vain_runs(place: Path, capfd: Any) -> None:
    words = ("--max-trials", "1", "--tracking-uri", "none", "--name", "broken", "--runs-dir", "my runs")
    code, out = run(capfd, *SEARCH, *words, "--set", "evaluator.fail=[0]")
    assert code == 1
    (command,) = printed(out)
    code, out = run(capfd, *command[1:])
    assert code == 0 and "planted failure" in out


def test_the_commands_after_tuning_are_lines_of_their_own(place: Path, capfd: Any) -> None:
    runs = ("--tracking-uri", "none", "--runs-dir", "my runs")
    assert run(capfd, *SEARCH, *runs, "--max-trials", "2", "--name", "first")[0] == 0
    code, out = run(capfd, "tune", "first", "--max-trials", "2", *runs)
    assert code == 0
    (command,) = printed(out)
    assert command == ["nasforge", "show", "first-tuned", "--runs-dir", f"{place}/my runs"]
    assert run(capfd, *command[1:])[0] == 0


def test_a_home_folder_may_stand_for_a_path(place: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "home"))
    words = ("--max-trials", "1", "--tracking-uri", "none", "--name", "first")
    code, printed = run(capfd, *SEARCH, *words, "--runs-dir", "~/runs")
    assert code == 0 and f"--runs-dir {place}/home/runs" in printed
    assert run(capfd, "show", "first", "--runs-dir", "~/runs")[0] == 0
    for command in ((*SEARCH, *words), ("show", "first"), ("dashboard",), ("compare", "first", "second")):
        code, printed = run(capfd, *command, "--runs-dir", "~nobody-of-this-name/runs")
        assert code == 2 and "no such user has a home folder" in printed


def test_a_stopped_command_shows_no_password(place: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(nasforge.api.compare, "compare", stopped)
    code, printed = run(capfd, "compare", "a b", "c", "--tracking-uri", "http://me:s3cr3t@host:5000")
    signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "nasforge compare 'a b' c --tracking-uri http://host:5000\n" in printed
    assert "password is left out" in printed and "s3cr3t" not in printed


@pytest.mark.parametrize("wrong", ["htpp://me:s3cr3t@host", "http://me:s3#cr3t@host", "me:s3cr3t@host"])
def test_a_refused_uri_shows_no_password(wrong: str, place: Path, capfd: Any) -> None:
    for command in ((*SEARCH, "--max-trials", "1"), ("compare", "a", "b")):
        code, printed = run(capfd, *command, "--tracking-uri", wrong)
        assert code == 2 and "cr3t" not in printed


def test_a_mistake_points_to_a_help_that_exists(place: Path, capfd: Any) -> None:
    code, printed = run(capfd, "serach", "tiny")
    assert code == 2 and printed.strip().endswith("See: nasforge --help")
    code, printed = run(capfd, "search", "--no-such-option")
    assert code == 2 and printed.strip().endswith("See: nasforge search --help")


def test_the_storage_of_optuna_may_have_any_name(place: Path, capfd: Any) -> None:
    words = ("--max-trials", "1", "--tracking-uri", "none", "--name", "first")
    assert run(capfd, *SEARCH, *words)[0] == 0
    code, printed = run(capfd, "track", "first", "--optuna", "sqlite:///my studies/100%25.db")
    assert code == 0 and (place / "my studies" / "100%.db").is_file()
    assert f"optuna-dashboard 'sqlite:///{place}/my studies/100%25.db'" in printed
    code, printed = run(capfd, "track", "first", "--optuna", "mysql://me:s3cr3t@127.0.0.1:9/x")
    assert code == 2 and "s3cr3t" not in printed
