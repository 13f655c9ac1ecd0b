"""Speed of the dashboard's pages and of the report at 100, 2,000 and 10,000 trials.

    python benchmarks/pages.py [--n 5] [--trials 100 2000 10000]        writes benchmarks/results/pages.json

The journals are made, not searched: points of the space `blocks`, three reports a trial, some trials pruned, failed
and rejected, written by the package's own journal. Each size has a runs folder of its own with a search that is over
and one that runs. The browser is Chromium, the server a process of its own.

* First paint is the browser's own `first-contentful-paint`, counted from the click. "Complete" adds what a page loads
  afterwards: drawings, importances. It is looked for every 0.3 s. The
  server keeps drawings until the journal grows, so the largest of n values is the first, with the computation.
* A cold server has read nothing yet. It answers after a second with what it has read, and the page says so.
* An update is one more trial in the running search: the CPU seconds of the server until the page is sent again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from machine import describe, write

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "dashboards"))
from chromium import Page, chromium  # noqa: E402

from nasforge.core.events import SCHEMA, Asked, Checked, Event, Header, Reported, Started, Told  # noqa: E402
from nasforge.core.space import SearchSpace  # noqa: E402
from nasforge.core.trial import Charge, Failure, Measure, Origin, Result  # noqa: E402
from nasforge.experiment.journal import Journal  # noqa: E402
from nasforge.settings.experiment import load_space, resolve  # noqa: E402

OVER, RUNS = "over", "runs"
"""Names of the two searches of a runs folder."""
EPOCHS = 3
AIMS = {"first_paint_s": 2.0, "update_cpu_s": 0.3}
IDLE_S = 10.0
PAGES = {
    "home": "/",
    "search": f"/{OVER}/search",
    "trials": f"/{OVER}/trials",
    "what mattered": f"/{OVER}/importance",
    "how it searched": f"/{OVER}/how",
    "compare trials": f"/{OVER}/compare?trials=3,7",
    "compare searches": f"/-/compare?searches={OVER},{RUNS}",
}
UPDATED = {"search": f"/{RUNS}/search", "trials": f"/{RUNS}/trials", "how it searched": f"/{RUNS}/how"}
_IS_COMPLETE = (
    "document.readyState === 'complete' && !document.querySelector('[data-load]')"
    " && !document.getElementById('reading')"
    " && ![...document.querySelectorAll('.missing')].some(e => e.innerText.startsWith('Drawing'))"
)


# --- journals --------------------------------------------------------------------------------------------------------


def header_of(space: SearchSpace, runs_dir: Path, name: str, trials: int) -> Header:
    """Return the first line of a search by evolution with two objectives."""
    config = resolve(
        {
            **{"space": space, "data": "digits", "strategy": "evolution", "runner": "local", "pruner": "asha"},
            **{"objectives": ["val/accuracy", "cost/flops"], "ladder": [{"epochs": 1}, {"epochs": EPOCHS}]},
            **{"budget": {"trials": trials}, "name": name, "runs_dir": runs_dir, "tracking_uri": "none"},
        }
    )
    return Header(SCHEMA, name, config.to_json(), space.fingerprint, 0, {}, "made")


def trial(space: SearchSpace, number: int) -> Iterator[Event]:
    """Yield the events of one trial; of a hundred, six are rejected, four fail, thirty are pruned."""
    rng = Random(number)
    kind = rng.choices(("finished", "pruned", "rejected", "failed"), (60, 30, 6, 4))[0]
    parents = (rng.randrange(max(0, number - 50), number),) if number > 20 else ()
    origin = Origin(parents, "mutation" if parents else "start")
    params = 10 ** rng.uniform(4, 6)
    costs = {"cost/params": params, "cost/flops": params * rng.uniform(20, 60)}
    yield Asked(number, Measure(space.sample(rng), origin=origin))
    yield Checked(number, costs, "rejected" if kind == "rejected" else "accepted")
    if kind == "rejected":
        yield Told(number, Result("rejected", {**costs, "constraint/violation": rng.random()}))
        return
    yield Started(number, 1)
    if kind == "failed":
        failure = Failure("diverged", "the loss became NaN in epoch 1", "lower the learning rate")
        yield Told(number, Result("failed", costs, charged=Charge(0.5, 1e6), error=failure))
        return
    best = 0.6 + 0.03 * rng.gauss(0, 1) + 0.05 * min(1.0, number / 2000) + 0.02 * (params > 1e5)
    steps = 1 if kind == "pruned" else EPOCHS
    metrics: dict[str, float] = {}
    for step in range(1, steps + 1):
        metrics = {
            "val/accuracy": best * (1 - 0.3**step),
            "val/loss": 1.2 - best * (1 - 0.3**step),
            "train/loss": 1.1 - best * (1 - 0.3**step),
            "time/train_s": 2.0 * step,
        }
        yield Reported(number, 1, step, metrics, "stop" if kind == "pruned" else "continue")
    values = (metrics["val/accuracy"], -costs["cost/flops"])
    charged = Charge(2.0 * steps, costs["cost/flops"] * steps * 1000)
    yield Told(number, Result(kind, {**costs, **metrics}, values, steps, charged))


def write_trials(journal: Journal, space: SearchSpace, numbers: Sequence[int]) -> None:
    """Append trials to a journal."""
    for number in numbers:
        for event in trial(space, number):
            journal.append(event)


@contextmanager
def runs_folder(trials: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Make a runs folder with two searches; yields it and the function that adds a trial to the running one."""
    space = load_space(HERE.parent / "search_spaces" / "blocks.yaml")
    runs_dir = Path(tempfile.mkdtemp(prefix="pages-"))
    try:
        over = Journal(runs_dir / OVER, sync=False)
        over.append(header_of(space, runs_dir, OVER, trials))
        write_trials(over, space, range(trials))
        over.close()
        running = Journal(runs_dir / RUNS, sync=False)  # an open journal is a search that runs
        running.append(header_of(space, runs_dir, RUNS, 2 * trials))
        write_trials(running, space, range(trials))
        added = iter(range(trials, 2 * trials))
        try:
            yield runs_dir, lambda: write_trials(running, space, [next(added)])
        finally:
            running.close()
    finally:
        shutil.rmtree(runs_dir)


