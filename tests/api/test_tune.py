"""Hyperparameters of one network: after a search, of a given network, of a timm model by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from expecting import raises

import nasforge
from nasforge.api.tune import _config_after, timm_space
from nasforge.cli import app as cli
from nasforge.cli.settings import settings_of
from nasforge.core.about import About
from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.events import SCHEMA, Header
from nasforge.core.ladder import Rung
from nasforge.core.recipe import recipe_of
from nasforge.core.trial import Result
from nasforge.experiment.state import State, load_state
from nasforge.settings.experiment import Named, resolve
from nasforge.settings.space_file import load_recipe
from nasforge.testing.toys import nested_space

RATES = "recipe.yaml"


class Rated:
    """The nearer the rate to 0.1, the better; the deeper the network, the better."""

    about = About()

    def __init__(self, spec):
        self.steps = spec.ladder[-1].epochs

    def check(self, proposal):
        return {"cost/flops": float(proposal.architecture.values["model.depth"])}

    def __call__(self, proposal, report):
        values = proposal.architecture.values
        metrics = {
            "val/accuracy": values["model.depth"] / 20 - abs(values.get("train.learning_rate", 0.5) - 0.1),
            "cost/flops": float(values["model.depth"]),
        }
        for step in range(1, self.steps + 1):
            report(step, metrics)
        return Result("finished", metrics, steps_done=self.steps)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return tmp_path


def searched(place, **settings):
    defaults = {
        **{"space": nested_space(), "strategy": "random", "evaluator": "test_tune:Rated", "epochs": 1},
        **{"budget": {"trials": 6}, "runner": "local", "tracking_uri": "none", "name": "first", "pruner": "none"},
        **{"runs_dir": place / "runs"},
    }
    return nasforge.search(**{**defaults, **settings}, say=lambda text: None)


def test_the_best_network_gets_a_better_recipe(place):
    before = searched(place, objectives=["val/accuracy", "cost/flops"], constraints=["flops<=1G"])
    tuned = nasforge.tune("runs/first", budget={"trials": 15}, say=lambda text: None)
    best = before.best.architecture
    assert all(trial.architecture.arch_id == best.arch_id for trial in tuned.state.trials.values())
    assert tuned.network == best.arch_id and tuned.config.name == "first-tuned"
    assert tuned.begun.architecture.train == best.train  # the recipe that it had is tried first
    assert tuned.begun.metrics["val/accuracy"] == before.best.metrics["val/accuracy"]
    assert [str(o) for o in tuned.config.objectives] == ["max:val/accuracy"] and not tuned.config.constraints
    assert tuned.gained == pytest.approx(tuned.state.best.metrics["val/accuracy"] - before.best.metrics["val/accuracy"])
    assert tuned.gained > 0
    again = nasforge.tune("runs/first", budget={"trials": 17}, say=lambda text: None)
    assert len(again.state.trials) == 17 and again.begun == tuned.begun  # the same command goes on


def test_the_tuning_of_a_fit_lies_next_to_it_and_has_its_name(place):
    searched(place, runs_dir=place / "runs" / "cells", name="search")
    (place / "runs" / "cells" / "fit.jsonl").write_text("")
    tuned = nasforge.tune("runs/cells/search", budget={"trials": 1}, say=lambda text: None)
    assert tuned.config.folder == place / "runs" / "cells-tuned" and tuned.state.name == "cells-tuned"


def test_columns_with_one_value_become_a_line(place, capfd):
    searched(place)
    assert cli.main(["tune", "first", "--recipe", str(_fixed_momentum(place)), "--max-trials", "3"]) == 0
    out = capfd.readouterr().out
    assert "In all rows: momentum 0.9." in out and "learning_rate" in out


def _fixed_momentum(place):
    text = "name: r\ndecisions:\n  train:\n    learning_rate: {float: [0.01, 0.5]}\n    momentum: [0.9]\n"
    (place / RATES).write_text(text)
    return place / RATES


def test_another_network_another_recipe_another_sampler(place):
    searched(place)
    (place / RATES).write_text(
        "name: rates\ndecisions:\n  train:\n    learning_rate: {float: [0.05, 0.2]}\n"
        "    momentum: {float: [0.1, 0.9]}\ndefaults:\n  train: {momentum: 0.5}\n"
    )
    tuned = nasforge.tune("runs/first", trial=2, recipe=place / RATES, sampler="random", name="t", seed=3)
    chosen = load_state(place / "runs" / "first").trials[2].architecture
    assert tuned.state.trials[0].architecture.model == chosen.model
    assert tuned.state.trials[0].architecture.train["momentum"] == 0.9 and tuned.config.seed == 3  # as it had
    assert set(tuned.state.trials[1].architecture.train) == {"learning_rate", "momentum"}
    assert tuned.config.strategy.options["sampler"] == "random"
    network = {"model.block": "conv", "model.block.conv.kernel": 3, "model.depth": 8, "model.width": 8}
    of_file = nasforge.tune("runs/first", architecture=network, name="u", budget={"trials": 2})
    assert of_file.state.trials[1].architecture.model["depth"] == 8


def test_an_opened_recipe_replaces_what_the_search_had_fixed(place):
    searched(place, recipe={"optimizer": "sgd", "nesterov": False, "label_smoothing": 0.05})
    tuned = nasforge.tune("runs/first", recipe="adamw", budget={"trials": 1}, say=lambda text: None)
    now = recipe_of(tuned.config.space, tuned.begun.architecture, tuned.config.recipe)
    assert (now.optimizer, now.nesterov, tuned.changed["optimizer"]) == ("adamw", False, ("sgd", "adamw"))
    named = {key.removeprefix("train.") for key in load_recipe("adamw").defaults}
    assert (now.label_smoothing == 0.05) == ("label_smoothing" not in named)


@pytest.mark.parametrize(
    ("recipe", "first", "changed"),
    [
        (
            "optimizers",
            {"optimizer": "sgd", "optimizer.sgd.learning_rate": 0.3, "schedule.cosine.warmup_epochs": 0},
            {},
        ),
        ("adamw", {"learning_rate": 0.005}, {"optimizer": ("sgd", "adamw"), "learning_rate": (0.3, 0.005)}),
        ("augmentation", {"crop_pixels": 0, "flip": False}, {}),
    ],
)
def test_the_recipe_that_the_network_had_is_tried_first(place, capfd, recipe, first, changed):
    searched(place)
    network = {"model.block": "conv", "model.block.conv.kernel": 3, "model.depth": 8, "model.width": 8}
    point = {**network, "train.learning_rate": 0.3}
    tuned = nasforge.tune("runs/first", architecture=point, recipe=recipe, budget={"trials": 1}, say=lambda text: None)
    assert tuned.begun.architecture.train.items() >= first.items()
    assert tuned.changed.items() >= changed.items() and ("learning_rate" in tuned.changed) == bool(changed)
    now = recipe_of(tuned.config.space, tuned.begun.architecture, tuned.config.recipe)
    assert now.learning_rate == tuned.changed.get("learning_rate", (0.3, 0.3))[1]  # also where the recipe is silent
    (place / "arch.json").write_text(json.dumps(point))
    assert cli.main(["tune", "first", "--arch", "arch.json", "--recipe", recipe, "--max-trials", "1"]) == 0
    assert ("differs from the network's own recipe" in capfd.readouterr().out) == bool(tuned.changed)


def test_a_search_by_zero_cost_scores_is_tuned_by_accuracy(place):
    scored = resolve({"space": "tiny", "data": "digits", "evaluator": "zero_cost", "objectives": ["zc/synflow"]})
    source = State(Header(SCHEMA, "first", scored.to_json(), "", 0, {}, ""))
    after, _ = _config_after(place / "first", source, scored.space.default_point(), None, Named("optuna"), None, {})
    assert after.evaluator.name == "training" and [str(o) for o in after.objectives] == ["max:val/accuracy"]


def test_command_prints_the_gain_and_one_json_object(place, capfd):
    searched(place)
    assert cli.main(["tune", "first", "--max-trials", "5"]) == 0
    printed = capfd.readouterr().out
    assert "0 (first)" in printed and "learning_rate" in printed and "Gain over the first recipe: +" in printed
    (place / "arch.json").write_text(json.dumps(load_state(place / "runs" / "first").trials[1].architecture.to_json()))
    assert cli.main(["tune", "first", "--arch", "arch.json", "--name", "second", "--max-trials", "3", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["gained"] >= 0 and result["first"]["number"] == 0 and result["experiment"] == "second"
    assert result["folder"] == str(place / "runs" / "second")
    assert cli.main(["show", "second", "--json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tune"], "tune needs an experiment, or a timm model and data"),
        (["tune", "furst"], "no experiment 'furst'"),
        (["tune", "first", "--weights", "a.safetensors"], "--weights: these options need --model"),
        (["tune", "first", "--trial", "99"], "no trial 99; they go from 0 to 5"),
        (["tune", "first", "--trial", "1", "--arch", "a.json"], "--arch 'a.json': no such file"),
        (["tune", "first", "--sampler", "tpee"], "unknown sampler 'tpee'; did you mean 'tpe'"),
        (["tune", "first", "--recipe", "sdg"], "no recipe 'sdg'"),
        (["tune", "--model", "resnet18", "--recipe", "sgd"], "no data. Set --data"),
        (["tune", "--model", "resnet18", "--data", "digits"], "no recipe to tune for 'resnet18'"),
        (["tune", "--model", "resnet18", "--data", "digits", "--trial", "1"], "Leave them out with --model"),
    ],
)
def test_mistakes(place, capfd, arguments, says):
    searched(place)
    assert cli.main([*arguments]) == 2
    assert says in capfd.readouterr().err


def test_a_model_that_timm_does_not_know_leaves_no_experiment(place, capfd):
    assert cli.main(["tune", "--model", "test_resent", "--data", "digits", "--recipe", "sgd"]) == 2
    printed = capfd.readouterr().err
    assert "model: timm has no network 'test_resent'; did you mean 'test_resnet'" in printed
    assert not list(place.glob("runs/*test*"))


def test_mistakes_of_the_python_api(place):
    searched(place, space=nested_space().fixed({"train.learning_rate": 0.3}))
    with raises(ConfigError, "missing", "recipe", "nested"):
        nasforge.tune("runs/first")
    with raises(ConfigError, "missing", "architecture", "model.block", "model.depth"):
        nasforge.tune("runs/first", architecture={"model.width": 8}, recipe="sgd")
    with raises(ConfigError, "conflict", "trial"):
        nasforge.tune("runs/first", architecture={"model.width": 8}, trial=1)
    with raises(ConfigError, "conflict", "model"):
        nasforge.tune(model="test_resnet", data="digits", recipe="sgd", trial=1)
    with raises(ConfigError, "conflict", "objectives"):
        nasforge.tune("runs/first", objectives=["val/loss"])
    searched(place, name="none", budget={"trials": 1}, objectives=["max:val/nothing"])
    with raises(JournalError, "empty", None, "none"):
        nasforge.tune("runs/none")
    (place / "runs/begun").mkdir()
    header = (place / "runs/first/journal.jsonl").read_text().partition("\n")[0]
    (place / "runs/begun/journal.jsonl").write_text(header + "\n")
    with raises(JournalError, "empty", "trial", "begun"):
        nasforge.tune("runs/begun", trial=0)


def test_a_timm_model_alone_with_two_objectives(place):
    space = timm_space("test_resnet", "sgd")
    config = resolve({"space": space, "data": "digits", "strategy": "optuna"})
    assert config.name == "test_resnet-digits-optuna-s0"
    tuned = nasforge.tune(
        model="test_resnet",
        recipe="sgd",
        data={"source": "digits", "images": 120},
        objectives=["val/accuracy", "val/loss"],
        budget={"trials": 2},
        epochs=1,
        runner="local",
        tracking_uri="none",
        runs_dir=place / "runs",
        say=lambda text: None,
    )
    trials = [trial for trial in tuned.state.trials.values() if trial.status == "finished"]
    assert len(trials) == 2 and {trial.architecture.model["backbone"] for trial in trials} == {"test_resnet"}
    assert tuned.network == "test_resnet" and tuned.gained is None
    assert nasforge.load(tuned.config.folder / "best") is not None


def test_weights_of_a_timm_model_are_loaded_once_before_any_trial(place):
    with raises(ConfigError, "missing", "weights", "trained.pth"):
        timm_space("test_resnet", "sgd", weights="./trained.pth")
    torch.save(timm.create_model("test_resnet").state_dict(), place / "trained.pth")
    space = timm_space("test_resnet", "sgd", weights="./trained.pth")
    assert space.arguments["weights"] == str(place / "trained.pth")  # continued from wherever
    with raises(ConfigError, "mismatch", "weights", "trained.pth", "--model"):
        timm_space("test_efficientnet", "sgd", weights="./trained.pth")
    with raises(ConfigError, "unknown", "model", "test_resnat"):
        timm_space("test_resnat", "sgd")
    (place / "damaged.pth").write_bytes(b"nothing")
    with raises(ConfigError, "unreadable", "weights", "damaged.pth"):
        timm_space("test_resnet", "sgd", weights="./damaged.pth")


@pytest.mark.parametrize(
    ("at", "epochs", "left"), [([1, 3], 2, {"at": [1]}), ([3], 2, None), ([1, 3], None, {"at": [1, 3]})]
)
def test_the_searchs_pruner_keeps_the_steps_that_shorter_trainings_have(place, at, epochs, left):
    class Stop(Exception):
        pass

    def stop(experiment):
        raise Stop(experiment.state.header.config)

    searched(place, epochs=4, pruner={"name": "asha", "at": at})
    with pytest.raises(Stop) as caught:
        nasforge.tune("runs/first", epochs=epochs, recipe="sgd", on_open=stop, say=lambda text: None)
    expected = {"name": "none", "options": {}} if left is None else {"name": "asha", "options": left}
    assert caught.value.args[0]["pruner"] == expected


@pytest.mark.parametrize(
    ("evaluator", "epochs", "tuned_by", "ladder"),
    [
        ({"name": "shared_weights", "options": {"recalibrate": 1}}, None, {"name": "training", "options": {}}, [1]),
        (
            {"name": "cross_validation", "options": {"folds": 2, "epochs": 1}},
            4,
            {"name": "cross_validation", "options": {"folds": 2, "epochs": 4}},
            [1, 2],
        ),
    ],
)
def test_what_measured_the_search_measures_recipes_where_it_can(place, evaluator, epochs, tuned_by, ladder):
    class Stop(Exception):
        pass

    def stop(experiment):
        raise Stop(experiment.state.header.config)

    searched(place)
    header, *lines = (place / "runs" / "first" / "journal.jsonl").read_text().splitlines()
    header = json.loads(header)
    header["config"] |= {"evaluator": evaluator, "ladder": [{"epochs": rung} for rung in ladder]}
    header["config"]["data"] = {"source": "digits", "images": 120}
    other = place / "runs" / "other"
    other.mkdir()
    (other / "journal.jsonl").write_text("\n".join([json.dumps(header), *lines]) + "\n")
    with pytest.raises(Stop) as caught:
        nasforge.tune("runs/other", epochs=epochs, on_open=stop, say=lambda text: None)
    assert caught.value.args[0]["evaluator"] == tuned_by
    assert [Rung.from_json(rung).epochs for rung in caught.value.args[0]["ladder"]] == ladder


def test_options_of_the_recipes_strategy():
    def config(assignments, **settings):
        return resolve(*settings_of(space="tiny", data={"source": "digits"}, assignments=assignments, **settings))

    strategy = config(["tune.sampler=gp", "tune.revisit=0", "strategy.population=9"], tune="optuna").strategy
    assert strategy.options["recipe"] == {"name": "optuna", "sampler": "gp"} and strategy.options["revisit"] == 0
    assert strategy.options["model"] == {"name": "evolution", "population": 9}
    with raises(ConfigError, "missing", "tune", "--tune optuna"):
        config(["tune.sampler=gp"])
