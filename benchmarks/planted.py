"""Strategies on planted tables: chains of blocks, ordered numbers, landscapes with many peaks, and NAS-Bench-201.

    NASFORGE_DATA=... python benchmarks/planted.py [--seeds 10] [--only local_search ppo] [--trials 200]

Writes benchmarks/results/planted.json after every table; a strategy's table that is in it already is not run again.
The strategies are called directly: ask, look up, tell. The tables are ours, so defaults may be chosen by them.

* `chain`: 16 layers, each one of seven operations (kernel and expansion of an inverted bottleneck, or skip). Four
  stages profit from capacity with saturation; neighbouring layers interact. 7^16 points.
* `numbers`: 12 layers with a kernel of 3, 5, 7 and an expansion of 2, 3, 4, 6, as numbers. 12^12 points.
* `peaks`: NK landscapes (Kauffman and Levin, https://doi.org/10.1016/S0022-5193(87)80029-2) of 12 decisions with 4
  options, each of which depends on 1, 2 or 3 others. 4^12 points.
* `nb201`: the 12-epoch, and one seed's 200-epoch validation accuracy on CIFAR-10. 15,625 points.

The number is the normalised regret (best - incumbent) / (best - median). The best of a planted table is the highest of
20 climbs (peaks: 100) from the best of 4,000 random points; the median is theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, write

from nasforge import registry
from nasforge.api.compare.campaign import parse_strategies
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Measure, Result
from nasforge.settings.spec import SearchSpec

RESULT = Path(__file__).parent / "results" / "planted.json"
AT = (20, 50, 100, 200)
STRATEGIES = (
    "random",
    "optuna",
    "evolution",
    "evolution(population=10)",
    "local_search",
    "reinforce",
    "nsga2",
    "nsga2(population=20, tournament=2)",
    "ppo",
    "ppo(clip=0.2)",
    "predictor",
)
SAMPLED, CLIMBS = 4000, 20
OPERATIONS = (*(f"k{kernel}e{expansion}" for kernel in (3, 5, 7) for expansion in (3, 6)), "skip")
KERNELS, EXPANSIONS = (3, 5, 7), (2, 3, 4, 6)
LETTERS = "abcd"


class Table:
    """A space with a score for every point, its best score and its median."""

    def __init__(self, space: SearchSpace, score: Callable[[Mapping[str, Any]], float], climbs: int = CLIMBS) -> None:
        self.space, self.score = space, score
        rng = random.Random("points")
        points = [dict(space.sample(rng).values) for _ in range(SAMPLED)]
        scores = [score(point) for point in points]
        self.median = statistics.median(scores)
        highest = sorted(range(SAMPLED), key=scores.__getitem__, reverse=True)[:climbs]
        self.best = max(self._climb(points[index]) for index in highest)

    def _climb(self, point: dict[str, Any]) -> float:
        """Return the score at the end of a climb that takes every better neighbour."""
        best, before = self.score(point), -math.inf
        while best > before:
            before = best
            for key, domain in self.space.domains.items():
                for option in domain.options:
                    score = self.score({**point, key: option})
                    if score > best:
                        point, best = {**point, key: option}, score
        return best

    def regret(self, score: float) -> float:
        return (self.best - score) / (self.best - self.median)


def space_of(name: str, options: Mapping[str, tuple[Any, ...]]) -> SearchSpace:
    return SearchSpace(name, tuple(Decision(f"model.{key}", Choice(values)) for key, values in options.items()))


def saturated(layers: list[float], needs: np.ndarray) -> float:
    """Return the worth of four stages, each of which saturates in the sum of its layers."""
    return float(2 * np.sum(needs * np.tanh(np.reshape(layers, (4, -1)).sum(1) / 2.5)))


def chain(seed: int, layers: int = 16) -> Table:
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.5, (layers, 3)) + np.array([0, 0.3, 0.35])
    expansion = np.sort(rng.normal(0, 0.4, (layers, 2)) + np.array([0, 0.6]), axis=1)
    needs = rng.uniform(0.5, 1.5, 4)
    pairs = rng.normal(0, 0.35, (layers - 1, 7, 7))

    def score(values: Mapping[str, Any]) -> float:
        taken = [OPERATIONS.index(values[f"model.layer{i}"]) for i in range(layers)]
        worths = [0 if t == 6 else kernel[i, t // 2] + expansion[i, t % 2] for i, t in enumerate(taken)]
        return saturated(worths, needs) + 0.5 * sum(pairs[i, taken[i], taken[i + 1]] for i in range(layers - 1))

    return Table(space_of(f"chain{seed}", {f"layer{i}": OPERATIONS for i in range(layers)}), score)


def numbers(seed: int, layers: int = 12) -> Table:
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.5, (layers, 3)) + np.array([0, 0.3, 0.35])
    slopes = rng.uniform(0.2, 0.9, (layers, 1))
    expansion = slopes * np.log(np.array(EXPANSIONS) / 2) + rng.normal(0, 0.1, (layers, 4))
    needs = rng.uniform(0.5, 1.5, 4)
    pairs = rng.normal(0, 0.2, (layers - 1, 3, 3))

    def score(values: Mapping[str, Any]) -> float:
        kernels = [KERNELS.index(values[f"model.kernel{i}"]) for i in range(layers)]
        widths = [EXPANSIONS.index(values[f"model.expansion{i}"]) for i in range(layers)]
        worths = [kernel[i, kernels[i]] + expansion[i, widths[i]] for i in range(layers)]
        return saturated(worths, needs) + 0.5 * sum(pairs[i, kernels[i], kernels[i + 1]] for i in range(layers - 1))

    options = {key: row for i in range(layers) for key, row in ((f"kernel{i}", KERNELS), (f"expansion{i}", EXPANSIONS))}
    return Table(space_of(f"numbers{seed}", options), score)


def peaks(neighbours: int, decisions: int = 12, seed: int | None = None) -> Table:
    rng = np.random.default_rng(neighbours if seed is None else seed)
    count = len(LETTERS)
    linked = [
        [i, *sorted(rng.choice([j for j in range(decisions) if j != i], neighbours, replace=False).tolist())]
        for i in range(decisions)
    ]
    worth = rng.normal(size=(decisions, count ** (neighbours + 1)))

    def score(values: Mapping[str, Any]) -> float:
        taken = [LETTERS.index(values[f"model.decision{i}"]) for i in range(decisions)]
        rows = [sum(taken[j] * count**place for place, j in enumerate(links)) for links in linked]
        return float(sum(worth[i, row] for i, row in enumerate(rows)))

    options = {f"decision{i}": tuple(LETTERS) for i in range(decisions)}
    return Table(space_of(f"peaks{neighbours}", options), score, climbs=100)


def nb201(column: str) -> Table:
    with np.load(Path(os.environ["NASFORGE_DATA"]) / "nasbench201_cifar10.npz") as arrays:
        names = tuple(str(name) for name in arrays["ops"])
        scores = dict(zip(map(tuple, arrays["codes"].tolist()), arrays[column].tolist(), strict=True))
    table = Table.__new__(Table)  # the best and the median of all cells are known
    table.space = space_of("nb201", {f"edge{i}": names for i in range(6)})
    table.score = lambda values: float(scores[tuple(names.index(values[f"model.edge{i}"]) for i in range(6))])
    table.best, table.median = max(scores.values()), statistics.median(scores.values())
    return table


TABLES: dict[str, Callable[[], Table]] = {
    **{f"chain {seed}": partial(chain, seed) for seed in range(3)},
    **{f"numbers {seed}": partial(numbers, seed) for seed in range(3)},
    **{f"peaks {neighbours}": partial(peaks, neighbours) for neighbours in (1, 2, 3)},
    "nb201, 12 epochs": partial(nb201, "cifar10_val_e12"),
    "nb201, 200 epochs": partial(nb201, "cifar10_val_e200_s0"),
}


def searched(table: Table, name: str, seed: int, trials: int) -> list[float]:
    """Return the scores of a search's trials, in order."""
    (named,) = parse_strategies(name)
    strategy = registry.make("strategy", named.name, named.options, SearchSpec(table.space, seed=seed))
    scores = []
    for number in range(trials):
        proposal = strategy.ask(number)
        assert isinstance(proposal, Measure)
        scores.append(table.score(proposal.architecture.values))
        metrics = {"val/accuracy": scores[-1]}
        strategy.tell(number, Result("finished", metrics, values=(scores[-1],), steps_done=1))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=max(AT))
    parser.add_argument("--only", nargs="+", metavar="STRATEGY", default=STRATEGIES, help="with options: ppo(clip=0.2)")
    arguments = parser.parse_args()
    content: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"regret": {}}
    for name, make in TABLES.items():
        missing = [s for s in arguments.only if name not in content["regret"].get(s, {})]
        table = make() if missing else None
        for strategy in missing:
            runs = [searched(table, strategy, seed, arguments.trials) for seed in range(arguments.seeds)]
            row: dict[str, Any] = {"seeds": arguments.seeds}
            for at in (at for at in AT if at <= arguments.trials):
                regrets = [table.regret(max(scores[:at])) for scores in runs]
                error = statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else None
                row[str(at)] = {"mean": statistics.mean(regrets), "standard_error": error}
            content["regret"].setdefault(strategy, {})[name] = row
            print(
                f"{strategy}, {name}: " + ", ".join(f"{at} {row[str(at)]['mean']:.3f}" for at in AT if str(at) in row)
            )
            write(RESULT, {**content, "machine": describe(), "summary": summary_of(content["regret"])})


def summary_of(regret: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return strategy -> kind of table -> mean regret after 20 (where measured), 50, 100 and 200 trials."""
    summary: dict[str, dict[str, str]] = {}
    for strategy, rows in regret.items():
        for kind in ("chain", "numbers", "peaks", "nb201"):
            chosen = [row for name, row in rows.items() if name.startswith(kind)]
            means = [
                f"{statistics.mean(row[str(at)]['mean'] for row in chosen):.3f}"
                for at in AT
                if chosen and all(str(at) in row for row in chosen)
            ]
            summary.setdefault(strategy, {})[kind] = " / ".join(means)
    return summary


if __name__ == "__main__":
    main()
