"""The figures of the strategies on the CIFAR-10 table of NAS-Bench-201, through `nasforge compare`.

    python benchmarks/nasbench201.py --table $NASFORGE_DATA/nasbench201_cifar10.npz [--seeds 500] [--workers 2]

Three campaigns in `--runs-dir`, each of them continued by the same command; more `--seeds` add to them.

* `accuracy`: 150 trials on the 12-epoch validation accuracy; test accuracy after 200 epochs of the best by it
  after 100 and 150 trials (protocol of Dong and Yang, https://arxiv.org/abs/2001.00326). Optuna's TPE: 30 seeds.
* `optimum`: trials until the best of the mean 200-epoch validation accuracy is found, 500 at most (evolution
  and local search, 100 seeds). `predictor` has 150 and a miss counts as 500 for it as for all, never in its favour.
* `zero_cost`: the same with five proxies; the batch of their scores is a trial and counts as one.

The result says which bars hold: the mean minus two standard errors lies above it, or plus two below it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path

import nasforge

FAST = ("random", "evolution", "local_search", "reinforce", "ppo")
SLOW, SLOW_SEEDS = "optuna(sampler=tpe)", 30
REFERENCE_SEEDS = 100
PROXIES = ("synflow", "nwot", "jacov", "snip", "zen")
CAP, PREDICTED = 500, 150
BARS = {"evolution": (94.15, 94.22), "reinforce": (94.00, 94.10), "ppo": (94.00, 94.10), "predictor": (94.19, 94.27)}
AIM = (94.25, 94.32)


def settings(table, signal, **more):
    evaluator = {"name": "lookup_table", "path": str(table), "key": "arch_str", "signal": signal}
    evaluator["final"] = "cifar10_test_e200"
    return {"space": "nasbench201", "evaluator": {**evaluator, **more}, "tracking_uri": "none"}


def accuracies(arguments, rows):
    """Test accuracy after 100 and 150 trials."""
    common = {"runs_dir": arguments.runs_dir, "workers": arguments.workers, "at": (100, 150)}
    common |= {"budget": {"trials": 150}, **settings(arguments.table, "cifar10_val_e12")}
    campaigns = [("accuracy", [*FAST, "predictor"], arguments.seeds)]
    if arguments.only:
        campaigns = [
            ("accuracy-only", [label for label in campaigns[0][1] if label in arguments.only], arguments.seeds)
        ]
    elif not arguments.without_tpe:
        campaigns.append(("accuracy-tpe", [SLOW], min(SLOW_SEEDS, arguments.seeds)))
    for name, strategies, seeds in campaigns:
        measured = nasforge.compare(strategies=strategies, seeds=seeds, name=name, **common)
        for row in measured.rows:
            if row.quantity == "final" and (row.label in strategies or name == "accuracy"):
                rows.setdefault(row.label, {})[f"{row.at:.0f}"] = figures(row.values)


def optimum(arguments, measured):
    """Trials until the optimum of the 200-epoch signal."""
    common = {"runs_dir": arguments.runs_dir, "workers": arguments.workers}
    signal = settings(arguments.table, "cifar10_val_e200")
    proxies = {proxy: f"zc_cifar10_{proxy}" for proxy in PROXIES}
    scored = settings(arguments.table, "cifar10_val_e200", proxies=proxies)
    scored["ladder"] = [{"proxies": list(PROXIES)}, {"epochs": 200}]
    campaigns = (
        ("optimum", FAST[1:3], CAP, signal, min(REFERENCE_SEEDS, arguments.seeds)),
        ("optimum-predictor", ("predictor",), PREDICTED, signal, arguments.seeds),
        ("zero_cost", (f"predictor(zero_cost={json.dumps(PROXIES)})",), PREDICTED, scored, arguments.zero_cost_seeds),
    )
    for name, strategies, trials, problem, seeds in campaigns:
        if arguments.only:
            name, strategies = f"{name}-only", tuple(label for label in strategies if label in arguments.only)
        if not strategies:
            continue
        nasforge.compare(strategies=strategies, seeds=seeds, name=name, budget={"trials": trials}, **common, **problem)
        best = json.loads((arguments.runs_dir / name / "comparison.json").read_text())["optimum"]
        for label in strategies:
            needed = [trials_to(folder, best) for folder in searches(arguments.runs_dir / name, label, seeds)]
            measured[label] = {
                **figures([CAP if number is None else number for number in needed]),
                "median": statistics.median(CAP if number is None else number for number in needed),
                "missed": sum(number is None for number in needed),
                "trials": trials,
            }


def searches(folder, label, seeds):
    """The folders of a strategy's searches."""
    from nasforge.api.compare.campaign import folder_name, parse_strategies

    (named,) = parse_strategies(label)
    return [folder / folder_name(named, seed) for seed in range(seeds)]


