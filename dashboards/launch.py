"""Start the dashboard: a Streamlit server on this machine only, unless told otherwise."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

from nasforge.core.errors import ConfigError
from nasforge.core.importing import python_path

APP = Path(__file__).with_name("app.py")
RUNS_DIR = "NASFORGE_RUNS_DIR"
"""Environment variable by which the app learns its runs folder."""


def command(port: int, address: str) -> list[str]:
    """The server's command line: no browser, no usage statistics, no watching of source files."""
    settings = {
        "server.port": port,
        "server.address": address,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    # -P: `-m` would put the working folder first on the path, where any file could hide a module of Streamlit's
    return [sys.executable, "-P", "-m", "streamlit", "run", str(APP), *flags]


def start(runs_dir: Path, port: int = 8501, address: str = "127.0.0.1") -> subprocess.Popen[bytes]:
    """The running server, for whoever ends it.

    Raises:
        ConfigError: the extra is not installed, or the port is taken.
    """
    missing = [package for package in ("streamlit", "plotly") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f'the dashboard needs {" and ".join(missing)}: pip install "nasforge[dashboard]"')
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the dashboard cannot listen on {address}:{port} ({reason}); try another --port") from None
    environment = {**os.environ, **python_path(), RUNS_DIR: str(runs_dir.absolute())}
    return subprocess.Popen(command(port, address), env=environment)  # noqa: S603  (our own command line)


def launch(runs_dir: Path, port: int = 8501, address: str = "127.0.0.1") -> int:
    """Serve the dashboard of a runs folder until it is stopped (Ctrl-C); returns the server's exit status.

    Raises:
        ConfigError: the extra is not installed, or the port is taken.
    """
    server = start(runs_dir, port, address)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0
