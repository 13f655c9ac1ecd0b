"""Small tables and the spaces they are of, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasforge.api.search import search
from nasforge.core.goals import Constraint, Objective
from nasforge.core.ladder import Rung
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Measure, Result
from nasforge.evaluators.table.lookup import LookupTable
from nasforge.settings.experiment import ExperimentConfig, resolve
from nasforge.settings.spec import SearchSpec


def space(*decisions: Decision, **fields: Any) -> SearchSpace:
    return SearchSpace("made_up", decisions, **fields)


def flat() -> SearchSpace:
    return space(Decision("model.width", Choice((8, 16))), Decision("train.rate", Choice((0.1, 1.0))))


def nested() -> SearchSpace:
    kernel = Decision("model.block.conv.kernel", Choice((3, 5)))
    pooling = Decision("model.block.pool.kind", Choice(("max", "avg")))
    block = Choice(("none", "conv", "pool"), ((), (kernel,), (pooling,)))
    return space(Decision("model.block", block), Decision("model.bias", Choice((False, True))))


class Silent:
    """A report that stops after some steps."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.stop_at = stop_at

    def __call__(self, step: int, metrics: Any) -> bool:
        self.steps[step] = dict(metrics)
        return step < self.stop_at


def written(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def table(
    where: SearchSpace,
    path: str,
    ladder: tuple[int, ...] = (3,),
    objectives: Sequence[Objective] = (),
    limits: Sequence[Constraint] = (),
    **options: Any,
) -> LookupTable:
    options.setdefault("signal", None if "fidelity" in options else "accuracy")
    rungs = tuple(map(Rung, ladder))
    spec = SearchSpec(where, None, rungs, objectives=tuple(objectives), constraints=tuple(limits))
    return LookupTable(spec, path=path, **options)


def looked_up(evaluator: LookupTable, report: Any = None, rung: int = -1, **values: Any) -> Result:
    point = evaluator.space.point({key.replace("__", "."): value for key, value in values.items()})
    return evaluator(Measure(point, rung), report or Silent())


FLAT = "width,rate,accuracy,seconds\n8,0.1,0.5,10\n16,0.1,0.75,20\n8,1,0.25,10\n16,1.0,,20\n"


def config_of(
    folder: Path, where: SearchSpace | str, path: str, evaluator: Any = None, **settings: Any
) -> ExperimentConfig:
    options = {"name": "lookup_table", "path": path, "signal": "accuracy", **(evaluator or {})}
    defaults = {
        "space": where,
        "evaluator": options,
        "runner": "local",
        "runs_dir": folder / "runs",
        "strategy": "random",
    }
    return resolve({**defaults, "tracking_uri": "none", "name": "t", **settings})


def searched(folder: Path, where: SearchSpace, path: str, evaluator: Any = None, **settings: Any) -> Any:
    return search(config_of(folder, where, path, evaluator, **settings), say=lambda text: None)
