"""What a strategy costs: ask + tell with 100 and with 10,000 finished trials, and the replay of 10,000.

    python benchmarks/ask_tell.py [--space search_spaces/blocks.yaml] [--out benchmarks/results/ask_tell.json]

Seconds are CPU time of the process (an ask waits for nothing), so that a busy machine does not blur them.
Aim: random, evolution, nsga2 and local_search under 5 ms and flat; replay of 10,000 under 10 s (recall and tell of the
strategy; reading the journal is not in it). Optuna's TPE is there for comparison: its own cost grows with the trials.
Aim for predictor: 25 ms on average until 150 trials in a space like NAS-Bench-201 (`--space nasbench201`).
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path

from nasforge import registry
from nasforge.core.trial import Result, proposal_from_json
from nasforge.settings.experiment import load_space
from nasforge.testing.scripted import closeness, spec_of

STRATEGIES = ("random", "evolution", "nsga2", "local_search", "optuna", "predictor")
FINISHED = (100, 10_000)
MEASURED = 100  # asks and tells after each number of finished trials
SLOW, SLOW_MEASURED = ("optuna", "predictor"), 10


def one(strategy, space, number, journal):
    """Seconds of one ask and its tell; what an evaluator would do is not in it."""
    start = time.process_time()
    proposal = strategy.ask(number)
    asked = time.process_time() - start
    value = closeness(space, proposal.architecture)
    result = Result("finished", metrics={"val/accuracy": value}, values=(value,), steps_done=3)
    start = time.process_time()
    strategy.tell(number, result)
    told = time.process_time() - start
    journal.append((proposal, result))
    return asked + told


def milliseconds(seconds):
    ordered = sorted(1000 * second for second in seconds)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p95_ms": round(ordered[int(0.95 * len(ordered))], 3),
        "max_ms": round(ordered[-1], 3),
        "n": len(ordered),
    }


def measure(name, space):
    strategy = registry.get("strategy", name)(spec_of(space, seed=0, objectives=1))
    journal, measured = [], {}
    for finished in FINISHED:
        while len(journal) < finished:
            one(strategy, space, len(journal), journal)
        gc.collect()
        measured[str(finished)] = milliseconds([one(strategy, space, finished + n, journal) for n in range(MEASURED)])
    replay(
        made := registry.get("strategy", name)(spec_of(space, seed=0, objectives=1)), journal[: FINISHED[-1]], measured
    )
    assert made.ask(FINISHED[-1]) == journal[FINISHED[-1]][0]
    return measured


def measure_slow(name, space):
    """For a strategy whose asks take long: it replays what random search proposed, then is asked a few times."""
    source, journal, measured = registry.get("strategy", "random")(spec_of(space, seed=1)), [], {}
    while len(journal) < FINISHED[-1]:
        one(source, space, len(journal), journal)
    for finished in FINISHED:
        strategy = registry.get("strategy", name)(spec_of(space, seed=0, objectives=1))
        replay(strategy, journal[:finished], measured)
        measured[str(finished)] = milliseconds([one(strategy, space, finished + n, []) for n in range(SLOW_MEASURED)])
    return measured


def replay(strategy, journal, measured):
    """Seconds to recall and tell a journal's lines, parsed before."""
    parsed = [
        (proposal_from_json(json.loads(json.dumps(p.to_json()))), Result.from_json(json.loads(json.dumps(r.to_json()))))
        for p, r in journal
    ]
    start = time.process_time()
    for number, (proposal, result) in enumerate(parsed):
        strategy.recall(number, proposal)
        strategy.tell(number, result)
    measured["replay"] = {"trials": len(parsed), "seconds": round(time.process_time() - start, 2)}


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="blocks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ask_tell.json")
    arguments = parser.parse_args()
    space = load_space(arguments.space)
    report = {
        "command": "python benchmarks/ask_tell.py",
        "space": {"name": space.name, "decisions": len(space.domains), "size": space.size},
        "cpu": cpu(),
        "versions": {
            "python": platform.python_version(),
            "nasforge": importlib.metadata.version("nasforge"),
            "optuna": importlib.metadata.version("optuna"),
        },
        "load_average_at_start": os.getloadavg()[0],
        "strategies": {},
    }
    for name in STRATEGIES:
        report["strategies"][name] = (measure_slow if name in SLOW else measure)(name, space)
        print(name, json.dumps(report["strategies"][name]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
