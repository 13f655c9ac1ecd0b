"""What the joint path costs: ask + tell with 100 and with 2,000 finished trials, beside its halves alone.

    python benchmarks/joint_overhead.py [--space blocks] [--finished 100 2000] [--asks 20]

Seconds are CPU time of the process, so that a busy machine does not blur them. The trials before are random search's,
recalled and told, as a continued search gets them. `books` is what `joint` adds to its halves: the difference of the
medians. Random search as the recipe's strategy shows the books beside next to nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
from pathlib import Path

from ask_tell import cpu, milliseconds, one, replay

from nasforge import registry
from nasforge.settings.experiment import load_space
from nasforge.strategies.joint import halves
from nasforge.testing.scripted import spec_of

JOINTS = {
    "evolution + optuna": {"model": "evolution", "recipe": "optuna"},
    "evolution + random": {"model": "evolution", "recipe": "random"},
}
HALVES = {"evolution": ("evolution", 0), "optuna": ("optuna", 1), "random": ("random", 1)}


def measure(make, space, finished, asks):
    """Milliseconds of ask + tell after each number of finished trials, and of the replay before."""
    source, journal, measured = registry.get("strategy", "random")(spec_of(space, seed=1)), [], {}
    while len(journal) < max(finished):
        one(source, space, len(journal), journal)
    for count in finished:
        strategy = make(space)
        replay(strategy, journal[:count], measured)
        gc.collect()
        took = [one(strategy, space, count + number, []) for number in range(asks)]
        measured[str(count)] = {**milliseconds(took), "replay_seconds": measured.pop("replay")["seconds"]}
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="blocks")
    parser.add_argument("--finished", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "joint_overhead.json")
    arguments = parser.parse_args()
    space = load_space(arguments.space)
    parts = halves(space)
    report = {
        "command": f"python benchmarks/joint_overhead.py --space {arguments.space}",
        "decisions": {"network": len(parts[0].domains), "recipe": len(parts[1].domains)},
        "cpu": cpu(),
        "versions": {package: importlib.metadata.version(package) for package in ("nasforge", "optuna")},
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "halves": {},
        "joint": {},
        "books_ms": {},
    }

    def made(name, options):
        return lambda space: registry.get("strategy", name)(spec_of(space, seed=0, objectives=1), **options)

    for label, (name, part) in HALVES.items():
        times = measure(made(name, {}), parts[part], arguments.finished, arguments.asks)
        report["halves"][label] = times
        print(f"{label:32} {json.dumps(times)}", flush=True)
    for label, options in JOINTS.items():
        report["joint"][label] = times = measure(made("joint", options), space, arguments.finished, arguments.asks)
        report["books_ms"][label] = {
            count: round(
                times[count]["median_ms"]
                - sum(report["halves"][options[half]][count]["median_ms"] for half in ("model", "recipe")),
                3,
            )
            for count in times
        }
        print(f"{label:32} {json.dumps(times)}", flush=True)
    print("books, ms:", json.dumps(report["books_ms"]))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
