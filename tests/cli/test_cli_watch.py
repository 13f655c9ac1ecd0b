"""The command `watch`."""

import io
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "views/mlflow"))
from made_journal import header, trial, write

from nasforge.cli import app as cli
from nasforge.cli.live import Watch
from nasforge.cli.watch import follow
from nasforge.experiment.journal import Journal
from nasforge.views.reader import Reader


def followed(folder, steps, terminal=False):
    """What `watch` writes while `steps` happen between its looks."""
    reader, text, left = Reader(folder), io.StringIO(), iter(steps)
    reader.refresh()
    console = Console(file=text, width=80, force_terminal=terminal)
    state = follow(reader, Watch(console), sleep=lambda seconds: next(left)())
    return state, text.getvalue()


def test_it_follows_a_driver_and_ends_with_it(tmp_path):
    folder = write(tmp_path / "runs" / "made", [header(), *trial(0)])
    journal = Journal(folder)  # holds the lock

    def grow(*numbers):
        for number in numbers:
            for event in trial(number):
                journal.append(event)

    def end():
        grow(2, 3)
        journal.close()

    state, text = followed(folder, [lambda: grow(1), end, lambda: None])
    assert len(state.trials) == 4
    lines = text.splitlines()
    assert "Watching 'made'" in lines[0]
    assert ["trial 1 " in lines[1], "trial 2 " in lines[2], "trial 3 " in lines[3]] == [True] * 3
    assert "val/accuracy 0.8100" in lines[1]


def test_a_terminal_shows_one_screen_of_80_columns(tmp_path):
    folder = write(tmp_path / "runs" / "made", [header(), *trial(0), *trial(1, "running")])
    journal = Journal(folder)
    _, text = followed(folder, [journal.close, lambda: None], terminal=True)
    assert "running" in text and "Best val/accuracy" in text
    assert max(len(line) for line in text.replace("\x1b", "\n").splitlines()) <= 90


def test_an_ended_search_is_summarised_at_once(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "made", [header(budget={"trials": 3}), *trial(0), *trial(1), *trial(2)])
    assert cli.main(["watch", "made"]) == 0
    out = capfd.readouterr().out
    assert "made: 3 finished" in out and "nasforge show made" in out and "--log" not in out
    write(tmp_path / "runs" / "made", trial(3, "failed"))
    assert cli.main(["watch", "made"]) == 0
    assert "See why trial 3 failed: nasforge show made --trial 3 --log" in capfd.readouterr().out


def test_a_trial_that_a_stopped_search_left_open_is_interrupted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "made", [header(), *trial(0), *trial(1, "running")])
    for command in ("show", "watch"):
        monkeypatch.setattr("nasforge.cli.watch._SILENT_S", 0.0)
        assert cli.main([command, "made"]) == 0
        assert "made: 1 finished, 1 interrupted" in capfd.readouterr().out


def test_the_search_of_a_fit_has_the_name_that_show_takes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "cells" / "search", [header(budget={"trials": 1}), *trial(0)])
    (tmp_path / "runs" / "cells" / "fit.jsonl").write_text("")
    assert cli.main(["watch", "cells"]) == 0
    captured = capfd.readouterr()
    assert "'cells/search'" in captured.err and "cells/search: 1 finished" in captured.out
    assert cli.main(["show", "cells/search"]) == 0
    assert "cells/search: 1 finished" in capfd.readouterr().out


def test_show_says_how_long_it_took(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "made", [replace(header(budget={"trials": 3}), schema=2), *trial(0)])
    assert cli.main(["show", "made"]) == 0
    assert "elapsed." in capfd.readouterr().out
    assert cli.main(["watch", "nobody"]) == 2
