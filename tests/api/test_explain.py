import json
import shutil

import numpy as np
import pytest
import torch
from expecting import raises
from PIL import Image
from torch import nn
from toy_photos import folder_of_photos

import nasforge
from nasforge.api.explain import explain, grad_cam
from nasforge.api.inspect import inspect
from nasforge.api.predict import predict
from nasforge.api.prepare import prepare
from nasforge.cli import app as cli
from nasforge.core.errors import ConfigError, DataError, ExportError
from nasforge.data import load_data
from nasforge.exporters.best import describe
from nasforge.exporters.network_folder import load, save_network
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.views.explained import DESCRIPTION, stored


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search of two trials on photos, whose best network is kept."""
    place = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASFORGE_CACHE", str(place / "cache"))
        folder_of_photos(place / "photos")
        prepared = prepare(inspect(place / "photos"), place / "prepared", 16)
        settings = {"space": "tiny", "strategy": "random", "runner": "local", "tracking_uri": "none", "epochs": 1}
        nasforge.search(
            **settings, data=str(prepared), budget={"trials": 2}, runs_dir=place / "runs", name="s", start_from="none"
        )
        data = load_data(DataConfig(str(prepared)))
        space = load_space("tiny")
        architecture = space.default_point()
        torch.manual_seed(0)
        network = build(space, architecture, in_channels=3, classes=2).eval()
        save_network(place / "runs" / "s" / "best", network, describe(space, architecture, data, {}, {"epochs": 1}))
        yield place / "runs"


def test_pictures_of_every_resolution_are_stored(runs):
    photo = runs.parent / "photos" / "cat" / "01.png"
    (explanation,) = explain("s", [photo], runs_dir=runs)
    (answer,) = predict("s", [photo], runs_dir=runs)
    assert (explanation.answer, explanation.probability) == (answer.label, answer.probability)
    sizes = [(stage.height, stage.width) for stage in explanation.stages]
    assert len(set(sizes)) == len(sizes) > 1 and sizes == sorted(sizes, reverse=True)
    folder = runs / "s" / "explained"
    files = {file.name for file in next(folder.glob("01-*")).iterdir()}
    assert files == {DESCRIPTION, "input.png", "heat.png", *(stage.picture for stage in explanation.stages)}
    for file in folder.glob("01-*/*.png"):
        with Image.open(file) as image:
            assert min(image.size) >= 56
    assert explain("s", [photo], runs_dir=runs) == [explanation]
    (kept,) = stored(runs / "s")
    assert kept["image"] == str(photo) and (folder / kept["folder"] / kept["heat"]).is_file()
    (folder / "broken").mkdir()
    (folder / "broken" / DESCRIPTION).write_text("{")
    assert len(list(stored(runs / "s"))) == 1
    shutil.rmtree(folder)


def test_without_images_it_takes_the_surest_answers_on_validation_images(runs):
    explanations = explain("s", runs_dir=runs)
    mistakes = [each.truth != each.answer for each in explanations]
    assert mistakes == sorted(mistakes, reverse=True) and 1 <= len(explanations) <= 8
    for group in (True, False):
        certainty = [each.probability for each, wrong in zip(explanations, mistakes, strict=True) if wrong is group]
        assert certainty == sorted(certainty, reverse=True)


def test_the_regions_differ_from_class_to_class_and_the_network_stays_as_it_is(runs, tmp_path):
    photo = runs.parent / "photos" / "cat" / "01.png"
    before = {key: value.clone() for key, value in load(runs / "s" / "best").state_dict().items()}
    cat, dog = (
        explain("s", [photo], class_name=name, out=tmp_path / name, runs_dir=runs)[0] for name in ("cat", "dog")
    )
    assert (cat.explained, dog.explained) == ("cat", "dog") and cat.answer == dog.answer
    heats = [np.asarray(Image.open(f"{each.folder}/{each.heat}")) for each in (cat, dog)]
    assert not np.array_equal(*heats)
    assert all(torch.equal(value, before[key]) for key, value in load(runs / "s" / "best").state_dict().items())


def test_grad_cam_is_the_sum_of_the_maps_weighted_by_their_mean_gradients():
    """With a linear head behind mean pooling it is the class's row of the head times the maps."""
    torch.manual_seed(0)
    head = nn.Linear(5, 3)
    maps = torch.rand(1, 5, 4, 4, requires_grad=True)
    head(maps.mean((2, 3)))[0, 1].backward()
    expected = torch.relu((head.weight[1, :, None, None] * maps[0]).sum(0)).detach()
    assert np.allclose(grad_cam(maps.detach()[0], maps.grad[0]), expected / expected.max(), atol=1e-6)
    assert not grad_cam(-torch.ones(2, 3, 3), torch.ones(2, 3, 3)).any()


