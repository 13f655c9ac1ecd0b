"""Recipes on Fashion-MNIST under a CPU's means: tuned against default, joint against one after the other.

    NASFORGE_DATA=../shared/data python benchmarks/joint.py [--seeds 3]     writes benchmarks/results/joint.json

Data as in fashion_mnist.py: 6,000 training and 2,000 validation images, 3 epochs a trial, ASHA; recipes are those of
`search_spaces/recipes/sgd.yaml`.

* `recipe`: the default network of `blocks`; its recipe by Optuna's TPE (`nasforge.tune` on an experiment of the one
  default trial) and by random search, 24 trials each, against the default recipe.
* `network`: equal charged multiply-adds, `--multiply-adds`, at most 100k params and 10M FLOPs: networks and recipes
  together (`evolution` with `tune: optuna`), networks with half of it and then the recipe of the best with the rest,
  and networks alone by the default recipe.

The score of a winner in its own search is too good. So every winner is trained again by its recipe, with seeds that no
search had: 3 trainings of 3 epochs and 3 of `--final-epochs`. The test split stays sealed. Stop it at any time: the
same command continues, even without the folder of its runs. `--draw FILE` makes a picture of the result and trains
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from machine import describe, write
from sittings import Journals

import nasforge
from nasforge.core.architecture import TRAIN, Architecture
from nasforge.core.space import SearchSpace
from nasforge.experiment.state import State
from nasforge.settings.space_file import load_recipe, load_space
from nasforge.views.page import picture
from nasforge.views.picture import HEIGHT, WIDTH, draw_page
from nasforge.views.svg import Axis, Plot, Point

RESULT = Path(__file__).parent / "results" / "joint.json"
AGAIN = 3
CHANCE = 0.1  # what a training that diverges counts for
FRESH = 1000  # seeds of the trainings anew begin here


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.journals = Journals(options.out, options.runs_dir)
        self.source = str(Path(os.environ["NASFORGE_DATA"]).resolve() / "fashion_mnist.npz")
        self.space = load_space("blocks").with_recipe(load_recipe("sgd"))
        two = {"name": "ray_tune", "max_concurrent_trials": 2}
        self.runner = two if options.runner == "ray_tune" else options.runner
        self.train = [key for key in self.space.domains if key.startswith(TRAIN)]
        self.plain = self.space.fixed({key: self.space.default_of(key) for key in self.train})

    def search(self, name: str, space: SearchSpace, seed: int, **settings: Any) -> State:
        defaults: dict[str, Any] = {"epochs": 3, "pruner": "asha"}
        state = nasforge.search(
            space=space,
            data={"source": self.source, "images": self.options.images, "validation": 0.25},
            seed=seed,
            name=f"joint-{name}-s{seed}",
            runs_dir=self.options.runs_dir,
            tracking_uri="none",
            runner=self.runner,
            evaluator={"name": "training", "threads": 1},
            **{**defaults, **settings},
        )
        self.journals.keep(f"joint-{name}-s{seed}")
        return state

    def tuned(self, name: str, seed: int, sampler: str, budget: dict[str, float]) -> State:
        folder, tuned = self.options.runs_dir / f"joint-{name}-s{seed}", f"joint-{name}-{sampler}-s{seed}"
        recipe = load_recipe("sgd")
        state = nasforge.tune(folder, recipe=recipe, sampler=sampler, budget=budget, seed=seed, name=tuned).state
        self.journals.keep(tuned)
        return state

    def anew(self, name: str, point: Architecture, seed: int) -> dict[str, float]:
        """The point trained again with fresh seeds: mean validation accuracy, short and long."""
        whole = {key: point.values.get(key, self.space.default_of(key)) for key in self.train}
        networks = {key: value for key, value in point.values.items() if not key.startswith(TRAIN)}
        only = self.space.fixed({**networks, **whole})
        accuracies = {}
        short = name.replace(",", "").replace(" ", "-")
        for what, epochs in (("short", 3), ("long", self.options.final_epochs)):
            state = self.search(
                f"{short}-{what}", only, FRESH + seed, strategy="random", pruner="none", epochs=epochs,
                budget={"trials": AGAIN},
            )  # fmt: skip
            reached = [trial.metrics.get("val/accuracy", CHANCE) for trial in state.trials.values()]
            accuracies[what] = statistics.mean(reached)
        return accuracies

    def row(self, name: str, state: State, seed: int, *before: State) -> dict[str, Any]:
        best = state.best
        assert best is not None and best.architecture is not None
        spent = sum(one.charged.multiply_adds for one in (state, *before))
        seconds = sum(one.charged.worker_seconds for one in (state, *before))
        return {
            **{"search": name, "seed": seed, "val_accuracy": best.metrics["val/accuracy"], "multiply_adds": spent},
            **{"worker_s": seconds, "anew": self.anew(name, best.architecture, seed)},
            **{"arch_id": best.architecture.arch_id, "recipe": best.architecture.train},
        }

    def recipes(self, seed: int) -> list[dict[str, Any]]:
        """One network: default recipe, tuned, random search over recipes."""
        network = self.plain.fixed(
            {key: value for key, value in self.plain.default_point().values.items() if not key.startswith(TRAIN)}
        )
        default = self.search("default", network, seed, strategy="random", budget={"trials": 1})
        rows = [self.row("default recipe", default, seed)]
        for sampler in ("tpe", "random"):
            state = self.tuned("default", seed, sampler, {"trials": self.options.trials})
            rows.append(self.row(f"recipe by {sampler}", state, seed))
        return rows

    def networks(self, seed: int) -> list[dict[str, Any]]:
        """Equal charge: together, one after the other, networks alone."""
        whole = self.options.multiply_adds
        limits = {"constraints": ["params<=100k", "flops<=10M"], "strategy": "evolution"}
        joint = self.search("together", self.space, seed, tune="optuna", budget={"multiply_adds": whole}, **limits)
        alone = self.search("networks", self.plain, seed, budget={"multiply_adds": whole}, **limits)
        first = self.search("half", self.plain, seed, budget={"multiply_adds": whole / 2}, **limits)
        rest = whole - first.charged.multiply_adds
        then = self.tuned("half", seed, "tpe", {"multiply_adds": rest})
        return [
            self.row("together", joint, seed),
            self.row("networks alone", alone, seed),
            self.row("networks, then recipe", then, seed, first),
        ]


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name in dict.fromkeys(row["search"] for row in rows):
        mine = [row for row in rows if row["search"] == name]
        table[name] = {"n": len(mine)}
        for key in ("short", "long"):
            values = [row["anew"][key] for row in mine]
            spread = statistics.stdev(values) if len(values) > 1 else None
            table[name][key] = {"mean": statistics.mean(values), "std": spread}
    settings = {key: str(value) for key, value in vars(options).items() if key != "draw"}
    return {"machine": describe(), "protocol": __doc__, "settings": settings, "searches": rows, "table": table}


def draw(results: dict[str, Any], path: Path) -> None:
    """Every winner trained anew: a point for each seed of its search, a bar at their mean."""
    names = list(results["table"])
    rows = [row for row in results["searches"] if row["search"] in names]
    places = {name: float(len(names) - index) for index, name in enumerate(names)}
    epochs = {"short": 3, "long": int(results["settings"]["final_epochs"])}
    plot = Plot(
        "Validation accuracy of every winner, trained anew",
        Axis.of(
            f"validation accuracy, mean of {AGAIN} trainings with fresh seeds",
            [row["anew"][key] for row in rows for key in epochs],
        ),
        Axis("", 0.5, len(names) + 0.5, marks=list(places.values()), text=lambda place: names[len(names) - int(place)]),
        WIDTH,
        HEIGHT - 40,
    )
    for (key, count), kind, beside in zip(epochs.items(), ("s0", "s1"), (0.12, -0.12), strict=True):
        points = [Point(row["anew"][key], places[row["search"]] + beside) for row in rows]
        plot.points(kind, points, radius=5, name=f"{count} epochs, a bar at the mean")
        for name, place in places.items():
            mean = results["table"][name][key]["mean"]
            plot.line(f"{kind} thick", [(mean, place + beside - 0.1), (mean, place + beside + 0.1)])
    draw_page(picture(plot.svg()), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24, help="over recipes of the fixed network")
    parser.add_argument("--multiply-adds", type=float, default=4e12, help="of each search of networks")
    parser.add_argument("--final-epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--runner", default="ray_tune")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--draw", type=Path, metavar="FILE", help="only a picture (PNG) of --out")
    options = parser.parse_args()
    if options.draw:
        draw(json.loads(options.out.read_text()), options.draw)
        return
    bench, rows = Bench(options), []
    for seed in range(options.seeds):
        for part in (bench.recipes, bench.networks):
            rows += part(seed)
            print(*(f"{row['search']}: {row['anew']}" for row in rows[-3:]), sep="\n", flush=True)
            write(options.out, report(rows, options))  # a sitting may end here; the next one goes on


if __name__ == "__main__":
    main()
