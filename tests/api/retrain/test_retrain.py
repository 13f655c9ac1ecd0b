import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from expecting import raises
from waiting import wait_until

import nasforge
from nasforge.api.retrain import Spread, networks, retrain, work
from nasforge.api.retrain.choice import ranked_of
from nasforge.core.errors import (
    ConfigError,
    DataError,
    ExportError,
    JournalError,
    Problem,
    RecipeError,
    SearchError,
)
from nasforge.core.events import TestOpened
from nasforge.data import load_data
from nasforge.experiment.journal import Journal, read_events
from nasforge.experiment.state import load_state
from nasforge.exporters.best import write_best
from nasforge.exporters.network_folder import load
from nasforge.models.costs import count_flops
from nasforge.models.reference import resnet_of_flops
from nasforge.settings.experiment import DataConfig
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import train
from nasforge.training.scoring import score
from nasforge.views.answers import answers_file, best_answers_file, class_names, read_answers, surest_mistakes
from nasforge.views.results import networks_on_test


def opened(folder):
    return [event for event in read_events(folder) if isinstance(event, TestOpened) and event.metrics]


# --- best/ at the end of a search -----------------------------------------------------------------------------------


def test_a_search_leaves_its_best_network_with_the_accuracy_it_had(searched):
    state = load_state(searched)
    network = load(searched / "best")
    data = load_data(DataConfig("digits", images=600))
    assert network.architecture == state.best.architecture
    assert score(network.body, data.validation)["accuracy"] == state.best.metrics["val/accuracy"]
    right = network(data.validation.images.float() / 255).argmax(1) == data.validation.labels
    assert float(right.double().mean()) == state.best.metrics["val/accuracy"]
    assert network.description.metrics["val/accuracy"] == state.best.metrics["val/accuracy"]
    assert network.description.trained["recipe"]["learning_rate"] == state.best.architecture.train["learning_rate"]
    assert network.description.trained["epochs"] == 1


def test_write_best_refuses_weights_that_changed(folder):
    artifact = folder / load_state(folder).best.result.artifacts["weights"].path
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    artifact.write_bytes(bytes(content))
    with raises(DataError, "changed", None, artifact):
        write_best(folder)
    artifact.unlink()
    with raises(DataError, "missing", None, artifact):
        write_best(folder)


def test_write_best_says_when_there_are_no_weights(folder):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        if event["event"] == "told":
            event["result"]["artifacts"] = {}
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with raises(SearchError, "missing", None, "nasforge retrain small"):
        write_best(folder)
    (folder / "journal.jsonl").write_text(lines[0] + "\n")
    with raises(SearchError, "empty", None, folder):
        write_best(folder)


# --- retrain --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def retrained(searched, tmp_path_factory):
    """Retrained once: top 1, two seeds, two epochs; with what `progress` said."""
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("retrained") / "small"))
    messages = []
    finalists = retrain(folder, seeds=2, epochs=2, device="cpu", progress=lambda *args: messages.append(args))
    return folder, finalists, messages


def test_retrain_gives_mean_and_std_beside_a_resnet_of_the_same_flops(retrained):
    folder, (finalist,), _ = retrained
    tests = load_state(folder).tests
    assert finalist.architecture == load_state(folder).best.architecture
    for part in (finalist.retrained, finalist.reference):
        accuracies = [tests[name]["test/accuracy"] for name in part.networks]
        mean = sum(accuracies) / 2
        std = (sum((a - mean) ** 2 for a in accuracies)) ** 0.5
        assert part.test["test/accuracy"] == Spread(
            pytest.approx(mean), pytest.approx(std), 2, pytest.approx(12.7062 * std / 2**0.5, rel=1e-4)
        )
        assert set(part.test) == {"test/accuracy", "test/loss", "test/f1_macro"}
    assert finalist.reference.name.startswith("ResNet")
    assert 0.2 < finalist.reference.costs["cost/flops"] / finalist.retrained.costs["cost/flops"] < 5
    json.dumps(finalist.to_json())


def test_the_test_split_is_opened_once_per_retrained_network(retrained):
    folder, (finalist,), _ = retrained
    names = [event.finalist for event in opened(folder)]
    assert sorted(names) == sorted(finalist.retrained.networks + finalist.reference.networks)
    assert len(set(names)) == len(names) == 4


