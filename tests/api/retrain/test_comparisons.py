"""Random trials, the ensemble and flips, beside the best."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.api.export import export
from nasforge.api.retrain import networks, retrain, work
from nasforge.api.retrain.choice import drawn_of, ranked_of
from nasforge.api.search import search
from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.events import TestOpened
from nasforge.core.goals import Budget, Objective
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.exporters.network_folder import load
from nasforge.models.ensemble import TenCrops
from nasforge.models.reference import FAR
from nasforge.settings.experiment import DataConfig
from nasforge.testing.toys import Planted, nested_space, toy_config
from nasforge.training.scoring import score


def opened(folder):
    return [event.finalist for event in read_events(folder) if isinstance(event, TestOpened) and event.metrics]


@pytest.fixture(scope="module")
def retrained(searched, tmp_path_factory):
    """The best two and one at random, one seed, one epoch, with flips."""
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("compared") / "small"))
    return folder, retrain(folder, top=2, random=1, seeds=1, epochs=1, tta="flip", device="cpu")


def test_random_trials_are_others_than_the_best_and_have_no_reference(retrained):
    folder, outcome = retrained
    ranked = [trial.number for trial in load_state(folder).ranking()]
    assert [finalist.number for finalist in (*outcome.top, *outcome.random)] == ranked
    assert [finalist.rank for finalist in outcome.random] == [3]
    assert outcome.random[0].reference is None
    assert outcome.agreement.n == 3 and outcome.agreement.too_few
    assert set(outcome.gains) == {"random", "reference"}


def test_nothing_of_a_reference_is_frozen(searched, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(searched, tmp_path / "small"))
    frozen = []

    def trained(retraining, progress):
        frozen.append(retraining.recipe.frozen_stages)
        return "not now"

    monkeypatch.setattr(work, "recipe_of", lambda *reported: Recipe(frozen_stages=1))
    monkeypatch.setattr(networks, "train_network", trained)
    with pytest.raises(SearchError):
        retrain(folder, seeds=1, epochs=1, device="cpu")
    assert frozen == [1, 0]


def test_everything_meets_the_test_split_once_the_ensemble_too(retrained):
    folder, outcome = retrained
    parts = [part for f in (*outcome.top, *outcome.random) for part in (f.retrained, f.reference) if part]
    names = [name for part in parts for name in part.networks]
    assert sorted(opened(folder)) == sorted([*names, outcome.ensemble.name])
    assert len(names) == 5


def test_the_ensemble_is_the_mean_of_its_members_and_costs_their_sum(retrained):
    folder, outcome = retrained
    members = [load(folder / "finalists" / name) for name in outcome.ensemble.members]
    assert [m.architecture for m in members] == [finalist.architecture for finalist in outcome]
    whole = load(folder / "finalists" / outcome.ensemble.name)
    images = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        mean = torch.stack([member(images).softmax(1) for member in members]).mean(0)
        assert torch.allclose(whole(images).exp(), mean, atol=1e-6)
    assert outcome.ensemble.costs["cost/params"] == sum(f.retrained.costs["cost/params"] for f in outcome)
    part = load_data(DataConfig("digits")).open_test()
    assert score(whole.body, part)["accuracy"] == outcome.ensemble.test["test/accuracy"]
    assert whole.description.metrics["test/accuracy"] == outcome.ensemble.test["test/accuracy"]


def test_the_ensemble_is_exported_like_a_network(retrained, tmp_path):
    folder, outcome = retrained
    export(folder / "finalists" / outcome.ensemble.name, ["safetensors"], tmp_path / "out")
    shipped, images = load(tmp_path / "out"), torch.rand(3, 1, 8, 8)
    assert torch.equal(shipped(images), load(folder / "finalists" / outcome.ensemble.name)(images))


def test_flips_are_measured_in_the_same_opening(retrained):
    folder, outcome = retrained
    name = outcome[0].retrained.networks[0]
    network = load(folder / "finalists" / name).body
    part = load_data(DataConfig("digits")).open_test()
    images = (part.images.float() - 255 * part.mean[0]) / (255 * part.std[0])
    with torch.no_grad():
        mean = (network(images).softmax(1) + network(images.flip(-1)).softmax(1)) / 2
    right = float((mean.argmax(1) == part.labels).double().mean())
    assert load_state(folder).tests[name]["test_flip/accuracy"] == pytest.approx(right)
    assert outcome[0].retrained.test["test_flip/accuracy"].mean == pytest.approx(right)


def test_crops_are_shifted_as_in_training_and_measured_in_the_same_opening(folder, monkeypatch):
    recipe_of = work.recipe_of
    monkeypatch.setattr(work, "recipe_of", lambda *point: replace(recipe_of(*point), crop_pixels=2, crop_fill="mean"))
    outcome = retrain(folder, top=2, seeds=1, epochs=1, tta="flip,crops", device="cpu")
    names = [*outcome[0].retrained.networks, outcome.ensemble.name]
    assert sorted(opened(folder)) == sorted({*opened(folder)})
    part = load_data(DataConfig("digits")).open_test()
    tests = load_state(folder).tests
    for name in names:
        network = load(folder / "finalists" / name).body
        right = score(TenCrops(network, 2, (0.0,)), part)  # of an ensemble: both means are linear
        assert tests[name]["test_crops/accuracy"] == pytest.approx(right["accuracy"])
        assert tests[name]["test_crops/loss"] == pytest.approx(right["loss"], rel=1e-4)
        assert tests[name]["test_crops/loss"] != tests[name]["test/loss"]
        assert "test_flip/accuracy" in tests[name]


def test_crops_without_shifts_in_training_are_an_eighth_on_black(folder):
    (finalist,) = retrain(folder, seeds=1, epochs=1, tta="crops", device="cpu")
    part = load_data(DataConfig("digits")).open_test()
    network = load(folder / "finalists" / finalist.retrained.networks[0]).body
    right = score(TenCrops(network, 1, (-part.mean[0] / part.std[0],)), part)
    assert finalist.retrained.test["test_crops/loss"].mean == pytest.approx(right["loss"], rel=1e-6)
    (again,) = retrain(folder, seeds=1, epochs=1, tta="flip,crops", device="cpu")
    assert "test_flip/accuracy" not in again.retrained.test
    assert "on the test split without flips" in again.retrained.failures[0]


def test_the_same_call_again_does_nothing(retrained, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(retrained[0], tmp_path / "small"))
    before = (folder / "journal.jsonl").read_bytes()
    monkeypatch.setattr(networks, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr(networks, "outputs_and_loss", lambda *args, **kwargs: pytest.fail("tested again"))
    assert retrain(folder, top=2, random=1, seeds=1, epochs=1, tta="flip", device="cpu") == retrained[1]
    assert (folder / "journal.jsonl").read_bytes() == before


def test_a_network_that_met_the_test_split_without_flips_is_not_measured_again(folder):
    retrain(folder, seeds=1, epochs=1, device="cpu")
    before = opened(folder)
    (outcome,) = retrain(folder, seeds=1, epochs=1, tta="flip", device="cpu")
    assert opened(folder) == before
    assert "test_flip/accuracy" not in outcome.retrained.test
    assert "no network is measured twice" in outcome.retrained.failures[0]


def test_more_random_trials_begin_with_the_same_ones(searched):
    ranked = load_state(searched).ranking()
    two = drawn_of(ranked, 1, 2, seed=5)
    assert drawn_of(ranked, 1, 1, seed=5) == two[:1]
    assert {tuple(t.number for t in drawn_of(ranked, 1, 2, seed=s)) for s in range(9)} == {
        (ranked[1].number, ranked[2].number),
        (ranked[2].number, ranked[1].number),
    }


def test_a_network_is_a_finalist_once_by_its_best_recipe(tmp_path):
    config = toy_config(tmp_path, strategy={"name": "joint", "model": "random", "recipe": "random"})
    state = search(replace(config, budget=Budget(trials=24)), made_evaluator=Planted(), say=lambda text: None)
    ranking, outcome = state.ranking(), ranked_of(state)
    networks_of = [trial.architecture.arch_id for trial in ranking]
    assert len(set(networks_of[:4])) < 4  # every fourth trial gives one of the best another recipe
    assert [trial.architecture.arch_id for trial in outcome] == list(dict.fromkeys(networks_of))
    assert all(trial == ranking[networks_of.index(trial.architecture.arch_id)] for trial in outcome)
    network = {key: value for key, value in ranking[0].architecture.values.items() if key.startswith("model.")}
    recipes = toy_config(tmp_path / "tuned", space=nested_space().fixed(network))
    tuned = search(recipes, made_evaluator=Planted(), say=lambda text: None)
    assert ranked_of(tuned) == tuned.ranking() and len(tuned.ranking()) == 12


def test_mistakes(folder):
    with raises(SearchError, "range", "random", "ask for 2 at most"):
        retrain(folder, random=3, seeds=1, epochs=1)
    with raises(SearchError, "range", "top", "ask for 3 at most"):
        retrain(folder, top=4, seeds=1, epochs=1)
    with raises(SearchError, "range", "retrain.random", -1):
        retrain(folder, random=-1)
    for wrong in ("rotate", "flip,flip", "flip,none", "", 3):
        with raises(SearchError, "unknown", "tta", "flip,crops"):
            retrain(folder, tta=wrong)


def test_what_an_objective_needs_is_measured_on_the_test_split_too():
    config = DataConfig("digits", images=300, validation=0.2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    outcome = networks.measure(network, config, torch.device("cpu"), "flip", [Objective("val/roc_auc", True)])
    figures = ("accuracy", "loss", "f1_macro", "roc_auc")
    assert set(outcome) == {f"{part}/{figure}" for part in ("test", "test_flip") for figure in figures}


# --- several references -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def against_three(searched, tmp_path_factory):
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("references") / "small"))
    return folder, retrain(folder, seeds=2, epochs=1, device="cpu", reference=["resnet", "lenet", "densenet"])


def test_every_reference_is_trained_and_opened_like_the_first(against_three):
    folder, outcome = against_three
    (finalist,) = outcome
    assert finalist.reference.name.startswith("ResNet-")
    assert list(finalist.more_references) == ["lenet", "densenet"]
    assert finalist.more_references["lenet"].name.startswith("LeNet-5 x")
    names = [name for part in finalist.parts for name in part.networks]
    assert sorted(opened(folder)) == sorted(names) and len(set(names)) == 8
    for asked, part in (("resnet", finalist.reference), *finalist.more_references.items()):
        trained = load(folder / "finalists" / part.networks[0]).description.trained
        assert (trained["role"], trained["reference"]) == ("reference", asked)
    assert set(outcome.gains) == {"reference", "reference/lenet", "reference/densenet"}
    expected = (
        finalist.retrained.test["test/accuracy"].mean - finalist.more_references["lenet"].test["test/accuracy"].mean
    )
    assert outcome.gains["reference/lenet"].difference == pytest.approx(expected)
    assert outcome.to_json()["references"] == ["resnet", "lenet", "densenet"]
    assert set(outcome.to_json()["finalists"][0]["more_references"]) == {"lenet", "densenet"}


def test_a_reference_keeps_within_the_multiply_adds_or_says_that_it_cannot(against_three):
    _, ((finalist,)) = against_three[0], tuple(against_three[1])
    budget = finalist.retrained.costs["cost/flops"]
    resnet_is_close = abs(finalist.reference.costs["cost/flops"] / budget - 1) <= FAR
    assert resnet_is_close == (finalist.reference.notes == ())
    lenet, densenet = finalist.more_references.values()
    assert lenet.costs["cost/flops"] <= budget and lenet.notes == ()
    assert densenet.costs["cost/flops"] > budget
    (note,) = densenet.notes
    assert "narrowest" in note and f"{densenet.costs['cost/flops']:,.0f}" in note and f"{budget:,.0f}" in note


REFERENCE = """
from torch import nn

