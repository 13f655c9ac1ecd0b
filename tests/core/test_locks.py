"""Locks on files: busy ones, and storage that has none."""

import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
from waiting import wait_until

from nasforge.core.locks import Lock, is_locked


def test_one_process_has_the_lock_until_it_closes_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not is_locked(file)
    lock = Lock(file)
    assert is_locked(file)
    with pytest.raises(BlockingIOError):
        Lock(file)
    lock.close()
    assert not is_locked(file)
    Lock(file).close()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_storage_without_locks_lets_everybody_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda handle, kind: refuse(code))
    lock = Lock(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
    lock.close()


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_busy_lock_is_none_of_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    (tmp_path / "lock").touch()
    monkeypatch.setattr(fcntl, "flock", lambda handle, kind: refuse(code))
    assert is_locked(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        Lock(tmp_path / "lock")


def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    try:
        assert is_locked(tmp_path / "lock")
        lock.close()  # closes the file, as the system does when the parent is killed
        wait_until(lambda: not is_locked(tmp_path / "lock"), "the lock is released although the child lives", 20)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def refuse(code: int) -> None:
    raise OSError(code, os.strerror(code))
