"""The pictures of the dashboard and of reports in docs/images/, made again.

    NASFORGE_DATA=DIR python benchmarks/pictures.py FOLDER [--only dashboard.png report.png]

FOLDER gets the searches that the pictures show: digits, Fashion-MNIST and single cells of BCCD, and the journals of
`families.py`. They take half an hour on one CPU core. A second call continues them, and only takes the photographs
where they are done. DIR has `fashion_mnist.npz` and `bccd/`. The photographs need Debian's chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from sittings import Journals

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "dashboards"))
from chromium import chromium  # noqa: E402

IMAGES = HERE.parent / "docs" / "images"
LARGEST = 150_000
"""Bytes of a picture."""
COLOURS = 256
"""Of a picture: pages have few, and so few make a small file."""
PORT = 8599
QUIET = ("--tracking-uri", "none")
SEARCHES: tuple[tuple[str, ...], ...] = (
    (
        *("search", "tiny", "--data", "digits", "--strategy", "evolution", "--set", "strategy.population=8"),
        *("--max-trials", "36", "--epochs", "4", "--objective", "val/accuracy", "--objective", "min:cost/flops"),
        *("--constraint", "flops<=1M", "--name", "digits", "--runner", "local", *QUIET),
    ),
    (
        *("search", "tiny", "--data", "cells", "--resolution", "32", "--strategy", "evolution"),
        *("--max-trials", "14", "--epochs", "3", "--name", "cells", "--runner", "local", *QUIET),
    ),
    ("retrain", "cells", "--top", "1", "--random", "1", "--seeds", "3", "--epochs", "12"),
    ("explain", "cells"),
    (
        *("search", "tiny", "--data", "fashion_mnist.npz", "--images", "4000", "--resolution", "16"),
        *("--strategy", "reinforce", "--max-trials", "20", "--epochs", "2", "--name", "fashion", *QUIET),
    ),
    ("fit", "digits", "--time", "300s", "--name", "digits-fit", *QUIET),
    (
        *("compare", "--space", "tiny", "--data", "digits", "--strategies", "evolution,local_search"),
        *("--seeds", "2", "--max-trials", "6", "--epochs", "1", "--name", "campaign", *QUIET),
    ),
    ("compare", "families", "--axis", "worker_seconds", *QUIET),
)
"""Commands in FOLDER, the first words left out."""


@dataclass(frozen=True)
class Picture:
    """One photograph.

    Attributes:
        file: its name in docs/images/.
        page: address below the dashboard's; or a file in FOLDER.
        height: in pixels, at most that of the page.
        width: likewise.
    """

    file: str
    page: str
    height: int
    width: int = 1280


PICTURES = (
    Picture("dashboard_home.png", "/", 470),
    Picture("dashboard.png", "/digits/search", 1250),
    Picture("dashboard_result.png", "/cells", 1950),
    Picture("dashboard_trials.png", "/digits/trials?sort=val/accuracy&down=1", 700),
    Picture("dashboard_trial.png", "/digits/compare?trials=TOP", 1300),
    Picture("dashboard_importance.png", "/digits/importance", 1745),
    Picture("dashboard_how.png", "/digits/how", 900),
    Picture("report.png", "runs/cells/report.html", 2000),
    Picture("fit_report.png", "runs/digits-fit/report.html", 1590, 1200),
    Picture("compare.png", "runs/families/comparison.html", 920, 1340),
)
CURVES = "families.png"
"""A picture that `nasforge compare` draws itself."""


def nasforge(folder: Path, *words: str) -> None:
    """Run a command of NASForge in `folder`."""
    print("nasforge", *words, flush=True)
    subprocess.run([sys.executable, "-m", "nasforge", *words], cwd=folder, check=True)


def make_searches(folder: Path) -> None:
    """Make the searches that the pictures show, or continue them."""
    data = Path(os.environ["NASFORGE_DATA"]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "cells").is_dir():
        subprocess.run([sys.executable, HERE / "cut_cells.py", "cells", "--each", "200"], cwd=folder, check=True)
    if not (folder / "fashion_mnist.npz").exists():
        (folder / "fashion_mnist.npz").symlink_to(data / "fashion_mnist.npz")
    Journals(HERE / "results" / "families.json", folder / "runs" / "families")
    for words in SEARCHES:
        nasforge(folder, *words)
    for name in ("cells", "digits", "digits-fit"):
        nasforge(folder, "report", name)


@contextmanager
def dashboard(folder: Path) -> Iterator[str]:
    """Serve the dashboard over `folder`; yields its address."""
    command = [sys.executable, "-m", "nasforge", "dashboard", "--port", str(PORT)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{PORT}"
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit("the dashboard has ended")
            with suppress(OSError), urllib.request.urlopen(address):
                break
            time.sleep(0.5)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def top_trials(folder: Path) -> str:
    """Return the numbers of the two best trials of the search on digits."""
    from nasforge.experiment.state import load_state

    state = load_state(folder / "runs" / "digits")
    return ",".join(str(trial.number) for trial in state.ranking()[:2])


def photograph(folder: Path, pictures: Sequence[Picture]) -> None:
    """Take the pictures, in light colours."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("needs Debian's chromium: apt-get install chromium")
    with dashboard(folder) as address:
        for picture in pictures:
            page = picture.page.replace("TOP", top_trials(folder)) if "TOP" in picture.page else picture.page
            url = address + page if page.startswith("/") else (folder / page).resolve().as_uri()
            with chromium(program, "about:blank", picture.width, 900) as browser:
                light = {"name": "prefers-color-scheme", "value": "light"}
                browser.call("Emulation.setEmulatedMedia", features=[light])
                browser.call("Page.navigate", url=url)
                browser.wait_for("document.readyState == 'complete' && !!document.querySelector('h1')")
                browser.wait_for("!document.querySelector('[data-load]')", limit_s=300)
                browser.wait_for("!/Drawing …|Reading the journals/.test(document.body.innerText)", limit_s=300)
                height = min(picture.height, browser.evaluate("document.documentElement.scrollHeight"))
                clip = {"x": 0, "y": 0, "width": picture.width, "height": height, "scale": 1}
                shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
            save(base64.b64decode(shot["data"]), IMAGES / picture.file)


def save(png: bytes, path: Path) -> None:
    """Write a picture with few colours."""
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {few.width} x {few.height}, {size:,} bytes", flush=True)
    if size > LARGEST:
        raise SystemExit(f"{path.name} has more than {LARGEST:,} bytes. Make its picture lower")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder for the searches.")
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE", help="Take these pictures only.")
    options = parser.parse_args()
    if unknown := {*options.only} - {CURVES, *(picture.file for picture in PICTURES)}:
        parser.error(f"no picture {', '.join(sorted(unknown))}")
    make_searches(options.folder)
    photograph(options.folder, [p for p in PICTURES if not options.only or p.file in options.only])
    if not options.only or CURVES in options.only:
        save((options.folder / "runs" / "families" / "comparison.png").read_bytes(), IMAGES / CURVES)


if __name__ == "__main__":
    main()
