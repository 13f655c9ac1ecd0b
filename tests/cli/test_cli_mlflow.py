"""The command `mlflow`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nasforge.cli import app as cli


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_page_without_an_error(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Server:
        def wait(self) -> int:
            os.kill(os.getpid(), number)
            time.sleep(60)
            return 0

    ended = []

    @contextmanager
    def served(uri: str, port: int) -> Iterator[tuple[str, Server]]:
        yield f"http://127.0.0.1:{port}", Server()
        ended.append(port)

    monkeypatch.setattr("nasforge.views.mlflow.server.served", served)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background ignores Ctrl-C
    try:
        code = cli.main(["mlflow", "--runs-dir", str(tmp_path), "--port", "5001"])
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capfd.readouterr()
    assert (code, err, ended) == (0, "", [5001])
    assert "http://127.0.0.1:5001" in out and "Ctrl-C ends it." in out


def test_the_database_of_another_folder_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nasforge", "mlflow", "--runs-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "there is no such database" in done.stderr
