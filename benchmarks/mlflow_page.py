"""Seconds until MLflow's own page shows the trials of one search, best first.

    python benchmarks/mlflow_page.py [--n 5] [--trials 1000]        writes benchmarks/results/mlflow_page.json

The journal is made as in `pages.py` and tracked in an SQLite file, which `nasforge mlflow` serves. Chromium opens the
link that the command prints, each time from an empty page. The time ends when the best trial's name is in the table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from machine import describe, write
from pages import HERE, OVER, chromium, free_port, header_of, installed_chromium, spread, write_trials

from nasforge.experiment.journal import Journal
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import load_space
from nasforge.views.mlflow.page import link
from nasforge.views.mlflow.position import read_ids
from nasforge.views.mlflow.server import served
from nasforge.views.mlflow.tracker import track

AIM_S = 5.0


def tracked(runs_dir: Path, trials: int) -> tuple[str, dict[str, str], str]:
    """Make a search and deliver it; returns the store's URI, the ids of its runs, and the best trial's name."""
    space = load_space(HERE.parent / "search_spaces" / "blocks.yaml")
    journal = Journal(runs_dir / OVER, sync=False)
    journal.append(header_of(space, runs_dir, OVER, trials))
    write_trials(journal, space, range(trials))
    journal.close()
    uri = f"sqlite:///{runs_dir}/mlflow.db"
    track(runs_dir / OVER, uri)
    finished = load_state(runs_dir / OVER).finished()
    best = max(finished, key=lambda trial: trial.result.metrics["val/accuracy"])
    return uri, next(iter(read_ids(runs_dir / OVER)["stores"].values())), f"{OVER} #{best.number}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mlflow_page.json")
    options = parser.parse_args()
    program, version = installed_chromium()
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        uri, ids, best = tracked(Path(scratch), options.trials)
        with served(uri, free_port()) as (address, _), chromium(program, "about:blank") as page:
            for _ in range(options.n):
                page.call("Page.navigate", url="about:blank")
                page.wait_for("location.href === 'about:blank' && document.readyState === 'complete'")
                began = time.perf_counter()
                page.call("Page.navigate", url=link(address, ids["experiment_id"], ids["key"]))
                page.wait_for(f"/{best}\\b/.test(document.body.innerText)", 300)
                seconds.append(time.perf_counter() - began)
    content = {"machine": describe(), "chromium": version, "n": options.n, "trials": options.trials, "aim_s": AIM_S}
    write(options.out, {**content, "seconds": spread(seconds)})
    print(spread(seconds))


if __name__ == "__main__":
    main()