def trials_to(folder, best):
    """The charged trials, this one included, until the signal reached `best`; None where it did not."""
    from nasforge.experiment.state import load_state

    charged = 0
    for trial in sorted(load_state(folder).trials.values(), key=lambda trial: trial.number):
        charged += trial.status != "rejected"
        if trial.result and trial.result.values and trial.result.values[0] >= best:
            return charged
    return None


def figures(values):
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {
        "n": len(values),
        "mean": statistics.mean(values),
        "standard_error": error,
        "std": error * len(values) ** 0.5,
    }


def judged(accuracy, needed):
    """Bar by bar, whether it holds."""
    bars = []

    def bar(what, one, limit, above):
        edge = one["mean"] + (-2 if above else 2) * one["standard_error"]
        holds = edge > limit if above else edge < limit
        bars.append({"bar": what, "limit": limit, "mean": one["mean"], "edge": edge, "n": one["n"], "holds": holds})

    for label, limits in BARS.items():
        for at, limit in zip(("100", "150"), limits, strict=True):
            bar(f"{label}, test accuracy after {at}", accuracy[label][at], limit, above=True)
    for at, limit in zip(("100", "150"), AIM, strict=True):
        bar(f"aim: predictor, test accuracy after {at}", accuracy["predictor"][at], limit, above=True)
    for label, one in needed.items():
        if label.startswith("predictor"):
            plain = label == "predictor"
            bar(f"{'' if plain else 'aim: '}{label}, trials to the optimum", one, 77.5 if plain else 50.0, above=False)
    return bars


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = os.environ.get("NASFORGE_DATA", ".")
    parser.add_argument("--table", type=Path, default=Path(folder) / "nasbench201_cifar10.npz")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--zero-cost-seeds", type=int, default=100)
    parser.add_argument("--without-tpe", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="STRATEGY", help="of these; the others stay as they are in --out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs") / "nasbench201")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "nasbench201.json")
    arguments = parser.parse_args()
    accuracy, needed = {}, {}
    if arguments.only:
        earlier = json.loads(arguments.out.read_text())
        accuracy, needed = earlier["test_accuracy"], earlier["trials_to_the_optimum"]
    began = time.process_time()
    accuracies(arguments, accuracy)
    optimum(arguments, needed)
    bars = judged(accuracy, needed)
    report = {
        "command": f"python benchmarks/nasbench201.py --seeds {arguments.seeds}",
        "table": arguments.table.name,
        "signal": "cifar10_val_e12; cifar10_val_e200 for trials to the optimum",
        "versions": {
            name: importlib.metadata.version(name) for name in ("nasforge", "scikit-learn", "optuna", "numpy")
        },
        "python": platform.python_version(),
        "cpu_seconds_of_the_driver": round(time.process_time() - began),
        "test_accuracy": accuracy,
        "trials_to_the_optimum": needed,
        "bars": bars,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    for one in bars:
        word = "holds" if one["holds"] else "FAILS"
        print(f"{word}  {one['bar']}: {one['mean']:.3f} (n={one['n']}, edge {one['edge']:.3f}, limit {one['limit']})")


if __name__ == "__main__":
    main()
