"""How far `nasforge track` is: a bar on a terminal, lines elsewhere, and nothing in the JSON."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_journal import header, trial, write
from rich.console import Console
from test_campaigns import content_of

from nasforge.cli.app import main
from nasforge.views.mlflow import progress, tracker
from nasforge.views.mlflow.campaigns import track_campaign
from nasforge.views.mlflow.client import MlflowClient
from nasforge.views.mlflow.delivery import Delivery
from nasforge.views.mlflow.progress import ProgressLines
from nasforge.views.mlflow.tracker import track

TRIALS = 40


@pytest.fixture
def slow(runs_dir: Path, as_a_server: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search that is not delivered yet, and a server that takes its time for each run."""
    real = Delivery._write

    def write_slowly(self: Delivery, *args: Any) -> None:
        time.sleep(0.02)
        real(self, *args)

    monkeypatch.setattr(Delivery, "_write", write_slowly)
    monkeypatch.setattr(tracker, "_BETWEEN_LOOKS_S", 0.05)
    return write(runs_dir / "made", [header(), *(event for number in range(TRIALS) for event in trial(number))])


def test_progress_grows_to_the_number_of_events(slow: Path) -> None:
    told: list[tuple[int, int]] = []
    count = track(slow, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (count, count) and {total for _, total in told} == {count}
    done = [number for number, _ in told]
    assert len({*done}) > 3 and done == sorted(done)


def test_a_terminal_shows_a_bar(slow: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("nasforge.cli.track.log", lambda: console)
    assert main(["track", "made", "--runs-dir", str(slow.parent)]) == 0
    shown = re.findall(r"([\d,]+) of ([\d,]+)", screen.getvalue())
    assert len({done for done, _ in shown}) > 2 and shown[-1][0] == shown[-1][1]
    assert "events" in screen.getvalue()
    out, err = capfd.readouterr()
    assert "delivered." in out and err == ""


def test_elsewhere_lines_say_it_and_the_json_is_clean(
    slow: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_FIRST_S", 0.1)
    monkeypatch.setattr(progress, "_PAUSE_S", 0.1)
    assert main(["track", "made", "--runs-dir", str(slow.parent), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["experiment"] == "made"
    lines = re.findall(r"MLflow has (\d+) of (\d+) events of 'made', \d+ s to go\. Ctrl-C leaves them to: (.*)", err)
    assert len(lines) > 1
    assert {command for _, _, command in lines} == {f"nasforge track made --runs-dir {slow.parent}"}


def test_a_short_delivery_says_nothing(
    slow: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_FIRST_S", 600.0)
    assert main(["track", "made", "--runs-dir", str(slow.parent)]) == 0
    assert capfd.readouterr().err == ""


def test_the_rest_is_judged_by_what_was_sent_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    lines: list[str] = []
    told = ProgressLines(lines.append, "made", "events", "nasforge track made")
    for now, done in ((1.0, 1000), (4.0, 1200), (5.0, 1300), (15.0, 1600), (30.0, 1600)):  # noqa: B007  (the clock)
        told(done, 2000)
    assert lines == [
        "MLflow has 1,200 of 2,000 events of 'made', 16 s to go. Ctrl-C leaves them to: nasforge track made",
        "MLflow has 1,600 of 2,000 events of 'made', 10 s to go. Ctrl-C leaves them to: nasforge track made",
    ]


def test_a_campaign_says_it_too(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_FIRST_S", 0.1)
    real = MlflowClient.create_run

    def create_slowly(self: Any, *args: Any, **options: Any) -> Any:
        time.sleep(0.05)
        return real(self, *args, **options)

    monkeypatch.setattr(MlflowClient, "create_run", create_slowly)
    folder = runs_dir / "camp"
    folder.mkdir()
    lines: list[str] = []
    count = track_campaign(folder, content_of("evolution", "random"), None, say=lines.append)
    (line,) = lines
    assert f" of {count} runs of 'camp'" in line and f"nasforge track camp --runs-dir {runs_dir}" in line
    told: list[tuple[int, int]] = []
    changed = content_of("evolution", "random", "spos")
    count = track_campaign(folder, changed, None, say=lines.append, progress=lambda *pair: told.append(pair))
    assert told == [(done, count) for done in range(count + 1)] and len(lines) == 1
