"""MLflow's own server over a database, on this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nasforge.core.errors import ConfigError
from nasforge.core.uri import sqlite_file, without_password, without_secrets

_HOST = "127.0.0.1"
_START_S = 120.0
_STORE = "MLFLOW_BACKEND_STORE_URI"


def address_of(uri: str) -> str:
    """Return the address of the server that a tracking URI names; empty for a database."""
    return without_password(uri) if uri.startswith(("http://", "https://")) else ""


@contextmanager
def served(uri: str, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a database; the server has started when the block begins, and ends with it.

    Args:
        uri: of the database, whole.
        port: on the loopback interface.

    Yields:
        The server's address, and its process.

    Raises:
        ConfigError: there is no such database, the port is taken, or the server does not start.
    """
    database = sqlite_file(uri)
    if database is not None and not database.is_file():
        raise ConfigError(
            f"{database}: there is no such database, because no search was tracked here. Run: nasforge search",
            kind="missing",
            key="tracking_uri",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is taken ({error.strerror}). Choose another --port", kind="busy", key="port"
            ) from None
    # The URI may have a password, which a command line would show to every user of the machine.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", _STORE: uri}
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(  # noqa: S603  (our own command line)
        command,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://{_HOST}:{port}"
    try:
        _wait(process, address, without_secrets(uri))
        yield address, process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, shown: str) -> None:
    """Return when the server answers."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310  (loopback)
            return
        time.sleep(0.1)
    raise ConfigError(
        f"MLflow's server does not start. See why: mlflow server --backend-store-uri {shown} --workers 1", kind="failed"
    )
