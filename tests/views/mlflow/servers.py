"""Real servers on loopback, for one module of tests: `mlflow server`, and a PostgreSQL cluster that is thrown away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ports import free_port

_START_S = 120.0
_PASSWORD = "only-on-loopback"


@contextmanager
def mlflow_server(place: Path, store: str, *words: str, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """`mlflow server` over a database, with artifacts in `place`; yields its address."""
    port = free_port()
    options = {"host": "127.0.0.1", "port": port, "workers": 1, "artifacts-destination": f"{place}/artifacts"}
    log = place / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                *words,
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            env={
                **os.environ,
                "MLFLOW_BACKEND_STORE_URI": store,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_LOGGING_LEVEL": "INFO",
                **(variables or {}),
            },
            cwd=place,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + _START_S
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            assert process.poll() is None, f"the server has ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < end, f"the server does not answer:\n{log.read_text()[-3000:]}"
            time.sleep(0.2)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def programs_of_postgres() -> Path:
    """Folder of `initdb` and `postgres`, where Debian or the PATH has them; skips where nothing has."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    on_path = shutil.which("initdb")
    folders += [Path(on_path).resolve().parent] if on_path else []
    for folder in sorted(folders, reverse=True):
        if all((folder / name).is_file() for name in ("initdb", "postgres")):
            return folder
    pytest.skip("needs PostgreSQL's initdb and postgres: apt-get install postgresql")


@contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """A new cluster on loopback with these databases; yields its URI, a database's name belongs after it.

    PostgreSQL refuses root, so root starts it as the user `postgres` or `nobody`. That user cannot enter pytest's
    folders, so the cluster lies in a temporary folder of its own.
    """
    programs = programs_of_postgres()
    psycopg2 = pytest.importorskip("psycopg2", reason="needs psycopg2: pip install psycopg2-binary")
    place = Path(tempfile.mkdtemp(prefix="nasforge-postgres-"))
    user = _unprivileged()
    password = place / "password"
    password.write_text(_PASSWORD)
    if user:
        shutil.chown(place, user)
        shutil.chown(password, user)
    options = {"user": user, "extra_groups": []} if user else {}
    data, port = place / "data", free_port()
    process: subprocess.Popen[bytes] | None = None
    try:
        command = ["initdb", f"--pgdata={data}", "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={password}"]
        made = subprocess.run(
            [programs / command[0], *command[1:], "--encoding=UTF8", "--locale=C", "--no-sync"],
            capture_output=True,
            text=True,
            cwd=place,
            **options,
        )
        assert made.returncode == 0, made.stderr
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": place, "fsync": "off"}
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())],
            cwd=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,
        )
        connection = _connected(psycopg2, process, port)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for database in databases:
                cursor.execute(f"CREATE DATABASE {database}")
        connection.close()
        yield f"postgresql+psycopg2://mlflow:{_PASSWORD}@127.0.0.1:{port}"
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # ends its connections
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _unprivileged() -> str:
    """User that root starts PostgreSQL as; empty for anybody else, who starts it as himself."""
    if os.geteuid() != 0:
        return ""
    import pwd

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL refuses root, and there is no user `postgres` or `nobody`")


def _connected(psycopg2: object, process: subprocess.Popen[bytes], port: int) -> object:
    """Connect as soon as the cluster answers."""
    end = time.monotonic() + _START_S
    while True:
        try:
            return psycopg2.connect(  # type: ignore[attr-defined]
                host="127.0.0.1", port=port, user="mlflow", password=_PASSWORD, dbname="postgres"
            )
        except psycopg2.OperationalError:  # type: ignore[attr-defined]
            assert process.poll() is None, "PostgreSQL has ended at its start"
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.2)