from nasforge.core.space import SearchSpace


def build(pick, *, in_channels, classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * in_channels, classes))


def reference(flops, *, shape, classes):
    return "Mine", SearchSpace("mine", (), builder="own_reference:build")
"""


def test_the_builder_of_a_reference_of_the_users_runs(folder, tmp_path, monkeypatch):
    (tmp_path / "own_reference.py").write_text(REFERENCE)
    monkeypatch.syspath_prepend(tmp_path)
    (finalist,) = retrain(folder, seeds=1, epochs=1, device="cpu", reference="own_reference:reference")
    assert finalist.reference.name == "Mine"
    ratio = finalist.reference.costs["cost/flops"] / finalist.retrained.costs["cost/flops"]
    (note,) = finalist.reference.notes
    assert f"{ratio:.3g} times" in note and finalist.retrained.name in note
    assert load(folder / "finalists" / finalist.reference.networks[0]).description.space.name == "mine"


def test_references_already_measured_are_not_trained_again(against_three, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(against_three[0], tmp_path / "small"))
    monkeypatch.setattr(networks, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    (finalist,) = retrain(folder, seeds=2, epochs=1, device="cpu", reference="lenet,resnet")
    assert finalist.reference == against_three[1][0].more_references["lenet"]
    assert finalist.more_references == {"resnet": against_three[1][0].reference}
    (alone,) = retrain(folder, seeds=2, epochs=1, device="cpu")
    assert alone.reference == against_three[1][0].reference and alone.more_references == {}


@pytest.mark.parametrize(
    ("names", "kind", "text"),
    [
        ("resnet,vg", "unknown", "'vgg'"),
        ("resnet,resnet", "duplicate", "resnet"),
        ("", "missing", "resnet"),
        ([], "missing", "vgg"),
    ],
)
def test_names_of_references_are_checked_before_anything_is_trained(folder, names, kind, text):
    with raises(ConfigError, kind, "reference", text):
        retrain(folder, reference=names)
