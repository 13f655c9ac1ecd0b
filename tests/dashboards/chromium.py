"""Chromium over its debugging protocol, as much as a picture of a live page needs."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)

LIMIT_S = 240.0
"""Seconds that a busy machine may take for one step."""


class Page:
    """One open page."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._count = 0

    def call(self, method: str, **params: Any) -> Any:
        answer = self._answer(method, params)
        assert "error" not in answer, answer
        return answer["result"]

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        self._connection.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            answer: dict[str, Any] = json.loads(self._connection.recv(timeout=LIMIT_S))
            if answer.get("id") == self._count:
                return answer

    def evaluate(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def is_true(self, script: str) -> bool:
        """Return whether `script` is true in the page; one that makes way for the next page knows no answer."""
        answer = self._answer("Runtime.evaluate", {"expression": script, "returnByValue": True})
        return bool(answer.get("result", {}).get("result", {}).get("value"))

    def wait_for(self, script: str, limit_s: float = LIMIT_S) -> None:
        """Until `script` is true in the page."""
        end = time.monotonic() + limit_s
        while not self.is_true(script):
            assert time.monotonic() < end, f"never true in the page: {script}\n{self.text()[:2000]}"
            time.sleep(0.3)

    def text(self) -> str:
        return str(self.evaluate("document.body.innerText"))

    def click(self, text: str, selector: str = "button") -> None:
        """The first element of this kind with this text."""
        script = f"[...document.querySelectorAll({selector!r})].find(e => e.innerText.trim() === {text!r})"
        self.wait_for(f"!!({script})")
        self.evaluate(f"({script}).click()")

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


def _place_of_page(port: str) -> str:
    """Address of the first page; empty while there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
        return next((page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page"), "")


@contextmanager
def chromium(program: str, url: str, width: int = 1440, height: int = 1250) -> Iterator[Page]:
    """`url` in a fresh headless Chromium."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            end = time.monotonic() + LIMIT_S
            while not (port_file.exists() and port_file.read_text().strip()):
                assert browser.poll() is None, "Chromium ended at its start"
                assert time.monotonic() < end, "Chromium did not start"
                time.sleep(0.2)
            port = port_file.read_text().split()[0]
            while not (place := _place_of_page(port)):
                assert time.monotonic() < end, "Chromium opened no page"
                time.sleep(0.2)
            with connect(place, max_size=None, proxy=None, open_timeout=LIMIT_S) as connection:
                page = Page(connection)
                page.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
                )
                page.call("Page.navigate", url=url)
                yield page
        finally:
            browser.terminate()
            browser.wait()