def test_finalists_are_kept_as_networks_with_the_test_accuracy_that_was_journaled(retrained):
    folder = retrained[0]
    part = load_data(DataConfig("digits")).open_test()
    for event in opened(folder):
        network = load(folder / "finalists" / event.finalist)
        assert score(network.body, part)["accuracy"] == event.metrics["test/accuracy"]
        assert network.description.metrics["test/accuracy"] == event.metrics["test/accuracy"]
        assert network.description.metrics["cost/flops"] > 0
    assert not list(folder.rglob("checkpoint.pt"))


def test_best_becomes_the_first_seed_of_the_first_finalist(retrained):
    folder, (finalist,), _ = retrained
    best, first = load(folder / "best"), load(folder / "finalists" / finalist.retrained.networks[0])
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(best(images), first(images))
    assert best.description.trained["finalist"] == finalist.retrained.networks[0]


def test_the_whole_train_and_validation_split_is_used_to_the_last_epoch(retrained):
    folder, _, messages = retrained
    data = load_data(DataConfig("digits"))
    best = load(folder / "best").description
    assert best.trained["data"]["images"] is None
    assert (best.mean, best.std) == (data.mean, data.std)
    assert not any(key.startswith("val/") for key in best.metrics)
    names = {name for name, *_ in messages}
    assert len(names) == 4
    assert [(epoch, of) for name, epoch, of, _ in messages if name == min(names)] == [(1, 2), (2, 2)]


def test_seeds_differ_and_a_seed_repeats(retrained, folder):
    whole, (finalist,), _ = retrained
    first, second = finalist.retrained.networks
    weights = [(whole / "finalists" / name / "weights.safetensors").read_bytes() for name in (first, second)]
    assert weights[0] != weights[1]
    (again,) = retrain(folder, seeds=1, epochs=2, device="cpu")
    assert again.retrained.networks == (first,)
    assert again.retrained.test["test/accuracy"].std is None
    assert (folder / "finalists" / first / "weights.safetensors").read_bytes() == weights[0]


