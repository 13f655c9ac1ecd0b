"""Commands as processes: stopped by signals, with streams that cannot be written, in a folder that is gone."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cli_toys
import pytest

from nasforge.api import stopping
from nasforge.api.search import search
from nasforge.cli import app as cli
from nasforge.core.errors import KINDS, StopNow
from nasforge.experiment.state import load_state
from nasforge.testing.toys import Planted, toy_config

TOY = ("--evaluator", "cli_toys:signalled", "--tracking-uri", "none")
LOCAL = (*TOY, "--runner", "local")
SEARCH = ("search", "nested.yaml", *LOCAL, "--max-trials", "5", "--name", "first", "--pruner", "none")
STOPPABLE = {
    "search": SEARCH,
    "tune": ("tune", "first", "--runner", "local", "--max-trials", "5"),
    "calibrate": ("calibrate", "nested.yaml", *LOCAL, "--networks", "3", "--epochs", "3"),
    "compare": ("compare", "--space", "nested.yaml", *TOY, "--strategies", "evolution", "--max-trials", "5"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "_ONE_STOP_S", 600.0)  # between two signals of a busy machine may lie seconds
    cli_toys.write_space(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one may come late
    yield tmp_path
    cli_toys.wait_for_senders()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("verb", STOPPABLE)
@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_a_stopped_command_ends_with_130_and_its_continuation(place, capfd, monkeypatch, verb, signals):
    words = STOPPABLE[verb]
    if verb == "tune":
        assert cli.main(list(SEARCH)) == 0
    monkeypatch.setattr(cli_toys, "SIGNALS", list(signals))
    assert cli.main(list(words)) == 130
    cli_toys.wait_for_senders()
    out, err = capfd.readouterr()
    if verb == "tune":
        out, err = out.partition("Next:")[2].partition("\n")[2], err.partition("first-tuned")[2]
    assert f"the same command continues: nasforge {shlex.join(words)}\n" in err and "Next:" not in out
    if verb in ("search", "tune"):
        how = "" if signals == (signal.SIGINT,) else "on SIGTERM "
        done = 2 if signals == (signal.SIGINT,) else 1
        assert f"stopped {how}at {done} of 5 trials" in err
        assert cli.main(list(words)) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("signals", [(signal.SIGTERM,) * 3, (signal.SIGINT, signal.SIGTERM, signal.SIGTERM)])
def test_signals_in_a_row_are_one_stop(place, signals):
    class Signals(Planted):
        def __call__(self, proposal, report):
            if report.number == 2:
                cli_toys.send(signals)
            return super().__call__(proposal, report)

    config = toy_config(place)
    with pytest.raises(StopNow, match="stopped on SIGTERM at 2 of 12 trials"):
        search(config, made_evaluator=Signals(), say=lambda text: None)
    cli_toys.wait_for_senders()
    state = load_state(config.folder)
    assert state.counts()["running"] == 1 and state.trials[2].idle_attempts == 0
    assert search(config, made_evaluator=Planted(), say=lambda text: None).counts()["finished"] == 12


def test_an_impatient_search_ends_with_the_first_ctrl_c_and_goes_on_later(place):
    class Signals(Planted):
        def __call__(self, proposal, report):
            if report.number == 2 and report.attempt == 1:
                cli_toys.send([signal.SIGINT])
            return super().__call__(proposal, report)

    config = toy_config(place)
    with pytest.raises(StopNow, match="stopped at once at 2 of 12 trials"):
        search(config, made_evaluator=Signals(), say=lambda text: None, patient=False)
    cli_toys.wait_for_senders()
    assert load_state(config.folder).counts()["running"] == 1
    done = search(config, made_evaluator=Signals(), say=lambda text: None, patient=False)
    assert done.counts()["finished"] == 12 and done.trials[2].attempts == 2


def test_sigterm_before_the_search_begins_stops_it(place, capfd, monkeypatch):
    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli_toys, "signalled", signalled)
    assert cli.main(list(SEARCH)) == 130
    assert "the same command continues: nasforge search" in capfd.readouterr().err


def nasforge(*words, redirections):
    """Run a command through a shell; returns its exit code and stderr."""
    command = f"{shlex.join([sys.executable, '-m', 'nasforge', *words])} {redirections}"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli_toys.__file__).parent)}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_stdout_is_said_and_loses_nothing(place, more):
    code, err = nasforge(*SEARCH, *more, redirections="> /dev/full")
    assert code == 1 and "cannot be written to stdout: No space left" in err and "Traceback" not in err
    assert load_state(place / "runs/first").counts()["finished"] == 5


@pytest.mark.parametrize("words", [("--help",), ("spaces",), ("spaces", "--json")])
def test_a_reader_that_has_gone_needs_no_word(place, words):
    code, err = nasforge(*words, redirections="| true")
    assert code == 1 and err == ""


def test_a_search_survives_that_nobody_can_read_its_progress(place):
    assert nasforge(*SEARCH, redirections="2> /dev/full")[0] == 0
    assert nasforge(*SEARCH, "--max-trials", "6", redirections="<&- >&- 2>&-")[0] == 0
    assert load_state(place / "runs/first").counts()["finished"] == 6


def test_a_working_folder_that_is_gone_is_said(place, capfd, monkeypatch):
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (["show", "first"], ["spaces", "--json"]):
        assert cli.main(words) == 2
        assert "the working folder has been deleted" in capfd.readouterr().err


def test_a_process_that_begins_in_a_folder_that_is_gone_says_so(place):
    command = "mkdir gone; cd gone; rmdir ../gone; exec " + shlex.join([sys.executable, "-m", "nasforge", "spaces"])
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert ended.returncode == 2 and "error: the working folder has been deleted" in ended.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_file_that_the_system_refuses_is_one_sentence(place, capfd, monkeypatch, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), "/closed/cells")

    monkeypatch.setattr("nasforge.api.predict.predict", refuse)
    assert cli.main(["predict", "cells", "a.png", "--json"]) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1 and "error: /closed/cells: " in err and os.strerror(number) in err
    assert json.loads(out)["kind"] in KINDS and "/closed/cells" in json.loads(out)["error"]


def test_a_name_that_no_file_can_have_is_one_sentence(place, capfd):
    assert cli.main(["predict", "x" * 300, "a.png"]) == 2
    err = capfd.readouterr().err
    assert "no file has a name of more than 255 bytes" in err and "Traceback" not in err
