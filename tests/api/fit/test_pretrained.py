"""Pretrained networks in a fit: found, checked, probed, fine-tuned, chosen or not, and continued after a kill."""

import json
import os
import shutil
import urllib.error
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from expecting import raises
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import nasforge
from nasforge.api.export import export
from nasforge.api.fit import Fitted
from nasforge.api.fit.pretrained import phases, probe, tune, weights
from nasforge.api.fit.schedule import Plan
from nasforge.api.fit.ship import ask, calibration_of
from nasforge.cli.app import main
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Constraint
from nasforge.core.layout import FIT
from nasforge.data import load_data
from nasforge.exporters.network_folder import Calibration, load, save_network
from nasforge.settings.experiment import DataConfig, resolve
from nasforge.training.failures import TrainingFailed
from nasforge.training.meter import trainings_end_by

NAME = "test_resnet"
ROW = f"{NAME} (pretrained)"
SECONDS = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    digits = load_digits()
    rows = np.flatnonzero(digits.target < 3)[:90]
    images = (digits.images[rows] * 15).astype(np.uint8)
    np.savez(folder / "few.npz", x_train=images, y_train=digits.target[rows], class_names=["zero", "one", "two"])
    torch.manual_seed(0)
    state = timm.create_model(NAME).state_dict()
    torch.save(state, folder / f"{NAME}.pth")
    save_file(state, folder / f"{NAME}.safetensors")
    return folder


@pytest.fixture(scope="module", autouse=True)
def short():
    """Searches of two candidates that learn next to nothing, and no ONNX file but where a test wants one."""
    with pytest.MonkeyPatch.context() as patch:
        at = "nasforge.api.fit"
        patch.setattr(f"{at}.work.fastest_threads", lambda *arguments: (1, 0.01))
        patch.setattr(f"{at}.work.plan_of", lambda *arguments: Plan(2, 1, 2, 0.1))
        patch.setattr(f"{at}.search.resolve", lambda content: resolve({**content, "budget": {"trials": 2}}))
        patch.setattr(f"{at}.last.last_epochs", lambda *arguments: 1)
        patch.setattr(f"{at}.baselines.baseline_seconds", lambda seconds: 0.0)
        patch.setattr(f"{at}.pretrained.tune._MOST_EPOCHS", 3)
        patch.setattr(f"{at}.run.ship", lambda work: export(work.folder, ["safetensors"], work.folder / "exported"))
        yield


def settings(place, **more):
    return {"time": SECONDS, "name": "few", "runs_dir": place / "runs", "tracking_uri": "none", **more}


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def fitted(place, messages):
    limits = {"constraints": ["flops<=20M"]}
    return nasforge.fit(
        place / "few.npz", **settings(place, **limits, weights=place / f"{NAME}.pth"), say=messages.append
    )


def again(place, folder, **more):
    return nasforge.fit(
        place / "few.npz",
        **settings(folder, **{"constraints": ["flops<=20M"], "weights": place / f"{NAME}.pth", **more}),
    )


def entries(folder, kind):
    lines = map(json.loads, (Path(folder) / FIT).read_text().splitlines())
    return [entry for entry in lines if entry["kind"] == kind]


def cut(folder, kind):
    """Cut the log off after the first line of a kind, or the decision of this name."""
    lines = (folder / FIT).read_text().splitlines(keepends=True)
    about = list(map(json.loads, lines))
    last = next(i for i, entry in enumerate(about) if kind in (entry["kind"], entry.get("name")))
    if "searched" not in {entry["kind"] for entry in about[: last + 1]}:
        shutil.rmtree(folder / "search")
    (folder / FIT).write_text("".join(lines[: last + 1]))


def test_it_wins_where_it_is_better(fitted, messages):
    winner = fitted.winner
    assert winner.name == ROW and winner.kind == "pretrained" and winner.trial is None
    assert winner.flops <= 20e6 and winner.params == 372691
    assert set(winner.test) == {"accuracy", "balanced_accuracy", "f1_macro"}
    assert any(line.startswith(f"pretrained {NAME}: ") for line in messages)


def test_at_the_largest_resolution_that_meets_the_constraints(fitted):
    (probed,) = entries(fitted.folder, "probed")
    assert probed["resolution"] == 64  # 160 and 128 have more than 20 M multiply-adds


