"""Drivers with a Ray of their own: stopped by signals at any moment, and Ray killed under them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_toys
import pytest

from nasforge.core.events import Interrupted
from nasforge.experiment.journal import JOURNAL, read_events
from nasforge.experiment.state import load_state
from nasforge.runners.ray_tune.private_folder import PREFIX, private_folder
from nasforge.testing.kills import command_line, descendants

pytestmark = [pytest.mark.timeout(280)]

WORDS = (
    "search",
    "nested.yaml",
    "--evaluator",
    "cli_toys:planted",
    "--set",
    "evaluator.seconds=0.2",
    "--name",
    "first",
)
RAY = ("--tracking-uri", "none", "--pruner", "none", "--set", "runner.cpus=2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cli_toys.write_space(tmp_path)
    scratch = Path(tempfile.mkdtemp(prefix="nf", dir="/tmp"))  # short, as sockets' paths have to be
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli_toys.__file__).parent))
    return tmp_path


@pytest.fixture
def scratch(place: Path) -> Iterator[Path]:
    folder = Path(tempfile.gettempdir())
    yield folder
    assert list(folder.glob("*")) == []
    folder.rmdir()


def start(place: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nasforge", *WORDS, *RAY, *more]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(what: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not what() and time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)


def told(place: Path) -> int:
    journal = place / "runs/first" / JOURNAL
    return journal.read_text().count('"told"') if journal.exists() else 0


def process_of(driver: subprocess.Popen[str], name: str) -> int:
    """Id of a process of the driver's Ray; 0 while there is none."""
    return next((p for p in descendants(driver.pid) if name in command_line(p).split("\0")[0]), 0)


@pytest.mark.slow
@pytest.mark.ray
def test_sigterm_again_and_again_stops_a_search_once_and_is_no_crash(place: Path, scratch: Path) -> None:
    driver = start(place, "--max-trials", "60", "--json")
    wait_until(lambda: told(place) >= 2, driver)
    for _ in range(4):
        driver.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 130, err
    assert "stopped on SIGTERM at" in err and "*** SIGTERM received" not in err and out.startswith("{")
    state = load_state(place / "runs/first")
    assert any(isinstance(event, Interrupted) for event in read_events(place / "runs/first"))
    assert state.open_trials and all(trial.idle_attempts == 0 for trial in state.open_trials)


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_while_ray_starts(place: Path, scratch: Path) -> None:
    driver = start(place, "--max-trials", "60")
    wait_until(lambda: bool(process_of(driver, "gcs_server")), driver)
    driver.send_signal(signal.SIGTERM)
    _, err = driver.communicate(timeout=100)
    assert driver.returncode == 130 and "the same command continues: nasforge search" in err, err


def test_a_driver_that_ends_while_ray_starts_says_so_all_the_same() -> None:
    code = "import os; from nasforge.runners.ray_tune.local_cluster import last_words"
    for end, message in (
        ("os._exit(1)", "error: it ended\n"),
        ("os.kill(os.getpid(), 9)", "error: it ended\n"),
        ("pass", ""),
    ):
        script = f"{code}\nwith last_words('error: it ended'):\n    {end}"
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr == message


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_ray_that_is_killed_is_said_and_the_same_command_continues(place: Path, scratch: Path, victim: str) -> None:
    driver = start(place, "--max-trials", "8")
    wait_until(lambda: told(place) >= 2, driver)
    os.kill(process_of(driver, victim), signal.SIGKILL)
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 2 and out == ""
    assert f"error: Ray on this machine is gone: its process {victim} has ended" in err
    assert load_state(place / "runs/first").counts()["failed"] == 0
    again = start(place, "--max-trials", "8")
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    state = load_state(place / "runs/first")
    assert state.counts()["finished"] == 8 and all(trial.result for trial in state.trials.values())


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_killed_driver_leaves_is_removed_when_the_next_one_starts(place: Path, scratch: Path) -> None:
    driver = start(place, "--max-trials", "60")
    wait_until(lambda: told(place) >= 1, driver)
    left = [*descendants(driver.pid)]
    driver.kill()
    driver.wait()
    assert list(scratch.glob(f"{PREFIX}*"))
    with private_folder() as folder:
        assert list(scratch.glob(f"{PREFIX}*")) == [folder.path]
    time.sleep(1)
    assert not [process for process in left if "ray" in command_line(process)]


def test_folders_of_living_drivers_and_of_others_are_kept(place: Path, scratch: Path) -> None:
    with private_folder() as first:
        assert first.path.stat().st_mode & 0o777 == 0o700
        (scratch / f"{PREFIX}young").mkdir()  # no lock yet
        (scratch / f"{PREFIX}link").symlink_to(place)
        old = scratch / f"{PREFIX}old"
        old.mkdir()
        (old / "lock").touch()
        with private_folder() as second:
            names = {path.name for path in scratch.iterdir()}
            assert names == {first.path.name, second.path.name, f"{PREFIX}young", f"{PREFIX}link"}
    (scratch / f"{PREFIX}young").rmdir()
    (scratch / f"{PREFIX}link").unlink()
    with private_folder() as kept:
        kept.keep = True
    assert kept.path.exists()
    with private_folder():
        assert not kept.path.exists()