# --- server ----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def installed_chromium() -> tuple[str, str]:
    """Return Chromium's program and version; ends this program where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("No Chromium on the PATH. Install it: apt-get install chromium")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return program, version


class Server:
    """A dashboard in a process of its own."""

    def __init__(self, runs_dir: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "nasforge", "dashboard", "--runs-dir", str(runs_dir), "--port", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 120
        while True:  # a file of the style touches no journal
            try:
                self.get("/-/static/page.css")
                return
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise RuntimeError("the dashboard does not start") from None
                time.sleep(0.1)

    def get(self, path: str) -> bytes:
        """Return what the server answers."""
        with urllib.request.urlopen(self.address + path, timeout=300) as answer:
            content: bytes = answer.read()
        return content

    def read(self, path: str) -> None:
        """Ask for a page until its journals are read."""
        while b'id="reading"' in self.get(path):
            time.sleep(0.1)

    def cpu_s(self) -> float:
        """Return the CPU seconds of all threads of the server until now."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the server."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@contextmanager
def server_of(runs_dir: Path) -> Iterator[Server]:
    """Run a dashboard."""
    server = Server(runs_dir)
    try:
        yield server
    finally:
        server.close()


# --- measurements ----------------------------------------------------------------------------------------------------


def opened(page: Page, address: str) -> tuple[float, float]:
    """Open a page; returns the seconds to its first paint and to its completion."""
    page.call("Page.navigate", url="about:blank")
    page.wait_for("location.href === 'about:blank' && document.readyState === 'complete'")
    page.call("Page.navigate", url=address)
    page.wait_for(f"location.href === {address!r} && {_IS_COMPLETE}", 1200)
    paint = "performance.getEntriesByName('first-contentful-paint')"
    page.wait_for(f"{paint}.length > 0")
    complete = float(page.evaluate("performance.now()")) / 1000
    return float(page.evaluate(f"{paint}[0].startTime")) / 1000, complete


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the largest value."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def measured(trials: int, n: int, program: str) -> dict[str, Any]:
    """Measure one size."""
    began = time.perf_counter()
    with runs_folder(trials) as (runs_dir, add_trial):
        print(f"{trials:,} trials: journals written in {time.perf_counter() - began:.0f} s", flush=True)
        content: dict[str, Any] = {"journal_bytes": (runs_dir / OVER / "journal.jsonl").stat().st_size}
        cold = []
        for _ in range(n):
            with server_of(runs_dir) as server, chromium(program, "about:blank") as page:
                cold.append(opened(page, server.address + PAGES["search"]))
        content["cold_search"] = {
            "first_paint_s": spread([paint for paint, _ in cold]),
            "complete_s": spread([complete for _, complete in cold]),
        }
        with server_of(runs_dir) as server, chromium(program, "about:blank") as page:
            for path in (*PAGES.values(), *UPDATED.values()):
                server.read(path)
            for name, path in PAGES.items():
                times = [opened(page, server.address + path) for _ in range(n)]
                content.setdefault("first_paint_s", {})[name] = spread([paint for paint, _ in times])
                content.setdefault("complete_s", {})[name] = spread([complete for _, complete in times])
                content.setdefault("bytes", {})[name] = len(server.get(path))
            page.call("Page.navigate", url="about:blank")
            time.sleep(2)  # until the stream of the last page has ended
            for name, path in UPDATED.items():
                server.get(path)
                seconds = []
                for _ in range(n):
                    before = server.cpu_s()
                    add_trial()
                    server.get(path)
                    seconds.append(server.cpu_s() - before)
                content.setdefault("update_cpu_s", {})[name] = spread(seconds)
            opened(page, server.address + UPDATED["search"])
            before = server.cpu_s()
            time.sleep(IDLE_S)
            content["idle_cpu_share"] = round((server.cpu_s() - before) / IDLE_S, 4)
        reports = []
        for _ in range(n):
            command = [sys.executable, "-m", "nasforge", "report", OVER, "--runs-dir", str(runs_dir)]
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            reports.append(time.perf_counter() - begun)
        size = (runs_dir / OVER / "report.html").stat().st_size
        content["report"] = {"seconds": spread(reports), "bytes": size}
    print(content, flush=True)
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5, help="measurements of each number")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 2000, 10_000])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "pages.json")
    options = parser.parse_args()
    program, version = installed_chromium()
    about = {"machine": describe(), "chromium": version, "n": options.n, "aims_at_10000_trials": AIMS}
    sizes = {str(trials): measured(trials, options.n, program) for trials in options.trials}
    write(options.out, {**about, "trials": sizes})


if __name__ == "__main__":
    main()
