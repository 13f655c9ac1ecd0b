"""Three hundred SIGKILLs of drivers: what was lost, what ran twice, what was proposed otherwise.

python benchmarks/kills.py [--local 280] [--ray 20]        writes benchmarks/results/kills.json
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from random import Random

from machine import describe, write

from nasforge.testing.kills import KillCount, campaign

HERE = Path(__file__).parent
STRATEGIES = ("evolution", "local_search", "nsga2", "random", "optuna")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", type=int, default=280)
    parser.add_argument("--ray", type=int, default=20)
    options = parser.parse_args()
    counts = {}
    for runner, least, per_search, trials in (("local", options.local, 14, 150), ("ray_tune", options.ray, 5, 250)):
        total, searches = KillCount(), 0
        while total.kills < least:
            strategy = STRATEGIES[searches % len(STRATEGIES)]
            kills = min(per_search, least - total.kills)
            with tempfile.TemporaryDirectory() as folder:
                count = campaign(Path(folder), runner, strategy, trials=trials, kills=kills, rng=Random(searches))
            for name, value in asdict(count).items():
                setattr(total, name, getattr(total, name) + value)
            searches += 1
            print(runner, searches, strategy, total, flush=True)
        counts[runner] = {"searches": searches, **asdict(total)}
    write(HERE / "results" / "kills.json", {"machine": describe(), "strategies": STRATEGIES, "campaigns": counts})


if __name__ == "__main__":
    main()
