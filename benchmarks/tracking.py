"""Cost of MLflow's tracking: CPU of a trial, and seconds until MLflow has all trials of a quick search.

    python benchmarks/tracking.py                            writes benchmarks/results/tracking.json
    python benchmarks/tracking.py --server http://HOST:PORT  measures this server too

The evaluator knows the answer at once and reports three epochs, so a search of 2,000 trials ends while MLflow has a
small share of them. Each search runs in a process of its own: without tracking, into an SQLite file, and to
`mlflow server` on loopback (SQLite behind it) with one worker and with MLflow's default of four. `client_cpu_ms` is the
CPU time that tracking adds to a trial in the search's process, `server_cpu_ms` that of the server's processes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from machine import describe, write

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def search(folder: Path, trials: int, uri: str) -> dict[str, Any]:
    """Search with this store and wait until it has everything; `none` for no tracking."""
    from nasforge.runners import local
    from nasforge.testing.toys import Planted, toy_config, toy_experiment
    from nasforge.views.mlflow.client import MlflowClient
    from nasforge.views.mlflow.tracker import MlflowTracker

    texts: list[str] = []
    config = toy_config(folder, budget={"trials": trials}, name=f"toy{os.getpid()}")
    if uri != "none":  # a search's first second should not be that of a database's migration
        MlflowClient(tracking_uri=uri).search_experiments()
    trackers = [] if uri == "none" else [MlflowTracker(config.folder, uri, say=texts.append, wait_s=1800)]
    began, used = time.perf_counter(), time.process_time()
    with toy_experiment(config, trackers=trackers) as experiment:
        local.run(experiment, Planted())
        searched = time.perf_counter() - began
    for tracker in trackers:
        tracker.close()
    whole = time.perf_counter() - began
    cpu = time.process_time() - used
    runs = trials_of(uri, config.name) if trackers else 0
    if trackers and runs != trials:
        raise SystemExit(f"MLflow has {runs} of {trials} trials: {texts}")
    return {"search_s": searched, "wait_s": whole - searched, "cpu_s": cpu, "messages": texts}


def trials_of(uri: str, name: str) -> int:
    """Return how many trials of a search MLflow has with their end."""
    from nasforge.views.mlflow.client import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    place = [client.get_experiment_by_name(name).experiment_id]
    count, token = 0, None
    while True:
        runs = client.search_runs(
            place, "tags.`nasforge.role` = 'trial' and status = 'FINISHED'", max_results=1000, page_token=token
        )
        count, token = count + len(runs), runs.token
        if not token:
            return count


def in_process(folder: Path, trials: int, uri: str) -> dict[str, Any]:
    """Run `search` in a new process."""
    command = [sys.executable, __file__, "--one", str(folder), "--trials", str(trials), "--server", uri]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.stderr[-3000:])
    return json.loads(answer.stdout.splitlines()[-1])


@contextmanager
def mlflow_server(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    """Serve an SQLite file on loopback; yields the address and the process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"host": "127.0.0.1", "port": port, "workers": workers}
    options |= {"backend-store-uri": f"sqlite:///{folder}/store.db", "artifacts-destination": folder / "artifacts"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            time.sleep(0.2)
        yield address, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def cpu_of_group(group: int) -> float:
    """Return the CPU seconds that the processes of a group have used so far."""
    seconds = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                seconds += (int(fields[11]) + int(fields[12])) / TICKS
    return seconds


def row(answer: dict[str, Any], plain: dict[str, Any], trials: int, server_cpu_s: float | None) -> dict[str, Any]:
    """Return the numbers of one store: seconds, CPU in milliseconds a trial, lines printed while waiting."""
    return {
        "search_s": round(answer["search_s"], 2),
        "wait_s": round(answer["wait_s"], 2),
        "client_cpu_ms": round(1000 * (answer["cpu_s"] - plain["cpu_s"]) / trials, 2),
        "server_cpu_ms": None if server_cpu_s is None else round(1000 * server_cpu_s / trials, 2),
        "lines": len(answer["messages"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4], help="of `mlflow server`; none: no server")
    parser.add_argument("--server", default="", help="URI of another store to measure")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tracking.json")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(search(options.one, options.trials, options.server)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plain = in_process(folder, options.trials, "none")
        results["none"] = {"search_s": round(plain["search_s"], 2)}
        answer = in_process(folder, options.trials, f"sqlite:///{folder}/mlflow.db")
        results["sqlite"] = row(answer, plain, options.trials, None)
        print("sqlite", results["sqlite"], flush=True)
        for workers in options.workers:
            place = folder / f"server{workers}"
            place.mkdir()
            with mlflow_server(place, workers) as (address, group):
                in_process(folder, 10, address)  # the server's first requests import and migrate
                before = cpu_of_group(group)
                answer = in_process(folder, options.trials, address)
                name = f"http, {workers} worker{'s' if workers > 1 else ''}"
                results[name] = row(answer, plain, options.trials, cpu_of_group(group) - before)
                print(name, results[name], flush=True)
        if options.server:
            results["--server"] = row(in_process(folder, options.trials, options.server), plain, options.trials, None)
            print("--server", results["--server"], flush=True)
    write(options.out, {"machine": describe(), "n": 1, "trials": options.trials, "stores": results})


if __name__ == "__main__":
    main()