def test_it_is_fine_tuned_where_that_helps_on_the_first_split(fitted):
    (tuning,) = entries(fitted.folder, "tuning")
    trained = next(entry for entry in entries(fitted.folder, "trained") if entry["network"] == NAME)
    helped = tuning["after"] is not None and tuning["after"] > tuning["before"]
    assert trained["folder"] == f"finalists/{NAME}-" + ("tuned-e3" if helped else "linear")
    (chosen,) = entries(fitted.folder, "chosen")
    calibration = load(fitted.folder / "best").description.calibration
    measured = tuning["calibration"] if helped else {key: chosen[key] for key in ("temperature", "unsure_below")}
    assert asdict(calibration) == measured


def test_the_winner_is_a_network_folder_that_needs_no_other_file(fitted, place, capfd):
    network = load(fitted.folder / "best")
    about = network.description
    assert "weights" not in about.space.arguments and about.space.arguments["resolution"] == 64
    assert about.trained["backbone"]["name"] == NAME and about.trained["parts"]
    assert about.mean == pytest.approx((0.5,)) and about.shape == (1, 8, 8)
    picture = place / "zero.png"
    Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save(picture)
    (answer,) = fitted.predict_proba([picture])
    assert sum(answer.values()) == pytest.approx(1)
    assert main(["predict", str(fitted.folder), str(picture), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["class"] in about.class_names


@pytest.mark.slow  # the first export of a process imports for seconds
def test_it_is_exported_to_onnx(fitted, tmp_path):
    shipped = export(fitted.folder, ["onnx"], tmp_path)
    assert shipped.files["onnx"].is_file()


_SLOWER = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("probed", "chosen", "last_training", "trained")]


@pytest.mark.parametrize("kind", ["pretrained", "searched", "tuning", *_SLOWER])
def test_a_fit_that_was_killed_goes_on(fitted, place, tmp_path, kind):
    copy = tmp_path / "runs" / "few"
    shutil.copytree(fitted.folder, copy)
    cut(copy, kind)
    other = again(place, tmp_path)
    assert other.content["resumed"] and other.winner.kind == "pretrained"
    assert other.winner.val == pytest.approx(fitted.winner.val, abs=0.05)


def test_other_weights_are_refused(fitted, place, tmp_path):
    shutil.copytree(fitted.folder, tmp_path / "runs" / "few")
    with raises(ConfigError, "changed", "name", "weights"):
        again(place, tmp_path, weights=place / f"{NAME}.safetensors")
    with raises(ConfigError, "changed", "name", "backbone"):
        again(place, tmp_path, backbone=NAME)


def test_weights_that_have_changed_are_noticed(fitted, place, tmp_path):
    shutil.copytree(fitted.folder, tmp_path / "runs" / "few")
    file = place / f"{NAME}.pth"
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        with raises(ConfigError, "changed", "name", "pretrained weights"):
            again(place, tmp_path)
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_one_that_is_worse_is_a_row_and_does_not_win(fitted, place, tmp_path):
    copy = tmp_path / "runs" / "few"
    shutil.copytree(fitted.folder, copy)
    cut(copy, "searched")
    kept = copy / "pretrained" / f"{NAME}.npz"
    with np.load(kept) as file:
        np.savez(kept, **{**file, "probabilities": np.full_like(file["probabilities"], 1 / 3)})
    other = again(place, tmp_path)
    row = next(row for row in other.leaderboard if row.name == ROW)
    assert other.winner.kind != "pretrained" and row.test and row.val["accuracy"] < 0.5
    assert [entry["kind"] for entry in entries(copy, "tuning")] == []


def test_a_damaged_file_in_a_cache_is_left_out(fitted, place, tmp_path):
    copy = tmp_path / "runs" / "few"
    shutil.copytree(fitted.folder, copy)
    cut(copy, "searched")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    lines = list(map(json.loads, (copy / FIT).read_text().splitlines()))
    for line in lines:
        if line.get("name") == "pretrained" and line["kind"] == "decision":
            line["value"] = {NAME: str(tmp_path / "damaged.safetensors")}
    kept = [line for line in lines if line["kind"] != "probed"]
    (copy / FIT).write_text("".join(json.dumps(line) + "\n" for line in kept))
    other = again(place, tmp_path)
    assert other.winner.kind != "pretrained" and "left out" in entries(copy, "probed")[0]["said"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "no memory left on cpu"),
        (MemoryError(), "no memory left on cpu"),
        (RuntimeError("sizes of tensors\nmust match"), "sizes of tensors must match"),
    ],
)
def test_a_network_that_cannot_be_probed_is_left_out(monkeypatch, error, reason):
    def failing(*arguments, **settings):
        raise error

    def write(kind, **content):
        journal.append(content)
        return content

    monkeypatch.setattr(probe, "probe", failing)
    journal, messages = [], []
    work = SimpleNamespace(
        log=SimpleNamespace(used=1.0, entries=[], last=lambda *_, **__: None, write=write),
        backbones={NAME: "weights.pth"},
        config_of_search=lambda: SimpleNamespace(constraints=()),
        plan=Plan(2, 1, 2, 0.1),
        request=SimpleNamespace(device="cpu", seed=0),
        training_decision={"threads": torch.get_num_threads()},
        **{"seconds": 60.0, "until": 30.0, "balanced": False, "say": messages.append},
        **dict.fromkeys(("data", "data_config", "splits")),
    )
    assert phases.measure_pretrained(work) == []
    assert journal == [{"backbone": NAME, "said": f"left out: {reason}"}]
    assert messages == [f"pretrained {NAME}: left out: {reason}"]


