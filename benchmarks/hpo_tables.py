"""Hyperparameter search on measured tables: our Optuna path against Optuna by hand, and the strategies of the house.

    python benchmarks/hpo_tables.py --tables $NASFORGE_DATA/hpo_tables [--seeds 20] [--gp-seeds 3] [--workers 2]

FCNet/HPOLib (Klein and Hutter, https://arxiv.org/abs/1905.04970) and HPOBench's MLP (Eggensperger et al.,
https://arxiv.org/abs/2109.06716), 100 evaluations, normalised regret (incumbent - best) / (median - best) of the mean
over the table's seeds, means over tasks. Everything of ours runs through the normal loop: experiment, journal, table.

Numbers go to Optuna by their place in ascending order, by hand too. By hand, `same seeds` makes the sampler of every
ask from the seed that ours makes it from, and must give the same 100 points as `optuna(distinct=False)`; `one sampler`
is Optuna as its documentation uses it, one seeded sampler for the whole study, with `categories` where numbers go as
categories. Ours differs in one thing: it proposes nothing twice.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import nasforge
from nasforge.core.space import Choice, Decision, SearchSpace

TRIALS = 100
FAMILIES = {
    "FCNet": ("fcnet_naval_propulsion", "fcnet_protein_structure"),
    "MLP": ("mlp_car", "mlp_credit_g", "mlp_phoneme"),
}
BARS = {
    "FCNet": {"Optuna by hand, all tasks": 0.0133, "aim": 0.010},
    "MLP": {"Optuna by hand, all tasks": 0.0368, "aim": 0.030},
}
OURS = {
    "random": "random",
    "optuna": "optuna",
    "optuna(distinct=False)": {"name": "optuna", "distinct": False},
    "evolution": "evolution",
    "local_search": "local_search",
    "predictor": "predictor",
}
GP = "optuna(sampler=gp)"
SAME, ONE, PLAIN = "by hand, same seeds", "by hand, one sampler", "by hand, one sampler, categories"


class Task:
    """A table, as a space and as an array of scores to maximise."""

    def __init__(self, folder, name):
        self.name, self.family = name, "FCNet" if name.startswith("fcnet") else "MLP"
        self.path, self.axes_path = folder / f"{name}.npz", folder / f"{name.partition('_')[0]}_space.json"
        self.axes = json.loads(self.axes_path.read_text())
        self.metric = "val/mse" if self.family == "FCNet" else "val/accuracy"
        self.sign = -1 if self.family == "FCNet" else 1
        self.scores = self.sign * np.load(self.path)["values"].mean(axis=-1)
        decisions = (Decision(f"train.{key}", Choice(tuple(options))) for key, options in self.axes.items())
        self.space = SearchSpace(name, tuple(decisions))

    @property
    def settings(self):
        table = {"path": str(self.path), "axes": str(self.axes_path), "signal": "values", "metric": self.metric}
        direction = "min" if self.sign < 0 else "max"
        return {
            **{"space": self.space, "evaluator": {"name": "lookup_table", **table}, "epochs": 1, "runner": "local"},
            **{"objectives": [f"{direction}:{self.metric}"], "pruner": "none", "tracking_uri": "none"},
        }

    def regret(self, score):
        best = self.scores.max()
        return float((best - score) / (best - np.median(self.scores)))


def by_hand(task, seed, one_sampler, categories):
    """Optuna without us: the scores of its trials, in order; numbers by their place, or as categories."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    scores = []
    for number in range(TRIALS):
        if not one_sampler:
            drawn = random.Random(f"{seed}/{number}").randrange(2**32)
            study.sampler = optuna.samplers.TPESampler(seed=drawn)
        trial = study.ask()
        place = []
        for key, options in task.axes.items():
            if Choice(tuple(options)).ordered and not categories:
                place.append(trial.suggest_int(f"train.{key}", 0, len(options) - 1))
            else:
                place.append(trial.suggest_categorical(f"train.{key}", range(len(options))))
        scores.append(float(task.scores[tuple(place)]))
        study.tell(trial, scores[-1])
    return scores


def ours(task, strategy, seed):
    with tempfile.TemporaryDirectory() as folder:
        state = nasforge.search(
            **task.settings,
            strategy=strategy,
            seed=seed,
            budget={"trials": TRIALS},
            name="table",
            runs_dir=folder,
            say=lambda text: None,
        )
    return [task.sign * trial.metrics[task.metric] for trial in state.trials.values()]


def one(job):
    folder, name, label, strategy, seed = job
    task = Task(folder, name)
    if label in (SAME, ONE, PLAIN):
        scores = by_hand(task, seed, one_sampler=label != SAME, categories=label == PLAIN)
    else:
        scores = ours(task, strategy, seed)
    return name, label, scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("NASFORGE_DATA", ".")
    parser.add_argument("--tables", type=Path, default=Path(data) / "hpo_tables")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--gp-seeds", type=int, default=3, help="its ask takes a tenth of a second and more")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="of these; the others stay as they are in --out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hpo_tables.json")
    arguments = parser.parse_args()
    tasks = {name: Task(arguments.tables, name) for names in FAMILIES.values() for name in names}
    labels = {**{label: (strategy, arguments.seeds) for label, strategy in OURS.items()}}
    labels |= {GP: ({"name": "optuna", "sampler": "gp"}, arguments.gp_seeds)}
    labels |= dict.fromkeys((SAME, ONE, PLAIN), (None, arguments.seeds))
    labels = {label: seen for label, seen in labels.items() if not arguments.only or label in arguments.only}
    jobs = [
        (arguments.tables, name, label, strategy, seed)
        for label, (strategy, seeds) in labels.items()
        for name in tasks
        for seed in range(seeds)
    ]
    scores = {}
    with ProcessPoolExecutor(arguments.workers) as pool:
        for name, label, seen in pool.map(one, jobs):
            scores.setdefault(label, {}).setdefault(name, []).append(seen)
    report = {
        "command": f"python benchmarks/hpo_tables.py --seeds {arguments.seeds} --gp-seeds {arguments.gp_seeds}",
        "trials": TRIALS,
        "tasks": {family: list(names) for family, names in FAMILIES.items()},
        "versions": {package: importlib.metadata.version(package) for package in ("nasforge", "optuna", "numpy")},
        "python": platform.python_version(),
        "bars": BARS,
        "regret": {},
    }
    if arguments.only and arguments.out.exists():
        report = {**json.loads(arguments.out.read_text()), "command": report["command"]}
    if SAME in scores and "optuna(distinct=False)" in scores:
        report["identical_to_optuna_by_hand"] = scores[SAME] == scores["optuna(distinct=False)"]
    for label in scores:
        report["regret"][label] = row = {"seeds": labels[label][1]}
        for family, names in FAMILIES.items():
            by_task = {n: [tasks[n].regret(max(seen)) for seen in scores[label][n]] for n in names}
            means = [statistics.mean(column) for column in zip(*by_task.values(), strict=True)]  # one for each seed
            error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
            row[family] = {"mean": statistics.mean(means), "standard_error": error}
            row[family]["tasks"] = {name: statistics.mean(values) for name, values in by_task.items()}
        print(f"{label:24} " + "  ".join(f"{f} {row[f]['mean']:.4f}" for f in FAMILIES), flush=True)
    print("the same 100 points as Optuna by hand:", report.get("identical_to_optuna_by_hand"))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
