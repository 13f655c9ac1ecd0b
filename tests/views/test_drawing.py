"""Networks part by part and drawn: shapes and costs against the built network, what is shown, files."""

import json

import pytest
import torch
from expecting import raises

import nasforge
from nasforge.cli import app as cli
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.experiment.state import load_state
from nasforge.models.costs import count_flops, count_params
from nasforge.models.network import build
from nasforge.settings.space_file import load_space
from nasforge.views.drawing import network_figure
from nasforge.views.parts import Part, parts_of


@pytest.mark.parametrize("name", ["blocks", "mobile", "nasbench201", "darts"])
def test_parts_add_up_to_the_network(name):
    space = load_space(name)
    point = space.default_point()
    parts = parts_of(space, point, (3, 32, 32), 10)
    with torch.device("meta"):
        network = build(space, point, in_channels=3, classes=10)
    assert sum(part.flops for part in parts) == count_flops(network, (3, 32, 32))
    assert sum(part.params for part in parts) == count_params(network)
    assert parts[-1].output == (10,) and len(parts[0].output) == 3


def test_a_network_that_cannot_be_built_is_not_drawn():
    space = load_space("tiny")
    with raises(BuildError, "unknown", "model.activation"):
        parts_of(space, Architecture({"model.depth": 3}), (3, 8, 8), 10)


STEM = Part("stem", "ConvNorm", 3, (16, 8, 8), 100, 600)
PARTS = [
    STEM,
    Part("a", "InvertedBlock", 5, (8, 8, 8), 10, 300),
    Part("b", "IdentityBlock", 0, (8, 8, 8), 0, 0),
    Part("c", "MaxPool2d", 0, (8, 4, 4), 0, 0),
    Part("d", "ReLU", 0, (8, 4, 4), 0, 0),
    Part("e", "Linear", 0, (10,), 50, 100),
]


def test_the_drawing_shows_what_computes_and_what_resizes():
    figure = network_figure({"one": PARTS, "two": [STEM]})
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts[0] == "<b>one</b><br>160 params, 1,000 FLOPs" and texts[5] == "<b>two</b><br>100 params, 600 FLOPs"
    assert [text.split("  ")[:2] for text in texts[1:5]] == [
        ["conv norm 3×3", "16×8×8"], ["inverted 5×5", "8×8×8"], ["max pool2d", "8×4×4"], ["linear", "10"],
    ]  # fmt: skip
    assert ["60%" in texts[1], "30%" in texts[2], "0%" in texts[3], "10%" in texts[4]] == [True] * 4
    rows = [bar.y[0] for bar in figure.data]
    assert rows[1] - rows[0] == 1 < rows[2] - rows[1]  # a gap where the image gets smaller
    assert figure.data[0].x[0] > figure.data[1].x[0] and figure.data[0].marker.color != figure.data[1].marker.color


def test_a_network_without_parts_of_its_own_is_an_empty_column():
    figure = network_figure({"whole": [], "one": PARTS})
    assert figure.layout.annotations[0].text == "<b>whole</b><br>0 params, 0 FLOPs" and len(figure.data) == 4


def test_a_point_is_drawn_by_the_command(tmp_path, capfd):
    words = ["describe", "tiny", "--shape", "1x8x8", "--point", "default"]
    assert cli.main([*words, "--draw", str(tmp_path / "a.html"), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    page = (tmp_path / "a.html").read_text()
    assert all(f"{part['params']:,} params" in page for part in content["network"] if part["flops"])
    assert cli.main([*words, "--draw", str(tmp_path / "a.svg")]) == 2
    assert "must end with .html or .png" in capfd.readouterr().err
    assert cli.main(["describe", "tiny", "--draw", str(tmp_path / "b.html")]) == 2
    assert "Choose it with --point" in capfd.readouterr().err
    assert cli.main([*words, "--draw", str(tmp_path / "none" / "a.html")]) == 2
    assert "cannot be written" in capfd.readouterr().err


def test_a_trial_is_drawn_by_the_command(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["search", "tiny", "--data", "digits", "--images", "200", "--epochs", "1", "--max-trials", "1"]
    assert cli.main([*words, "--runner", "local", "--tracking-uri", "none", "--name", "first"]) == 0
    assert cli.main(["show", "first", "--trial", "0", "--draw", "net.html"]) == 0
    assert "first, trial 0" in (tmp_path / "net.html").read_text()
    assert cli.main(["show", "first", "--draw", "net.html"]) == 2
    assert "--draw draws the network of one trial. Choose it with --trial N" in capfd.readouterr().err
    assert cli.main(["show", "first", "--trial", "0", "--rerun", "--draw", "net.html"]) == 2
    assert "Use one of them" in capfd.readouterr().err
    assert cli.main(["show", "first", "--trial", "0", "--importance"]) == 2
    assert "Use one of them" in capfd.readouterr().err


def test_a_comparison_draws_the_best_of_each(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no picture
    settings = {"space": "tiny", "data": {"source": "digits", "images": 200}, "epochs": 1, "budget": {"trials": 2}}
    place = {"runs_dir": tmp_path, "tracking_uri": "none", "name": "camp"}
    comparison = nasforge.compare(strategies="evolution", seeds=2, **settings, **place)
    page = (tmp_path / "camp" / "comparison.html").read_text()
    for label in ("evolution", "random"):
        states = [load_state(tmp_path / "camp" / f"{label}-s{seed}") for seed in range(2)]
        best = max((state.best for state in states), key=lambda trial: trial.metrics["val/accuracy"])
        assert comparison.strategies[label]["best"] == {
            "experiment": next(state.header.experiment for state in states if state.best is best),
            "signal": best.metrics["val/accuracy"],
            "architecture": best.architecture.to_json(),
        }
        assert label in page.partition("The best network of each strategy")[2]
    assert json.loads((tmp_path / "camp" / "comparison.json").read_text())["strategies"]["random"]["best"]["signal"]