def test_the_same_call_again_trains_and_opens_nothing(retrained, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(retrained[0], tmp_path / "small"))
    before = (folder / "journal.jsonl").read_bytes()
    monkeypatch.setattr(networks, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr(networks, "outputs_and_loss", lambda *args, **kwargs: pytest.fail("tested again"))
    assert retrain(folder, seeds=2, epochs=2, device="cpu") == retrained[1]
    assert (folder / "journal.jsonl").read_bytes() == before


def test_a_finalist_that_met_the_test_split_is_not_trained_again_even_when_its_folder_is_gone(
    retrained, tmp_path, monkeypatch
):
    folder = Path(shutil.copytree(retrained[0], tmp_path / "small"))
    shutil.rmtree(folder / "finalists")
    monkeypatch.setattr(networks, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert retrain(folder, seeds=2, epochs=2, device="cpu") == retrained[1]  # best/ holds the first, whole
    shutil.rmtree(folder / "best")
    with raises(SearchError, "failed", None, "--epochs", "--seeds"):
        retrain(folder, seeds=2, epochs=2, device="cpu")


def test_a_retrained_best_stays_when_the_search_is_continued(retrained, tmp_path):
    folder = Path(shutil.copytree(retrained[0], tmp_path / "small"))
    before = (folder / "best" / "network.json").read_bytes()
    write_best(folder)
    assert (folder / "best" / "network.json").read_bytes() == before


@pytest.mark.parametrize("moment", ["training", "saved", "tested"])
def test_a_retraining_continues_after_an_interruption_with_the_same_bits(retrained, folder, monkeypatch, moment):
    """Interrupted in the second epoch, between saving and testing, and between testing and the note in the folder."""

    class Interruption(Exception):
        pass

    def interrupt(*args, **kwargs):
        raise Interruption

    with monkeypatch.context() as patched:
        if moment == "saved":
            patched.setattr(networks, "outputs_and_loss", interrupt)
        if moment == "tested":
            patched.setattr(work, "replace", interrupt_on_description(interrupt))
        progress = (lambda name, epoch, *_: interrupt()) if moment == "training" else (lambda *_: None)
        with pytest.raises(Interruption):
            retrain(folder, seeds=2, epochs=2, device="cpu", progress=progress)
    assert len(opened(folder)) == (moment == "tested")
    messages = []
    again = retrain(folder, seeds=2, epochs=2, device="cpu", progress=lambda *args: messages.append(args))
    first = again[0].retrained.networks[0]
    assert [a.test["test/accuracy"] for a in (again[0].retrained, again[0].reference)] == [
        a.test["test/accuracy"] for a in (retrained[1][0].retrained, retrained[1][0].reference)
    ]
    epochs = [epoch for name, epoch, *_ in messages if name == first]
    assert epochs == ([1, 2] if moment == "training" else [])  # the first is told again, not trained again
    assert (folder / "best" / "weights.safetensors").read_bytes() == (
        retrained[0] / "best" / "weights.safetensors"
    ).read_bytes()
    assert len(opened(folder)) == 4


def interrupt_on_description(interrupt):
    def replace(thing, **changes):
        return interrupt() if "metrics" in changes else dataclasses.replace(thing, **changes)

    return replace


@pytest.mark.slow
def test_a_killed_retraining_continues(retrained, folder):
    code = "import sys; from nasforge import retrain; retrain(sys.argv[1], seeds=2, epochs=400, device='cpu')"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def checkpoints():
        return list(folder.glob("finalists/*/checkpoint.pt"))  # unlike rglob, enters no folder that may vanish

    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment)
    try:
        wait_until(lambda: process.poll() is not None or checkpoints(), "a checkpoint")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert opened(folder) == []
    state = torch.load(checkpoints()[0], weights_only=True)
    done = state["progress"]["epoch"]
    assert done >= 1
    told = []

    class Enough(Exception):
        pass

    def progress(name, epoch, *_):
        told.append(epoch)
        if len(told) == 2:
            raise Enough

    with pytest.raises(Enough):
        retrain(folder, seeds=2, epochs=400, device="cpu", progress=progress)
    assert told == [done, done + 1]


def test_memory_that_runs_out_on_the_test_split_is_one_sentence(folder, monkeypatch):
    def failing(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(work, "measure", failing)
    with raises(TrainingFailed, "failed", None, "CUDA out of memory"):
        retrain(folder, seeds=1, epochs=1, device="cpu")


def test_a_diverged_seed_is_reported_and_the_others_count(folder, monkeypatch):
    def sometimes(network, *args, **kwargs):
        if kwargs["seed"] == 0:
            raise TrainingFailed("diverged", "the train loss became infinite", "lower the learning rate")
        return train(network, *args, **kwargs)

    monkeypatch.setattr(networks, "train", sometimes)
    (finalist,) = retrain(folder, seeds=2, epochs=1, device="cpu")
    assert finalist.retrained.test["test/accuracy"].n == 1
    assert "seed0" in finalist.retrained.failures[0]
    assert "lower the learning rate" in finalist.retrained.failures[0]
    assert load(folder / "best").description.trained["seed"] == 1


def test_best_stays_when_every_seed_fails(folder, monkeypatch):
    def never(*args, **kwargs):
        raise TrainingFailed("diverged", "the train loss became infinite", "lower the learning rate")

    before = (folder / "best" / "network.json").read_bytes()
    monkeypatch.setattr(networks, "train", never)
    with raises(SearchError, "failed", None, "best/ is as it was", "lower the learning rate"):
        retrain(folder, seeds=1, epochs=1, device="cpu")
    assert (folder / "best" / "network.json").read_bytes() == before


def test_top_k_follows_the_ranking(folder):
    finalists = retrain(folder, top=2, seeds=1, epochs=1, device="cpu")
    assert [f.number for f in finalists] == [trial.number for trial in load_state(folder).ranking()[:2]]
    assert [f.rank for f in finalists] == [1, 2]
    assert load(folder / "best").architecture == finalists[0].architecture


def test_with_several_objectives_the_front_comes_first(folder):
    state = load_state(folder)
    front = state.front()
    assert ranked_of(state) == state.ranking()
    lines = (folder / "journal.jsonl").read_text().splitlines()
    header = json.loads(lines[0])
    header["config"]["objectives"] = ["max:val/accuracy", "min:val/loss"]
    events = [json.loads(line) for line in lines[1:]]
    for event in events:
        if event["event"] == "told":  # the worst in accuracy has by far the best loss
            worst = event["number"] == state.ranking()[-1].number
            event["result"]["values"] = [event["result"]["values"][0], 0.0 if worst else -5.0]
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [header, *events]))
    ranked = [trial.number for trial in state.ranking()]
    assert [trial.number for trial in ranked_of(load_state(folder))[:3]] == [ranked[0], ranked[2], ranked[1]]
    assert len(front) == 1


