import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from expecting import raises
from toy_photos import folder_of_photos, odd_files, photo

from nasforge.api.inspect import inspect
from nasforge.api.predict import predict, predictor
from nasforge.api.prepare import prepare
from nasforge.cli import app as cli
from nasforge.core.errors import DataError, ExportError
from nasforge.core.layout import DESCRIPTION
from nasforge.data import image_folder, load_data
from nasforge.data.image_file import read_image
from nasforge.data.input_rule import CENTRE_CROP, InputRule, prepared
from nasforge.exporters import onnx, standalone
from nasforge.exporters.best import describe
from nasforge.exporters.network_folder import Calibration, Network, description_of, load, save_network
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Experiments with a network on prepared photos: as it is, and calibrated."""
    place = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASFORGE_CACHE", str(place / "cache"))
        folder_of_photos(place / "photos")
        data = load_data(DataConfig(str(prepare(inspect(place / "photos"), place / "prepared", 16))))
    space = load_space("tiny")
    architecture = space.default_point()
    torch.manual_seed(0)
    network = build(space, architecture, in_channels=3, classes=2).eval()
    about = describe(space, architecture, data, {}, {"epochs": 1})
    save_network(place / "runs" / "plain" / "best", network, about)
    save_network(place / "runs" / "sure" / "best", network, replace(about, calibration=Calibration(4.0, 0.99)))
    return place / "runs"


def test_the_folder_says_how_images_are_read(runs):
    content = json.loads((runs / "plain" / "best" / DESCRIPTION).read_text())
    assert content["input"]["resize"] == CENTRE_CROP and "calibration" not in content
    assert description_of(runs / "plain" / "best").rule == prepared(3)
    about = description_of(runs / "sure" / "best")
    assert about.calibration == Calibration(4.0, 0.99)
    old = {key: value for key, value in about.to_json().items() if key not in ("input", "calibration")}
    assert type(about).from_json(old).rule == InputRule(3)
    with pytest.raises(ValueError, match="does not fit"):
        type(about).from_json({**old, "input": prepared(1).to_json()})
    for names in ("ab", ["a", "a"], [1, 2], {}):
        with pytest.raises(ValueError, match="class_names"):
            type(about).from_json({**old, "class_names": names})
    with pytest.raises(ValueError, match="temperature"):
        Calibration(0.0, 0.5)


def test_answers_are_those_of_the_network_on_the_pixels_that_it_was_trained_on(runs):
    photos = runs.parent / "photos"
    network = load(runs / "plain" / "best")
    with np.load(runs.parent / "prepared" / "images.npz") as file:
        images = {str(name): image for name, image in zip(file["files"], file["x_train"], strict=False)}
    answers = predict("plain", [photos / name for name in images], runs_dir=runs)
    for answer, (name, image) in zip(answers, images.items(), strict=True):
        assert answer.file.endswith(name) and answer.error is None and answer.unsure is None
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.moveaxis(image, -1, 0))[None].float() / 255)
        assert list(answer.probabilities.values()) == pytest.approx(logits.softmax(1)[0].tolist(), abs=1e-5)
        assert answer.label == network.class_names[int(logits.argmax())]


def test_calibration_divides_logits_and_says_unsure(runs):
    photos = [runs.parent / "photos" / "cat" / "00.png"]
    (plain,), (sure,) = predict("plain", photos, runs_dir=runs), predict(runs / "sure", photos)
    odds = [np.log(a.probabilities["cat"] / a.probabilities["dog"]) for a in (plain, sure)]
    assert odds[0] / 4 == pytest.approx(odds[1], abs=1e-4)
    assert sure.unsure is True and sure.to_json()["unsure"] is True


@pytest.mark.parametrize(
    "rule", [prepared(3), prepared(1), InputRule(3), InputRule(1), InputRule(3, CENTRE_CROP, background=(9, 90, 200))]
)
def test_training_predict_and_the_exported_script_read_the_same_bits(tmp_path, rule):
    for file in odd_files(tmp_path / "odd"):
        ours = read_image(file, rule, (16, 16)).pixels
        assert np.array_equal(ours, standalone.read_image(file, rule.to_json(), 16, 16)), file


def test_an_onnx_file_answers_as_its_network_does(runs, tmp_path):
    network = load(runs / "sure" / "best")
    (tmp_path / "exported").mkdir()
    onnx.Onnx().write(network, torch.rand(2, 3, 16, 16), tmp_path / "exported" / "model")
    files = odd_files(tmp_path / "odd")
    ours, theirs = predict(runs / "sure", files), predict(tmp_path / "exported", files)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.file, a.label, a.unsure) == (b.file, b.label, b.unsure)
        assert list(a.probabilities.values()) == pytest.approx(list(b.probabilities.values()), abs=1e-5)
    session = onnx.session_of(tmp_path / "exported" / "model.onnx")
    for a, b in zip(ours, standalone.predict(session, files), strict=True):
        assert (a.file, a.label, a.unsure) == (b["file"], b["class"], b["unsure"])
        assert a.probability == pytest.approx(b["probability"], abs=1e-5)


def test_the_script_and_predict_find_the_same_files_in_a_folder(runs, tmp_path):
    (tmp_path / "a" / "below").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    for place in ("a/0.png", "a/below/1.PNG", "a/._0.png", "__MACOSX/0.png"):
        photo(3).save(tmp_path / place)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "a" / "below")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    ours = [answer.file for answer in predict(runs / "plain", [tmp_path])]
    assert [str(file) for file in standalone.files_of([str(tmp_path)])] == ours
    assert standalone.SYSTEM_FOLDERS == image_folder._SYSTEM_FOLDERS
    assert [file.removeprefix(f"{tmp_path}/") for file in ours] == ["a/0.png", "a/below/1.PNG", "a/linked/1.PNG"]


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("class_names", names, "unreadable") for names in ('"ab"', "[1, 2]", '["a", "a"]', "5")]
    + [
        ("class_names", '["a"]', "mismatch"),
        ("input", json.dumps(prepared(1).to_json()), "mismatch"),
        ("images", "pixels", "mismatch"),
    ],
)
def test_a_strange_onnx_file_is_one_sentence(runs, tmp_path, key, value, kind):
    import onnx as format_of

    place = onnx.Onnx().write(load(runs / "plain" / "best"), torch.rand(2, 3, 16, 16), tmp_path / "model")
    model = format_of.load(place)
    for entry in model.metadata_props:
        entry.value = value if entry.key == key else entry.value
    for node in model.graph.node:
        node.input[:] = [value if name == key else name for name in node.input]
    model.graph.input[0].name = value if key == "images" else "images"
    format_of.save(model, place)
    with raises(ExportError, kind, None, place.name):
        predictor(place)


def test_an_onnx_file_for_four_channels_is_refused(runs, tmp_path):
    network = load(runs / "plain" / "best")
    about = replace(network.description, shape=(4, 16, 16), input=None, mean=(0.5,) * 4, std=(0.25,) * 4)
    body = build(about.space, network.architecture, in_channels=4, classes=2).eval()
    onnx.Onnx().write(Network(about, body).eval(), torch.rand(2, 4, 16, 16), tmp_path / "model")
    with raises(ExportError, "unsupported", None, "4 channels"):
        predictor(tmp_path)


def test_a_path_that_the_script_cannot_look_through_is_one_sentence(tmp_path, monkeypatch, capsys):
    forbidden = tmp_path / "photos" / "private"
    forbidden.mkdir(parents=True)
    read = Path.iterdir

    def iterdir(folder):
        if folder == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return read(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(standalone.Image, "MAX_IMAGE_PIXELS", None)  # the script changes it
    monkeypatch.setattr(sys, "argv", ["predict.py", str(tmp_path / "photos")])
    assert standalone.main() == 2
    assert capsys.readouterr().err.startswith(f"{forbidden} cannot be read (Permission denied);")
    monkeypatch.setattr(sys, "argv", ["predict.py", str(forbidden), ""])
    with pytest.raises(SystemExit, match="2"):
        standalone.main()
    assert "an image's path is empty" in capsys.readouterr().err


def test_an_empty_path_and_a_missing_file_are_one_sentence(runs, tmp_path, capfd):
    assert cli.main(["predict", "plain", "", "--runs-dir", str(runs)]) == 2
    assert "an image's path is empty" in capfd.readouterr().err
    network = load(runs / "sure" / "best")
    onnx.Onnx().write(network, torch.rand(2, 3, 16, 16), tmp_path / "model")
    (answer,) = standalone.predict(onnx.session_of(tmp_path / "model.onnx"), [tmp_path / "none.jpg"])
    assert answer["error"] == "No such file or directory"
    os.mkfifo(tmp_path / "pipe.jpg")
    names = [str(tmp_path / "pipe.jpg"), "x" * 300, str(runs.parent / "photos" / "cat" / "00.png")]
    pipe, long, right = standalone.predict(onnx.session_of(tmp_path / "model.onnx"), standalone.files_of(names))
    assert pipe["error"] == "it is a pipe, not a file" and "too long" in long["error"] and "class" in right


def test_files_that_cannot_be_read_and_folders(runs, tmp_path, capfd):
    photo(3).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("text")
    words = ["predict", "plain", str(tmp_path), str(tmp_path / "none.jpg"), "--runs-dir", str(runs)]
    assert cli.main(words) == 1
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == 3 and "damaged" in printed[0] and "good.png: " in printed[1] and "No such file" in printed[2]
    assert cli.main([*words, "--json"]) == 1
    answers = json.loads(capfd.readouterr().out)
    assert [set(answer) for answer in answers] == [
        {"file", "error"},
        {"file", "class", "probability", "probabilities"},
        {"file", "error"},
    ]
    assert cli.main([*words, "--csv"]) == 1
    head, *rows = capfd.readouterr().out.splitlines()
    assert head == "file,class,probability,unsure,error,probability of cat,probability of dog" and len(rows) == 3
    assert cli.main([*words, "--csv", "--json"]) == 2
    capfd.readouterr()
    bad, none = str(tmp_path / "bad.png"), str(tmp_path / "none.jpg")
    too_long, good = "x" * 300 + ".png", str(tmp_path / "good.png")
    assert cli.main(["predict", "plain", too_long, good, "--runs-dir", str(runs)]) == 1
    printed = capfd.readouterr().out.splitlines()
    assert printed[0] == f"{too_long}: cannot be read (File name too long)" and printed[1].startswith(f"{good}: ")
    assert cli.main(["predict", "plain", bad, "--json", "--runs-dir", str(runs)]) == 1
    printed = json.loads(capfd.readouterr().out)
    assert printed["error"].startswith(f"{bad}: ") and (printed["kind"], printed["key"]) == ("unreadable", "images")
    assert cli.main(["predict", "plain", bad, none, "--json", "--runs-dir", str(runs)]) == 1
    printed = json.loads(capfd.readouterr().out)
    assert set(printed) == {"error", "kind", "key", "problems"} and bad in printed["error"]
    assert [problem["error"].partition(": ")[0] for problem in printed["problems"]] == [bad, none]
    assert cli.main(["predict", "plain", str(tmp_path / "good.png"), "--runs-dir", str(runs)]) == 0


def test_odd_names_of_files_stay_on_one_line_and_are_valid_json(runs, tmp_path, capfd):
    names = ["a\nb.png", os.fsdecode(b"\xff.png"), "100%s {x}.png"]
    for name in names:
        photo(3).save(tmp_path / name)
    words = ["predict", "plain", str(tmp_path), "--runs-dir", str(runs)]
    assert cli.main(words) == 0
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == 3 and all(": cat " in line or ": dog " in line for line in printed)
    assert cli.main([*words, "--json"]) == 0
    answers = json.loads(capfd.readouterr().out)
    assert {answer["file"] for answer in answers} == {str(tmp_path / name) for name in names}


def test_models_that_are_not_there(runs, tmp_path):
    with raises(ExportError, "unknown", "model", "did you mean 'plain'"):
        predictor("plan", runs_dir=runs)
    (tmp_path / "runs" / "mlartifacts").mkdir(parents=True)
    with raises(ExportError, "unknown", "model", "Known: (none)"):
        predictor("cells", runs_dir=tmp_path / "runs")
    with raises(ExportError, "missing", None, tmp_path):
        predictor(tmp_path)
    with raises(DataError, "empty", None, tmp_path):
        predict("plain", [tmp_path], runs_dir=runs)
