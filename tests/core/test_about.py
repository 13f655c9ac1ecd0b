"""The facts that an evaluator states, and the one error for one that states none."""

import dataclasses

import pytest
from expecting import raises

from nasforge.api.assembly import make_check, make_evaluator
from nasforge.api.search import search
from nasforge.core.about import About, about_of
from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.protocols import Checks, Preflight, Tabulated, Timed
from nasforge.core.trial import Result
from nasforge.testing.toys import Planted, nested_space, toy_config


class Old:
    """An evaluator of the interface before `about`."""

    metrics = ("val/accuracy",)

    def __init__(self, space, data, ladder, recipe):
        raise AssertionError("it is not made")


class Silent:
    """Takes the spec and states no facts."""

    def __init__(self, spec):
        self.spec = spec

    def __call__(self, proposal, report):
        return Result("finished", {"val/accuracy": 0.5}, steps_done=1)


class Whole(Planted):
    """Has an optional method of every kind but the table's."""

    about = About(metrics=("val/accuracy",), notes=("it is a toy",))

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def check(self, proposal):
        return {"cost/flops": 7.0}

    def preflight(self, proposal):
        if self.spec.seed == 13:
            raise BuildError("an unlucky seed")

    def latency_ms(self, architecture):
        return 1.0


def test_facts_are_frozen_and_named():
    about = About(metrics=("val/accuracy",))
    assert (about.data_hash, about.shape, about.classes, about.instant, about.notes) == ("", None, None, False, ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        about.instant = True
    with pytest.raises(TypeError):
        About(("val/accuracy",))


@pytest.mark.parametrize("evaluator", [Silent(None), lambda proposal, report: None])
def test_one_without_facts_is_told_what_to_add(evaluator):
    with raises(ConfigError, "type", "about"):
        about_of(evaluator)


def test_about_of_another_type_is_refused():
    silent = Silent(None)
    silent.about = {"metrics": ["val/accuracy"]}
    with raises(ConfigError, "type", "about"):
        about_of(silent)


@pytest.mark.parametrize("name", ["Old", "Silent"])
def test_a_plug_in_of_the_old_interface_ends_before_there_is_a_journal(tmp_path, name):
    config = toy_config(tmp_path, evaluator=f"{__name__}:{name}")
    with raises(ConfigError, "type", *("evaluator", "SearchSpec") if name == "Old" else ("about", "About")):
        search(config, say=lambda text: None)
    assert not config.folder.exists()


def test_optional_protocols_are_found_by_their_methods(tmp_path):
    config = toy_config(tmp_path, evaluator=f"{__name__}:Whole", constraints=["flops<=10"], budget={"trials": 2})
    evaluator = make_evaluator(config)
    assert isinstance(evaluator, Checks) and isinstance(evaluator, Preflight) and isinstance(evaluator, Timed)
    assert not isinstance(evaluator, Tabulated) and not isinstance(Planted(), (Checks, Preflight, Timed, Tabulated))
    assert make_check(config, evaluator)(None) == {"cost/flops": 7.0}
    messages = []
    state = search(config, say=messages.append)
    assert state.trials[0].costs == {"cost/flops": 7.0} and "Note: it is a toy." in messages
    unlucky = toy_config(tmp_path, evaluator=f"{__name__}:Whole", seed=13, name="unlucky")
    with raises(BuildError, "invalid", None, "unlucky"):
        search(unlucky, say=messages.append)
    assert not unlucky.folder.exists()


def test_an_objective_that_is_not_reported_is_refused(tmp_path):
    with raises(ConfigError, "unknown", "val/acuracy", "val/accuracy"):
        make_evaluator(toy_config(tmp_path, evaluator=f"{__name__}:Whole", objectives=["max:val/acuracy"]))


def test_latency_needs_an_evaluator_that_times_networks(tmp_path):
    class Networks(Planted):
        about = About(shape=(1, 8, 8), classes=10)

    config = toy_config(tmp_path, constraints=["latency_ms<=5"])
    config = dataclasses.replace(config, space=dataclasses.replace(nested_space(), builder="staged"))
    with raises(ConfigError, "unsupported", "cost/latency_ms"):
        make_check(config, Networks())
    with raises(ConfigError, "unsupported", "evaluator"):
        make_check(config, Planted())
