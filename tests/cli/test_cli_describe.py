"""`describe` of references, and its check of gradients."""

import json
from pathlib import Path

import pytest

from nasforge.cli.app import main
from nasforge.cli.describe import decision_rows
from nasforge.settings.space_file import load_space

BUILDER = """
import torch
from torch import nn


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Sine(nn.Module):
    def forward(self, x):
        return {forward}


def build(pick, *, in_channels, classes):
    width = pick.width("width")
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), Sine(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )
"""
SPACE = "name: mine\nbuilder: {module}:build\ndecisions:\n  model:\n    width: [2, 3]\n"


def described(capfd, *words):
    code = main(["describe", *words, "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_options_with_a_number_in_their_name_keep_it_in_conditions():
    rows = {row["decision"]: row["active if"] for row in decision_rows(load_space("blocks"))}
    assert rows["model.stage{0..2}.layer{0..3}.block.inverted_3.expansion"] == "block is inverted_3"
    assert rows["model.stage{0..2}.layer{0..3}.block.inverted_5.expansion"] == "block is inverted_5"


def test_a_reference_has_the_width_of_its_paper(capfd):
    code, content = described(capfd, "vgg_plain", "--shape", "3x224x224", "--classes", "1000")
    assert code == 0
    assert content["costs"]["cost/params"] == 138_357_544
    assert [part["part"] for part in content["network"]][-1] == "classifier"


def test_a_reference_is_scaled_and_drawn(capfd, tmp_path):
    drawing = tmp_path / "reference.html"
    code, content = described(capfd, "mobilenet_v2", "--flops", "2e6", "--shape", "1x28x28", "--draw", str(drawing))
    assert code == 0 and drawing.stat().st_size > 10_000
    assert content["space"].startswith("MobileNet-v2 x")
    assert 1.8e6 < content["costs"]["cost/flops"] <= 2e6
    assert described(capfd, "resnet", "--flops", "2e6", "--shape", "1x28x28")[1]["space"].startswith("ResNet-")


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (("resnet",), "missing", "--flops 40e6"),
        (("tiny", "--flops", "2e6"), "conflict", "search space"),
        (("timm:resnt18",), "unknown", "resnet18"),
        (("vgg", "--flops", "0"), "range", "above 0"),
        (("tiny", "--gradcheck", "--draw", "x.html"), "conflict", "one at a time"),
    ],
)
def test_mistakes(capfd, words, kind, text):
    code, content = described(capfd, *words)
    assert (code, content["kind"]) == (2, kind)
    assert text in content["error"]


@pytest.mark.parametrize("shape", ["00x8x8", "3x0x8", f"3x8x{'9' * 5000}", "3x8", "-3x8x8"])
def test_a_shape_is_three_numbers_from_1(capfd, shape):
    code, content = described(capfd, "tiny", f"--shape={shape}")
    assert (code, content["kind"], content["key"]) == (2, "type", "shape")


@pytest.mark.parametrize("file", ["deep.json", "~no_such_user/point.json"])
def test_a_point_that_cannot_be_read(capfd, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    Path("deep.json").write_text("[" * 100_000 + "]" * 100_000)
    code, content = described(capfd, "tiny", "--shape", "1x8x8", "--point", file)
    assert code == 2 and content["kind"] in ("unreadable", "missing") and "--point" in content["error"]


@pytest.mark.parametrize(("forward", "code"), [("x.sin()", 0), ("Wrong.apply(x)", 1)])
def test_the_gradients_of_a_builder_of_the_users(capfd, tmp_path, monkeypatch, forward, code):
    module = f"my_builder_{code}"
    (tmp_path / f"{module}.py").write_text(BUILDER.format(forward=forward))
    (tmp_path / "mine.yaml").write_text(SPACE.format(module=module))
    monkeypatch.chdir(tmp_path)
    got, content = described(capfd, "mine.yaml", "--shape", "1x8x8", "--gradcheck")
    assert got == code
    assert content["agrees"] is (code == 0)
    wrong = content["disagreement"]
    assert wrong is None if code == 0 else (wrong["module"], wrong["layer"]) == ("1", "Sine")
    assert main(["describe", "mine.yaml", "--shape", "1x8x8", "--gradcheck"]) == code
    message = capfd.readouterr().out
    assert ("agree with two-sided differences" if code == 0 else "module '1' (Sine)") in " ".join(message.split())


def test_the_gradients_of_a_shipped_space(capfd):
    code, content = described(capfd, "tiny", "--shape", "1x8x8", "--gradcheck")
    assert code == 0 and content["unchecked"] == []
    assert len(content["networks"]) > 1 and content["modules"] > 50
