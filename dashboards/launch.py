"""Start the dashboard: a server in this process, for this machine only unless told otherwise."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

from nasforge.core.errors import ConfigError

HOST, PORT = "127.0.0.1", 8501
_NEEDED = ("fastapi", "uvicorn", "jinja2")
_END_S = 2
"""Seconds that open connections have when the server ends."""


def listen(port: int = PORT, host: str = HOST) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the port is taken, or the host is not this machine's.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(64)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the dashboard cannot listen on {host}:{port} ({reason}); try another --port") from None
    return listening


def launch(runs_dir: Path, port: int = PORT, host: str = HOST) -> int:
    """Serve the dashboard of a runs folder until SIGTERM or Ctrl-C; returns the exit status.

    Raises:
        ConfigError: a package is missing, or the port is taken.
    """
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f'the dashboard needs {" and ".join(missing)}: pip install "nasforge[dashboard]"')
    import uvicorn

    from nasforge.dashboards.app import create_app

    server: uvicorn.Server
    hosts = () if host in ("0.0.0.0", "::", "") else tuple({"127.0.0.1", "localhost", "::1", host})  # noqa: S104
    app = create_app(runs_dir, hosts=hosts, stopping=lambda: server.should_exit)
    settings = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=_END_S)
    server = uvicorn.Server(settings)
    with listen(port, host) as listening:
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return 0
    return 0
