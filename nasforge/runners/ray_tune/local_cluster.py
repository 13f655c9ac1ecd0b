"""A Ray of this machine for one search: nobody else can use it, and it asks nobody on the network.

Ray starts its processes with the environment of this one, so what they must not do is switched off there.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import ray._private.node
import ray._private.ray_constants
import ray._private.utils
import ray._private.worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.job_config import JobConfig

from nasforge.runners.ray_tune.private_folder import end_processes

_NEEDED = ("gcs_server", "raylet")
"""Ray's processes without which no work continues."""
_ENDED_AT_START = (
    "error: this process ended while Ray started; one of Ray's processes may have been killed for want of memory. "
    "Finished work is kept: run the same command to continue"
)
_HELD_S = 20.0
"""Seconds that a driver may take to end after Ray is gone."""


@contextmanager
def local_cluster(folder: Path, cpus: int | None, logical_gpus: int | None) -> Iterator[None]:
    """Start Ray in `folder` and end it after the block.

    Ray asks everyone who connects for a token, which is new for each cluster. It listens on the loopback interface
    only. The token is in the environment of Ray's processes, which only their user can read.

    Args:
        folder: private.
        cpus: that Ray may use; None for all.
        logical_gpus: that Ray is told to have; None for those that are there.
    """
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_AUTH_TOKEN_PATH": None,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for a Ray of one machine, which Linux has too
    }
    with _environment(settings), _watched(folder):
        try:
            with sigterm_is_ours(), _quiet(), last_words(_ENDED_AT_START):
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=logical_gpus,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    job_config=job_config(),
                    _temp_dir=str(folder / "r"),  # Ray opens its folder to everybody, but not the one above
                )
            yield
        finally:
            if _ended():
                end_processes(folder)  # those that are left would wait for the one that is gone
            shutdown()


def shutdown() -> None:
    """Leave Ray, and end it if it was started here."""
    with sigterm_is_ours():
        ray.shutdown()


def why_lost() -> str:
    """Explain to the user why the Ray started here ended; empty while it runs."""
    name = _ended()
    if not name:
        return ""
    return (
        f"Ray on this machine is gone: its process {name} has ended, perhaps killed for want of memory. Finished work "
        "is kept: run the same command to continue"
    )


def _ended() -> str:
    node = ray._private.worker._global_node
    if node is None:
        return ""
    processes: Mapping[str, Any] = node.all_processes
    ended = (name for name in _NEEDED for about in processes.get(name, ()) if about.process.poll() is not None)
    return next(ended, "")


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """End this process with a message if Ray is gone and holds the main thread.

    Ray's C++ code can wait for a server that is gone. After a minute it would end the process without a reason.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            reason = why_lost()
            if reason and not over.wait(_HELD_S):
                end_processes(folder)
                os.write(2, f"error: {reason}\n".encode())
                os._exit(2)

    threading.Thread(target=watch, name="ray-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def last_words(message: str) -> Iterator[None]:
    """Let another process print `message` on stderr if this one ends within the block.

    Ray's C++ code ends a driver at once if the raylet dies before the driver has registered with it.
    """
    listener = subprocess.Popen(  # noqa: S603  (its text is ours)
        ["sh", "-c", 'read -r _ || printf "%s\\n" "$0" >&2', message],  # noqa: S607
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C on the terminal is not meant for it
    )
    try:
        yield
    finally:
        with suppress(OSError):
            listener.communicate(b"\n")


def job_config() -> JobConfig:
    """Return settings that keep Ray from putting the working folder first on its workers' `sys.path`.

    A user's file `profile.py` there would hide Python's own. `nasforge.core.importing.adopt` puts the folder last.
    """
    return JobConfig(_client_job=True)


@contextmanager
def sigterm_is_ours() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray starts or ends.

    When Ray starts it installs one in Python and one in C++, and when it ends it sets the system's default. Each of
    them would end the driver before it has journaled that it stops.
    """
    # C functions of Python, since Ray's C++ code works for long without giving way to Python code in the main thread
    getsig, setsig = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    getsig.restype, getsig.argtypes = ctypes.c_void_p, [ctypes.c_int]
    setsig.restype, setsig.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    ours, over = getsig(signal.SIGTERM), threading.Event()

    def keep() -> None:
        if getsig(signal.SIGTERM) != ours:
            setsig(signal.SIGTERM, ours)

    def go_on_keeping() -> None:
        while not over.wait(0.001):
            keep()

    thread = threading.Thread(target=go_on_keeping, name="sigterm", daemon=True)
    thread.start()
    try:
        with _replaced(ray._private.utils, "set_sigterm_handler", lambda handler: None):
            yield
    finally:
        over.set()
        thread.join()
        keep()


@contextmanager
def _environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for the block; None removes one."""
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")  # Ray caches the mode and the token; the mode first, for its threads may ask for a token yet
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off what Ray does on the network and on stdout; there are no public settings for this."""
    with (
        # Ray reads its setting at import, which may have been long ago. The node's address becomes 127.0.0.1, and its
        # servers listen there alone.
        _replaced(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False),
        # Without a dashboard this starts a process all the same, for usage statistics, which are off. The process asks
        # 169.254.169.254 and DNS in which cloud it runs.
        _replaced(ray._private.node.Node, "start_api_server", lambda self, **options: None),
        # This thread prints Ray's errors on stdout; the driver learns of them by exceptions, and says them once.
        _replaced(ray._private.worker, "listen_error_messages", lambda worker, threads_stopped: None),
    ):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