def test_what_cannot_be_explained_is_refused(runs, tmp_path):
    photo = runs.parent / "photos" / "cat" / "01.png"
    with raises(ConfigError, "unknown", "class", "wolf", "cat"):
        explain("s", [photo], class_name="wolf", runs_dir=runs)
    with raises(ConfigError, "range", None, 65):
        explain("s", [photo] * 65, runs_dir=runs)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError):
        explain("s", [tmp_path / "text.png"], runs_dir=runs)
    shutil.copytree(runs / "s" / "best", tmp_path / "alone" / "best")
    with raises(DataError, "missing"):
        explain(tmp_path / "alone" / "best", runs_dir=runs)
    (tmp_path / "model.onnx").write_bytes(b"")
    with raises(ExportError, "unsupported", None, "model.onnx"):
        explain(tmp_path / "model.onnx", [photo], runs_dir=runs)


def test_one_image_is_named_as_for_predict(runs, tmp_path, monkeypatch):
    photo = runs.parent / "photos" / "cat" / "01.png"
    for named in (photo, str(photo)):
        (explanation,) = explain("s", named, runs_dir=runs, out=tmp_path)
        assert explanation.image == str(photo)
    monkeypatch.chdir(photo.parent)
    for empty in ("", [photo, " "]):
        with raises(DataError, "empty"):
            explain("s", empty, runs_dir=runs, out=tmp_path)


def test_a_place_that_takes_no_pictures_is_one_sentence(runs, tmp_path):
    photo = runs.parent / "photos" / "cat" / "01.png"
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with raises(ExportError, "failed", None, tmp_path / "file"):
            explain("s", [photo], runs_dir=runs, out=out)


def test_the_command_prints_a_line_per_image(runs, capfd, tmp_path):
    photo = runs.parent / "photos" / "dog" / "02.png"
    words = ["explain", "s", str(photo), "--runs-dir", str(runs), "--out", str(tmp_path / "p")]
    assert cli.main(words) == 0
    assert str(photo) in capfd.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    (content,) = json.loads(capfd.readouterr().out)
    assert content["image"] == str(photo) and (tmp_path / "p").is_dir()
    assert cli.main(["explain", "nothing", "--runs-dir", str(runs)]) == 2
    assert "there is no network 'nothing'" in capfd.readouterr().err


def test_the_command_skips_files_that_cannot_be_read(runs, capfd, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(runs.parent / "photos" / "dog" / "02.png", new / "dog.png")
    (new / "broken.png").write_text("no image")
    words = ["explain", "s", str(new), "--runs-dir", str(runs), "--out", str(tmp_path / "p")]
    assert cli.main(words) == 1
    assert f"{new / 'broken.png'}: " in capfd.readouterr().out
    assert cli.main([*words, "--json"]) == 1
    explained, unreadable = json.loads(capfd.readouterr().out)
    assert explained["image"] == str(new / "dog.png") and explained["answer"] in ("cat", "dog")
    assert unreadable["image"] == str(new / "broken.png") and unreadable["error"]
    assert cli.main(["explain", "s", str(new / "broken.png"), "--runs-dir", str(runs), "--json"]) == 1
    printed = json.loads(capfd.readouterr().out)
    assert printed["error"].startswith(f"{new / 'broken.png'}: ")
    assert (printed["kind"], printed["key"]) == ("unreadable", "images")
