"""The smallest one-shot search: train a supernet of two paths, then measure both on the weights they inherit.

python -m nasforge.testing.one_shot FOLDER RUNNER [STRATEGY]        one driver, to be killed from outside
"""

from __future__ import annotations

import sys
from pathlib import Path

from nasforge import registry
from nasforge.api.assembly import make_check, make_evaluator, make_header
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Proposal, Result, TrainShared
from nasforge.experiment.experiment import Experiment
from nasforge.settings.experiment import DataConfig, ExperimentConfig, load_space, resolve

EPOCHS = 4


class TwoPaths:
    """Strategy of one `TrainShared` and, with its weights, a `Measure` of each path."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._key = next(decision.key for decision in space.decisions if decision.size > 1)
        self._asked = 0
        self._shared: Result | None = None

    def ask(self, number: int) -> Proposal | None:
        """Propose the supernet, then nothing until it is trained, then the paths."""
        if self._asked == 0:
            proposal: Proposal = TrainShared(self._space, "uniform", EPOCHS)
        else:
            left = self._space.domains[self._key].options[self._asked - 1 :]  # type: ignore[union-attr]
            if self._shared is None or not left:
                return None
            path = self._space.fixed({self._key: left[0]}).default_point()
            proposal = Measure(path, weights=self._shared.artifacts["weights"])
        self.recall(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Count it."""
        self._asked += 1

    def tell(self, number: int, result: Result) -> None:
        """Remember the supernet."""
        if number == 0:
            self._shared = result

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._asked -= 1


def two_path_config(folder: Path, runner: str) -> ExperimentConfig:
    """Return `tiny` with everything fixed but one layer, on digits."""
    tiny = load_space("tiny")
    point = dict(tiny.default_point().values)
    searched = "model.stage0.layer1.block"
    del point[searched]
    space = tiny.fixed({**point, "train.batch_size": 128})
    return resolve(
        {
            "space": space,
            "data": DataConfig("digits"),
            "evaluator": {"name": "shared_weights", "threads": 1},
            "runner": {"name": runner, **({"cpus": 1} if runner == "ray_tune" else {})},
            "epochs": 1,
            "budget": {"trials": 50},
            "name": "shared",
            "runs_dir": folder,
            "tracking_uri": "none",
        }
    )


def drive(folder: Path, runner: str, strategy: str = "") -> Experiment:
    """Start or continue until the strategy has finished; returns the closed experiment.

    Args:
        folder: of the experiments.
        runner: registered name.
        strategy: registered name of one that trains a supernet for `EPOCHS` epochs; empty: `TwoPaths`.
    """
    config = two_path_config(folder, runner)
    evaluator = make_evaluator(config)
    check = make_check(config, evaluator)
    options = {"epochs": EPOCHS} if strategy else {}
    asking = registry.make("strategy", strategy, options, config.spec) if strategy else TwoPaths(config.space)
    with Experiment(config.folder, make_header(config, evaluator.about), asking, check=check) as experiment:
        registry.make("runner", config.runner.name, config.runner.options, experiment, evaluator)
    return experiment


if __name__ == "__main__":
    drive(Path(sys.argv[1]), *sys.argv[2:])