def test_memory_that_runs_out_while_a_network_is_asked_is_one_sentence(place, monkeypatch):
    def failing(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    data, row = probed(place, limits=["flops<=20M"])
    monkeypatch.setattr("nasforge.api.fit.ship.answers", failing)
    with raises(TrainingFailed, "failed", None, "cpu: CUDA out of memory"):
        ask(row.network, data.validation, torch.device("cpu"))


# --- probing ---------------------------------------------------------------------------------------------------------


def probed(place, name=NAME, limits=(), seconds=60.0, file=None):
    config = DataConfig(str(place / "few.npz"), validation=0.5)
    data = load_data(config)
    room = probe.Room(tuple(map(Constraint.parse, limits)), seconds, 60.0)
    return data, probe.probe(
        name,
        file or place / f"{NAME}.safetensors",
        data,
        config,
        [(data.train, data.validation)],
        room,
        device=torch.device("cpu"),
        balanced=False,
        seed=0,
    )


def test_the_network_answers_as_its_features_and_classifier_do(place):
    data, row = probed(place, limits=["flops<=20M"])
    assert row.probabilities.shape == (len(data.validation), 3)
    assert (row.probabilities.argmax(1) == data.validation.labels.numpy()).mean() > 0.6
    network = row.network
    row.first.put_into(network.body)
    answered = ask(network, data.validation, torch.device("cpu"))
    assert np.abs(answered - row.probabilities).max() < 1e-3


@pytest.mark.parametrize("limit", ["params<=100k", "flops<=1M", "latency_ms<=0.001"])
def test_constraints_leave_it_out(place, limit):
    with pytest.raises(probe.LeftOutError, match=rf"violates the constraint {limit.partition('<')[0]}") as caught:
        probed(place, limits=[limit])
    assert not caught.value.for_time


def test_too_little_time_leaves_it_out(place):
    for seconds, match in ((0.0, "the other networks need the time"), (1e-6, "at 64 pixels it needs .* --time")):
        with pytest.raises(probe.LeftOutError, match=match) as caught:
            probed(place, seconds=seconds)
        assert caught.value.for_time


def test_two_classes_have_two_logits():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    x = (rng.normal(size=(60, 5)) + y[:, None]).astype(np.float32)
    head = probe.learn(x, y, 3, 0.1, balanced=True, seed=0)  # the third class has no image
    logits = head(x)
    assert logits[:, 2].max() < 1e-6 and (logits.argmax(1) == y).mean() > 0.8


def tuned(folder, data, **more):
    recipe = tune.recipe_of_tuning(8, balanced=False)
    usual = {"head": None, "seed": 0, "device": torch.device("cpu"), "checkpoint": None}
    return tune.tuned(folder, data.train, recipe, 2, **{**usual, "tick": lambda: None, **more}), recipe


def test_fine_tuning_changes_weights_and_keeps_batch_statistics(place, tmp_path):
    data, row = probed(place, limits=["flops<=20M"])
    folder = save_network(tmp_path / "linear", row.network, row.network.description)
    network, recipe = tuned(folder, data)
    measured, chosen = Calibration(1.5, 0.25), {"temperature": 2.0, "unsure_below": 0.5}
    kept = load(tune.save_tuned(tmp_path / "tuned", network, recipe, 2, measured))
    assert calibration_of(tmp_path / "tuned", chosen) == measured
    assert calibration_of(folder, chosen) == Calibration(**chosen)
    before, after = row.network.body.state_dict(), kept.body.state_dict()
    assert set(before) == set(after) and kept.description.trained["epochs"] == 2
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert any("conv" in key for key in changed) and not any("running" in key for key in changed)
    images = torch.rand(2, *kept.shape)
    assert torch.allclose(kept(images), network(images), atol=1e-3)  # other memory formats, other sums


def test_fine_tuning_that_is_late_or_diverges_keeps_nothing(place, tmp_path):
    data, row = probed(place, limits=["flops<=20M"])
    folder = save_network(tmp_path / "linear", row.network, row.network.description)
    with trainings_end_by(lambda: 0.0):
        assert tuned(folder, data)[0] is None
    worst = probe.Head(np.full_like(row.first.weight, np.inf), row.first.bias)
    assert tuned(folder, data, head=worst)[0] is None


def test_epochs_of_fine_tuning_follow_the_time():
    per_epoch = 3.5 * 0.01 * (80 + 100)
    assert tune.epochs_of_tuning(2.9 * per_epoch, 0.01, 80, 100) == 0
    assert tune.epochs_of_tuning(1000 * per_epoch, 0.01, 80, 100) == 3  # the most, in these tests


@pytest.fixture
def tuned_by(place, tmp_path, monkeypatch):
    """Fine-tune with the outcomes of the two trainings given, and return the folder, the finalists and the messages."""
    data, row = probed(place, limits=["flops<=20M"])
    few = data.validation

    def tuned_by(*outcomes):
        def trained(*arguments, checkpoint, **settings):
            if checkpoint is not None:
                checkpoint.write_bytes(b"weights and optimizer")
            return row.network if next(ends) else None

        ends, messages = iter(outcomes), []
        log = SimpleNamespace(last=lambda *_, **__: None, write=lambda kind, **content: content)
        work = SimpleNamespace(
            **{"folder": tmp_path, "log": log, "say": messages.append, "metric": "accuracy", "balanced": False},
            **{"splits": [(data.train, few)], "places": np.sort(few.index), "sample": data.train, "data": data},
            **{"request": SimpleNamespace(seed=0, device="cpu"), "tick": lambda: None},
        )
        monkeypatch.setattr(tune, "tuned", trained)
        monkeypatch.setattr(phases, "ask", lambda *arguments: np.eye(3)[few.labels])
        for folder in ("pretrained", "finalists"):
            (tmp_path / folder).mkdir()
        unsure = np.roll(np.eye(3), 1, axis=1)[few.labels]
        np.savez(tmp_path / "pretrained" / f"{NAME}.npz", probabilities=unsure, **asdict(row.first))
        folder = phases._tuned(work, NAME, 3)
        return folder.name, [path.name for path in (tmp_path / "finalists").iterdir()], messages

    return tuned_by


def test_fine_tuning_leaves_no_checkpoint_behind(tuned_by):
    assert tuned_by(True, True) == (f"{NAME}-tuned-e3", [f"{NAME}-tuned-e3"], [])


def test_fine_tuning_on_all_images_that_is_late_leaves_no_checkpoint_behind(tuned_by):
    folder, finalists, messages = tuned_by(True, False)
    assert folder == f"{NAME}-linear" and finalists == [] and "was late, or diverged" in messages[0]


def test_fine_tuning_on_the_first_split_that_is_late_is_not_called_useless(tuned_by):
    folder, finalists, messages = tuned_by(False)
    assert folder == f"{NAME}-linear" and finalists == []
    assert "first split was late, or diverged" in messages[0] and "did not help" not in messages[0]


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("resnet18.a1_in1k.safetensors", "resnet18.a1_in1k"),
        ("resnet18_a1_0-d63eafa0.pth", "resnet18"),
        ("mobilenetv3_small_100/model.safetensors", "mobilenetv3_small_100"),
        ("hub/models--timm--resnet18.a1_in1k/snapshots/abc/model.safetensors", "resnet18.a1_in1k"),
        ("weights/mine.pth", None),
    ],
)
def test_the_path_tells_the_network(path, name):
    assert weights.name_of(Path(path)) == name


