"""Start the dashboard: a server in this process, for this machine only unless told otherwise."""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from nasforge.core.errors import ConfigError

HOST, PORT = "127.0.0.1", 8501
_NEEDED = ("fastapi", "uvicorn", "jinja2")
_END_S = 2
"""Seconds that open connections have when the server ends, and then each page in the making."""


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
        raise ConfigError(
            f"the dashboard cannot listen on {host}:{port} ({reason}); try another --port", kind="failed", key="port"
        ) from None
    return listening


def launch(runs_dir: Path, port: int = PORT, host: str = HOST, ready: Callable[[], None] = lambda: None) -> int:
    """Serve the dashboard of a runs folder until SIGTERM or Ctrl-C; returns the exit status.

    Args:
        runs_dir: the runs folder.
        port: port to listen on.
        host: address to listen on.
        ready: called when a browser can connect; the first page waits until the server is imported.

    Raises:
        ConfigError: a package is missing, or the port is taken.
    """
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f'the dashboard needs {" and ".join(missing)}: pip install "nasforge[dashboard]"', kind="missing"
        )
    with listen(port, host) as listening:
        ready()
        _serve(runs_dir, host, listening)
    return 0


def _serve(runs_dir: Path, host: str, listening: socket.socket) -> None:
    import uvicorn

    from nasforge.dashboards.app import create_app

    class Server(uvicorn.Server):
        """A server that SIGTERM and Ctrl-C end quietly; uvicorn's own would raise the signal again at its end."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

    server: Server
    app = create_app(runs_dir, hosts=_names_of(host, listening), stopping=lambda: server.should_exit)
    settings = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=_END_S)
    server = Server(settings)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)  # uvicorn sets those of SIGTERM and Ctrl-C
    # a page that is cut off by the end of the server is no error
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    server.run(sockets=[listening])
    _stop_drawing()


def _names_of(host: str, listening: socket.socket) -> tuple[str, ...]:
    """Return the names by which a browser may call the server, as `create_app` takes them."""
    address = str(listening.getsockname()[0]).partition("%")[0]  # without the interface of a link-local one
    if ipaddress.ip_address(address).is_unspecified:
        return ()
    return tuple({"127.0.0.1", "localhost", "::1", host.lower()})


def _stop_drawing() -> None:
    """End this process if a page is still in the making: Python would wait minutes for its thread."""
    workers = [thread for thread in threading.enumerate() if thread.name == "AnyIO worker thread"]
    for thread in workers:
        thread.join(_END_S)
    if any(thread.is_alive() for thread in workers):
        sys.stdout.flush()
        os._exit(0)
