"""Pages as files, and as PNGs taken by a headless Chromium."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from nasforge.core.errors import ExportError

WIDTH, HEIGHT = 1000, 480
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--force-device-scale-factor=2", "--virtual-time-budget=10000", "--run-all-compositor-stages-before-draw"),
)


def draw_page(text: str, path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Draw a page as a PNG with twice as many pixels.

    Raises:
        ExportError: there is no Chromium, or it failed.
    """
    program = next(filter(None, map(shutil.which, _CHROMIUMS)), None)
    if program is None:
        raise ExportError(
            f"{path.name} is drawn by Chromium, and there is none on the PATH; .html pages need none", kind="missing"
        )
    with tempfile.TemporaryDirectory() as folder:
        page, image = Path(folder) / "figure.html", Path(folder) / "figure.png"
        write(page, text)
        command = [program, *_FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        try:
            done = subprocess.run(  # noqa: S603  (found on the PATH)
                [*command, f"--screenshot={image}", page.as_uri()], capture_output=True, timeout=120, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"{path.name} could not be drawn: {error}", kind="failed") from None
        if not image.is_file():
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise ExportError(f"{path.name} could not be drawn by {program}: {lines[-1][:300]}", kind="failed")
        try:
            shutil.copyfile(image, path)
        except OSError as error:
            raise ExportError(f"{path}: cannot be written: {error.strerror}", kind="failed") from None


def write(path: Path, text: str) -> None:
    """Write a page's text. Raises ExportError if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # a photo's name may be no UTF-8
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}", kind="failed") from None