def test_wrong_weights_are_one_sentence_and_leave_nothing_behind(place, tmp_path):
    torch.save({"network": timm.create_model(NAME)}, tmp_path / f"{NAME}.pth")
    (tmp_path / "mine.pth").write_bytes(b"nothing")
    for options, expected in (
        ({"weights": tmp_path / "gone.pth"}, ("missing", "weights", "gone.pth")),
        ({"weights": place / "few.npz"}, ("missing", "weights", "few.npz", ".safetensors")),
        ({"weights": tmp_path / "mine.pth"}, ("missing", "backbone", "mine.pth")),
        ({"weights": tmp_path / "mine.pth", "backbone": NAME}, ("unreadable", "weights", "mine.pth")),
        ({"weights": tmp_path / f"{NAME}.pth"}, ("unreadable", "weights", f"{NAME}.pth")),
        (
            {"weights": place / f"{NAME}.pth", "backbone": "test_efficientnet"},
            ("mismatch", "weights", "test_efficientnet", "--backbone"),
        ),
        (
            {"weights": place / f"{NAME}.pth", "backbone": "resnet19"},
            ("unknown", "backbone", "resnet19", "did you mean"),
        ),
        ({"backbone": NAME}, ("missing", "weights", NAME)),
        ({"weights": place / f"{NAME}.pth", "pretrained": NAME}, ("conflict", "pretrained", NAME, f"{NAME}.pth")),
        ({"pretrained": "resnet18.mine"}, ("unknown", "pretrained", "resnet18.mine", "did you mean")),
    ):
        with raises(ConfigError, *expected):
            nasforge.fit(place / "few.npz", **settings(tmp_path, **options))
    assert not (tmp_path / "runs").exists()


