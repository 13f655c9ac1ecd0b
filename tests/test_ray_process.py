"""Drivers with a Ray of their own: stopped by signals at any moment, and Ray killed under them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_toys
import pytest
from waiting import wait_until

from nasforge.core.events import Interrupted
from nasforge.core.layout import JOURNAL
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.runners.ray_tune import private_folder as folders
from nasforge.runners.ray_tune.private_folder import PREFIX, private_folder
from nasforge.testing.kills import command_line, descendants

pytestmark = [pytest.mark.timeout(900)]

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


def wait_for(driver: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    def so_far() -> bool:
        assert driver.poll() is None, driver.communicate()
        return what()

    wait_until(so_far, "what the driver does", limit_s=300)


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
    wait_for(driver, lambda: told(place) >= 2)
    for _ in range(4):
        driver.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 130, err
    assert "stopped on SIGTERM at" in err and "*** SIGTERM received" not in err and out.startswith("{")
    state = load_state(place / "runs/first")
    assert any(isinstance(event, Interrupted) for event in read_events(place / "runs/first"))
    assert state.open_trials and all(trial.idle_attempts == 0 for trial in state.open_trials)


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_while_ray_starts(place: Path, scratch: Path) -> None:
    driver = start(place, "--max-trials", "60")
    wait_for(driver, lambda: bool(process_of(driver, "gcs_server")))
    driver.send_signal(signal.SIGTERM)
    _, err = driver.communicate(timeout=300)
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
    driver = start(place, "--max-trials", "24")  # 8 would be over before a busy test kills it
    wait_for(driver, lambda: told(place) >= 2)
    process = process_of(driver, victim)
    assert process, "0 would be all processes of the test"
    os.kill(process, signal.SIGKILL)
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 2 and out == ""
    assert f"error: Ray on this machine is gone: its process {victim} has ended" in err
    assert load_state(place / "runs/first").counts()["failed"] == 0
    again = start(place, "--max-trials", "24")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    state = load_state(place / "runs/first")
    assert state.counts()["finished"] == 24 and all(trial.result for trial in state.trials.values())


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_killed_driver_leaves_is_removed_when_the_next_one_starts(place: Path, scratch: Path) -> None:
    driver = start(place, "--max-trials", "60")
    wait_for(driver, lambda: told(place) >= 1)
    left = [*descendants(driver.pid)]
    driver.kill()
    driver.wait()
    assert list(scratch.glob(f"{PREFIX}*"))
    with private_folder() as folder:
        assert list(scratch.glob(f"{PREFIX}*")) == [folder.path]
    wait_until(
        lambda: not [process for process in left if "ray" in command_line(process)], "Ray's processes have ended"
    )


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


def test_a_folder_that_another_driver_takes_for_a_leftover_is_not_used(
    place: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the making of the lock and the locking."""
    lock, locked = folders.fcntl.flock, []

    def late(handle: int, how: int) -> None:
        locked.append(handle)
        if len(locked) == 1:
            folders._remove_leftovers(scratch)
        lock(handle, how)

    monkeypatch.setattr(folders.fcntl, "flock", late)
    with private_folder() as folder:
        assert len(locked) == 3, "the first lock, that of the other driver, and another"
        assert list(scratch.iterdir()) == [folder.path] and (folder.path / "lock").is_file()


def test_a_folder_is_removed_also_where_a_killed_process_writes_a_last_file(
    place: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, removed = shutil.rmtree, []

    def too_soon(path: Path, **options: bool) -> None:
        remove(path, **options)
        removed.append(path)
        if len(removed) == 1:
            path.mkdir()
            (path / "raylet.out").touch()

    monkeypatch.setattr(folders.shutil, "rmtree", too_soon)
    with private_folder() as folder:
        pass
    assert removed == [folder.path] * 2 and not folder.path.exists()