def test_the_default_is_three_times_the_longest_rung(folder):
    class Enough(Exception):
        pass

    def progress(name, epoch, epochs, metrics):
        assert epochs == 3
        assert name.endswith("-e3")
        raise Enough

    with pytest.raises(Enough):
        retrain(folder, seeds=1, device="cpu", progress=progress)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_a_running_experiment_is_left_alone(folder):
    journal = Journal(folder)
    try:
        with pytest.raises(JournalError):
            retrain(folder, seeds=1, epochs=1, device="cpu")
    finally:
        journal.close()


@pytest.mark.parametrize("wrong", [{"top": 0}, {"seeds": 0}, {"epochs": -1}, {"seeds": True}])
def test_numbers_below_one_are_refused(folder, wrong):
    with raises(SearchError, "type" if wrong == {"seeds": True} else "range", f"retrain.{next(iter(wrong))}"):
        retrain(folder, **wrong)


def test_a_recipe_of_its_own_replaces_the_settings_of_the_search(retrained, tmp_path):
    folder = Path(shutil.copytree(retrained[0], tmp_path / "small"))
    (before,) = retrained[1]
    changes = {"learning_rate": 0.3, "cutout_pixels": 2, "batch_size": 64}  # the search decided the first, has the last
    (finalist,) = retrain(folder, seeds=1, epochs=2, device="cpu", recipe=changes)
    assert finalist.recipe == finalist.to_json()["recipe"] == {"cutout_pixels": 2, "learning_rate": 0.3}
    assert before.recipe == {}
    searched = load(folder / "finalists" / before.retrained.networks[0]).description.trained["recipe"]
    for part in (finalist.retrained, finalist.reference):
        trained = load(folder / "finalists" / part.networks[0]).description.trained["recipe"]
        assert trained == {**searched, **changes}
    assert finalist.retrained.networks[0] not in before.retrained.networks
    assert load(folder / "best").description.trained["finalist"] == finalist.retrained.networks[0]
    rows = {row["kind"]: row for row in networks_on_test(load_state(folder), folder / "finalists")}
    assert rows["trial"]["n"] == rows["reference"]["n"] == 1, "by the recipe that was tested last"
    assert rows["trial"]["value"] == finalist.retrained.test["test/accuracy"].mean
    names = {event.finalist for event in opened(folder)}
    (again,) = retrain(folder, seeds=1, epochs=2, device="cpu", recipe=changes)
    assert again == finalist
    assert {event.finalist for event in opened(folder)} == names, "it continues: nothing is measured again"


def test_a_recipe_that_the_network_cannot_take_trains_no_reference(folder, monkeypatch):
    def cannot(network, recipe, split):
        raise RecipeError([Problem("this network has no dropout", key="train.dropout", kind="unsupported")])

    monkeypatch.setattr(work, "check_fits", cannot)
    with raises(RecipeError, "unsupported", "train.dropout"):
        retrain(folder, seeds=1, epochs=1, device="cpu", recipe={"dropout": 0.2})
    assert not opened(folder) and not (folder / "finalists").exists()
    too_far = {"crop_pixels": 9}  # the images have 8 pixels
    monkeypatch.undo()
    with raises(RecipeError, "range", "train.crop_pixels"):
        retrain(folder, seeds=1, epochs=1, device="cpu", recipe=too_far)
    assert not (folder / "finalists").exists()


def test_whole_and_broken_numbers_of_a_recipe_are_the_same(folder):
    (one,) = retrain(folder, seeds=1, epochs=1, device="cpu", recipe={"cutmix": 1})
    (same,) = retrain(folder, seeds=1, epochs=1, device="cpu", recipe={"cutmix": 1.0})
    assert one.retrained.networks == same.retrained.networks


