"""The predictor with its ascent and without, on planted tables that none of its defaults was chosen by.

    python benchmarks/predictor_ascent.py [--tables 8] [--seeds 6]     writes benchmarks/results/predictor_ascent.json

Chains, numbers and landscapes with many peaks as in `planted.py`, from other seeds. Both sides search the same table
with the same seed. A search that is in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import describe, write
from planted import Table, chain, numbers, peaks, searched
from scipy.stats import t

from nasforge.strategies import predictor

RESULT = Path(__file__).parent / "results" / "predictor_ascent.json"
AT = (25, 50, 75, 100)
SIDES = {"with": predictor._CLIMBING, "without": 0}


def tables(count: int) -> dict[str, Callable[[], Table]]:
    """Return the tables by name, a few of each kind in turn."""
    made: dict[str, Callable[[], Table]] = {}
    for k in range(count):
        made[f"peaks 2, {400 + k}"] = partial(peaks, 2, seed=400 + k)
        made[f"chain {40 + k}"] = partial(chain, 40 + k)
        made[f"peaks 3, {400 + k}"] = partial(peaks, 3, seed=400 + k)
        made[f"numbers {40 + k}"] = partial(numbers, 40 + k)
    return made


def regrets(table: Table, seed: int, climbing: int) -> list[float]:
    """Return the normalised regret after `AT` trials."""
    predictor._CLIMBING = climbing
    scores = searched(table, "predictor", seed, max(AT))
    return [round(float(table.regret(max(scores[:at]))), 4) for at in AT]


def summary(rows: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return kind of table -> mean of the differences and half the width of their 95 % interval, after `AT` trials."""
    content: dict[str, Any] = {}
    for kind in ("peaks", "numbers", "chain", ""):
        pairs = [row for name, row in rows.items() if name.startswith(kind)]
        if len(pairs) < 2:
            continue
        content[kind or "all"] = {"n": len(pairs)}
        for index, at in enumerate(AT):
            differences = [row["with"][index] - row["without"][index] for row in pairs]
            half = t.ppf(0.975, len(pairs) - 1) * statistics.stdev(differences) / len(pairs) ** 0.5
            content[kind or "all"][str(at)] = [round(statistics.mean(differences), 4), round(float(half), 4)]
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=8, help="of each of four kinds")
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    rows: dict[str, dict[str, list[float]]] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for index, (name, make) in enumerate(tables(options.tables).items()):
        seeds = [70 + index + 100 * turn for turn in range(options.seeds)]
        missing = [seed for seed in seeds if f"{name}, seed {seed}" not in rows]
        table = make() if missing else None
        for seed in missing:
            rows[f"{name}, seed {seed}"] = {side: regrets(table, seed, number) for side, number in SIDES.items()}
            content = {"machine": describe(), "trials": AT, "difference": summary(rows), "rows": rows}
            write(RESULT, content)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
