"""The facts about a search that plug-ins are made from."""

import pickle
from dataclasses import FrozenInstanceError

import pytest

from nasforge.core.goals import Objective
from nasforge.core.ladder import Rung
from nasforge.settings.experiment import resolve
from nasforge.settings.spec import SearchSpec


def test_a_configuration_gives_the_spec_of_its_search() -> None:
    config = resolve({"space": "tiny", "data": "digits", "targets": ["params<=10k"], "seed": 3, "epochs": 9})
    spec = config.spec
    assert (spec.space, spec.data, spec.ladder) == (config.space, config.data, config.ladder)
    assert (dict(spec.recipe), spec.objectives, spec.targets, spec.seed) == (
        dict(config.recipe),
        config.objectives,
        config.targets,
        3,
    )


def test_lists_become_tuples_and_nothing_can_be_set() -> None:
    space = resolve({"space": "tiny"}).space
    spec = SearchSpec(space, ladder=[Rung(2)], objectives=[Objective("val/loss", False)])  # type: ignore[arg-type]
    assert spec.ladder == (Rung(2),) and spec.objectives == (Objective("val/loss", False),)
    assert SearchSpec(space).objectives == (Objective("val/accuracy", True),)
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(FrozenInstanceError):
        spec.seed = 1  # type: ignore[misc]
