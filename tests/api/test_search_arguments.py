"""Arguments of `nasforge.search` that are refused before there is an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from expecting import raises

import nasforge
from nasforge.core.errors import ConfigError
from nasforge.core.events import Event
from nasforge.core.space import Choice, Decision, SearchSpace


class Hears:
    """A tracker."""

    def on_event(self, event: Event) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [{"space": "tiny"}, {}, "experiment.yaml"])
def test_something_else_in_place_of_a_configuration(config: Any) -> None:
    with raises(ConfigError, "type", "config", type(config).__name__, "ExperimentConfig", "**settings"):
        nasforge.search(config)
    with raises(ConfigError, "type", "config", type(config).__name__):
        nasforge.calibrate(config=config)


@pytest.mark.parametrize("trackers", [Hears(), None, 3, "mlflow", [Hears(), "mlflow"]])
def test_trackers_that_are_no_list_of_trackers(trackers: Any) -> None:
    settings: dict[str, Any] = {"space": "tiny", "data": "digits", "runner": "local", "tracking_uri": "none"}
    with raises(ConfigError, "type", "trackers", "on_event"):
        nasforge.search(**settings, trackers=trackers)
    with raises(ConfigError, "type", "trackers", "on_event"):
        nasforge.calibrate(**settings, trackers=trackers)
    with raises(ConfigError, "type", "trackers", "on_event"):
        nasforge.retrain("somewhere", trackers=trackers)


def test_a_builder_of_the_script_itself() -> None:
    space = SearchSpace("s", (Decision("model.a", Choice((1, 2))),), builder="__main__:build")
    with raises(ConfigError, "unsupported", "builder", "__main__", "my_module:build"):
        nasforge.search(space=space, data="digits", runner="local", tracking_uri="none")
