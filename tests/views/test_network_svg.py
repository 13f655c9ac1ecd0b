"""Networks part by part and drawn: shapes and costs against the built network, what is shown, files."""

import json
import re
import shutil

import pytest
import torch
from expecting import raises
from PIL import Image

import nasforge
from nasforge.cli import app as cli
from nasforge.cli.describe import draw_network
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ExportError
from nasforge.experiment.state import load_state
from nasforge.models.costs import count_flops, count_params
from nasforge.models.network import build
from nasforge.settings.space_file import load_space
from nasforge.views import families
from nasforge.views.network_svg import network_svg
from nasforge.views.page import MARGIN
from nasforge.views.parts import Part, parts_of
from nasforge.views.svg import STYLE, size_of, standalone


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


def bars(drawing):
    """Top, width and family of each bar, and the text on it."""
    tops = r'<rect x="[\d.]+" y="([\d.]+)" width="([\d.]+)" height="21" rx="3" class="layer f-(\w+)">'
    texts = re.findall(r'class="on">([^<]*)<', drawing)
    return [(float(y), float(width), family) for y, width, family in re.findall(tops, drawing)], texts


def test_the_drawing_shows_what_computes_and_what_resizes():
    drawing = network_svg({"one": PARTS, "two": [STEM]})
    assert re.findall(r'class="name">(.*?)<', drawing) == ["one", "two"]
    assert "160 parameters, 1k multiply-adds" in drawing and "100 parameters, 600 multiply-adds" in drawing
    layers, texts = bars(drawing)
    assert [text.split("  ") for text in texts] == [
        ["conv norm 3×3", "16×8×8", "60%"],
        ["inverted 5×5", "8×8×8", "30%"],
        ["max pool2d", "8×4×4", "0%"],
        ["linear", "10", "10%"],
        ["conv norm 3×3", "16×8×8", "100%"],
    ]
    tops, widths, families = zip(*layers, strict=True)
    assert tops[1] - tops[0] < tops[2] - tops[1], "a gap where the image gets smaller"
    assert widths[0] == widths[4] > widths[1] == widths[2], "as wide as the channels"
    assert families[0] == families[4] == "plain" != families[1] == "inverted"


def test_a_network_without_parts_of_its_own_is_an_empty_column():
    drawing = network_svg({"whole": [], "one": PARTS})
    assert "0 parameters, 0 multiply-adds" in drawing and len(bars(drawing)[0]) == 4


def test_every_family_has_a_colour_in_the_style_sheet():
    style = STYLE.read_text()
    named = {name for name, _ in families._WORDS} - {"none"} | {"other"}
    assert named == set(re.findall(r"\.f-(\w+) \{ --f: #[0-9a-f]{6}; \}", style))


def test_a_drawing_has_the_size_that_it_says():
    drawing = network_svg({"one": PARTS, "two": [STEM]})
    width, height = size_of(drawing)
    assert width == 660 and bars(drawing)[0][3][0] + 24 <= height
    alone = standalone(drawing)
    assert size_of(alone)[0] == width and size_of(alone)[1] > height, "with room for the legend"
    assert f'width="{size_of(alone)[0]}" height="{size_of(alone)[1]}"' in alone and size_of("<p>none</p>") == (0, 0)


def test_a_point_is_drawn_by_the_command(tmp_path, capfd):
    words = ["describe", "tiny", "--shape", "1x8x8", "--point", "default"]
    assert cli.main([*words, "--draw", str(tmp_path / "a.html"), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    page = (tmp_path / "a.html").read_text()
    assert all(f"{part['params']:,} parameters" in page for part in content["network"] if part["flops"])
    assert "default-src 'none'" in page and len(page) < 100_000
    assert cli.main([*words, "--draw", str(tmp_path / "a.svg")]) == 2
    assert "must end with .html or .png" in capfd.readouterr().err
    assert cli.main(["describe", "tiny", "--draw", str(tmp_path / "b.html")]) == 2
    assert "Choose it with --point" in capfd.readouterr().err
    assert cli.main([*words, "--draw", str(tmp_path / "none" / "a.html")]) == 2
    assert "cannot be written" in capfd.readouterr().err


def test_a_picture_needs_chromium_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with raises(ExportError, "missing", None, "a.png", "Chromium"):
        draw_network("one", PARTS, tmp_path / "a.png")


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed")
def test_a_picture_is_as_large_as_the_network(tmp_path):
    draw_network("one", PARTS, tmp_path / "a.png")
    width, height = size_of(standalone(network_svg({"one": PARTS})))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (2 * (width + 2 * MARGIN), 2 * (height + 2 * MARGIN)), "two pixels for each"
        pixels = picture.convert("RGB")
        edge = MARGIN - 2
        outside = [pixels.getpixel((x, y)) for x in (edge, 2 * width) for y in (edge, picture.height - edge)]
        assert set(outside) == {(255, 255, 255)}
        assert len(pixels.getcolors(1 << 20)) > 4, "layers of three families"


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