def test_small_networks_in_the_caches_are_found(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert weights.small_ones_cached() == {}
    files, reason = weights.backbones_of(None, None, None, print)
    assert files == {} and "--pretrained" in reason
    repository = tmp_path / "hub" / "models--timm--mobilenetv3_small_100.lamb_in1k"
    snapshot = repository / "snapshots" / "abc"
    for folder in (snapshot, repository / "refs", tmp_path / "torch" / "hub" / "checkpoints"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(b"")
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    kept.write_bytes(b"")
    cached = {
        "mobilenetv3_small_100.lamb_in1k": snapshot / "model.safetensors",
        "resnet18.tv_in1k": kept,
    }
    assert weights.small_ones_cached() == cached
    assert weights.backbones_of(None, None, "none", print)[0] == {}
    assert weights.backbones_of(None, None, "resnet18.tv_in1k", print)[0] == {"resnet18.tv_in1k": str(kept)}


def test_a_download_says_size_and_licence_before(monkeypatch, tmp_path):
    messages = []

    class Answer(SimpleNamespace):
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

    def fetched(repository, file, cache_dir):
        assert messages and repository == "timm/resnet18.a1_in1k"
        return str(tmp_path / file)

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Answer(headers={"Content-Length": "46800000"}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    assert weights.download("resnet18.a1_in1k", messages.append) == tmp_path / "model.safetensors"
    assert "47 MB, licence apache-2.0" in messages[0]


def test_without_a_connection_the_download_is_one_sentence(place, tmp_path, monkeypatch):
    def refused(*arguments, **settings):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with raises(ConfigError, "failed", "pretrained", "no route", "--weights FILE --backbone resnet18"):
        nasforge.fit(place / "few.npz", **settings(tmp_path, pretrained="resnet18"))


def test_the_options_of_the_command_reach_it(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("nasforge.api.fit.fit", lambda source, **options: asked.update(options) or Fitted(tmp_path, {}))
    monkeypatch.setattr("nasforge.cli.fit._show", lambda content: None)
    main(["fit", "digits", "--weights", "a.pth", "--backbone", "resnet18", "--pretrained", "none"])
    assert (asked["weights"], asked["backbone"], asked["pretrained"]) == ("a.pth", "resnet18", "none")