def test_a_recipe_that_changes_nothing_continues_the_retraining_without_one(retrained):
    folder, finalists, _ = retrained
    assert retrain(folder, seeds=2, epochs=2, device="cpu", recipe={"batch_size": 64}) == finalists


@pytest.mark.parametrize(
    ("wrong", "error", "kind", "key"),
    [
        ({"cutout": 2}, RecipeError, "unknown", "train.cutout"),
        ({"cutout_pixels": -2}, RecipeError, "range", "train.cutout_pixels"),
        ({"class_weights": "balanced", "sampling": "balanced"}, RecipeError, "conflict", "train.class_weights"),
        ({"train.cutout_pixels": 2}, ConfigError, "invalid", "recipe"),
        ({"cutout_pixels": [2]}, ConfigError, "type", "recipe.cutout_pixels"),
        ("sgd", ConfigError, "type", "recipe"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_any_training(folder, wrong, error, kind, key):
    with raises(error, kind, key):
        retrain(folder, seeds=1, epochs=1, device="cpu", recipe=wrong)
    assert not (folder / "finalists").exists()


def test_nothing_finished_is_said(folder):
    (folder / "journal.jsonl").write_text((folder / "journal.jsonl").read_text().splitlines()[0] + "\n")
    with raises(SearchError, "empty", None, folder):
        retrain(folder)


def test_no_experiment_is_said(tmp_path):
    with raises(JournalError, "unknown", "name", tmp_path / "nothing"):
        retrain(tmp_path / "nothing")
    with raises(ExportError, "missing", None, tmp_path / "nothing"):
        load(tmp_path / "nothing")


def test_a_space_without_builder_is_refused(folder, monkeypatch):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    header = json.loads(lines[0])
    header["config"]["data"] = None
    (folder / "journal.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    with raises(SearchError, "unsupported", None, folder):
        retrain(folder)


def test_the_reference_is_the_resnet_nearest_in_flops(retrained):
    folder, (finalist,), _ = retrained
    flops = finalist.retrained.costs["cost/flops"]
    name, network = resnet_of_flops(flops, shape=(1, 8, 8), classes=10)
    assert finalist.reference.name == name
    assert finalist.reference.costs["cost/flops"] == count_flops(network, (1, 8, 8))
    kept = load(folder / "finalists" / finalist.reference.networks[0])
    shapes = [tensor.shape for tensor in network.state_dict().values()]
    assert [tensor.shape for tensor in kept.body.state_dict().values()] == shapes


def test_the_code_of_the_documentation_runs(folder, tmp_path, monkeypatch, capsys):
    documentation = Path(__file__).parents[3] / "docs/howto/export.md"
    retraining, exporting, loading, _ = re.findall(r"```python\n(.*?)```", documentation.read_text(), re.DOTALL)
    (tmp_path / "runs").mkdir()
    folder.rename(tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    short = retraining.replace("epochs=30", "epochs=1")
    assert short != retraining
    for code in (short, exporting, loading):
        exec(compile(code, documentation.name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "`test/` was measured once" in card
    assert "trained on them too" in card
    assert lines[0].endswith("(n = 2)")


def test_public_names():
    assert nasforge.retrain is retrain
    assert nasforge.load is load


def test_the_answers_on_the_test_split_are_kept_and_are_those_of_the_figures(folder):
    (best,) = retrain(folder, top=1, seeds=1, epochs=1, device="cpu")
    data = load_data(DataConfig("digits"))
    for name in (*best.retrained.networks, *best.reference.networks):
        answers = read_answers(answers_file(folder, name), folder)
        assert answers.truth.tolist() == data.open_test().labels.tolist() and not answers.named
        assert (answers.chosen == answers.truth).mean() == load_state(folder).tests[name]["test/accuracy"]
    assert best_answers_file(folder) == answers_file(folder, best.retrained.networks[0])
    network = load(folder / "best")
    for one in surest_mistakes(answers := read_answers(best_answers_file(folder), folder), class_names(folder)):
        place = int(one.image.removeprefix("test image "))
        image = data.open_test().take(slice(place, place + 1)).float() / 255
        assert network.class_names[int(network(image).argmax())] == one.answer != one.truth
        assert network.class_names[answers.truth[place]] == one.truth
