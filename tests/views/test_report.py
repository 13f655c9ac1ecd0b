"""The report of a search, of every kind and in every state, from its files alone."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expecting import raises
from made_journal import SPACE, header, mixed, point, trial, write
from PIL import Image

import nasforge
from nasforge.api.report import search_report
from nasforge.core.errors import ConfigError, ExportError, JournalError
from nasforge.core.events import Asked, Checked, Event, Reported, Started, TestOpened, Told
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.trial import Artifact, Charge, Measure, Result, TrainShared
from nasforge.experiment.state import load_state
from nasforge.views import answers, picture, tables
from nasforge.views.answers import answers_file, read_answers, surest_mistakes
from nasforge.views.reader import Reader
from nasforge.views.results import commands_for, networks_on_test, outcome_sentence
from nasforge.views.trajectory import trajectory_of

BLOCKS = ("residual", "inverted", "separable")


def report_of(folder: Path) -> str:
    page = nasforge.report(folder)
    assert page == folder.absolute() / "report.html"
    return page.read_text(encoding="utf-8")


def words_of(text: str) -> str:
    """What a person reads: without tags, scripts and styles."""
    bare = re.sub(r"<(style|script)[^>]*>.*?</\1>", "", text, flags=re.S)
    return html.unescape(re.sub(r"<[^>]+>", " ", bare))


def test_a_search_with_trials_of_all_kinds(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", [*mixed(), *trial(8, "running")])
    text = report_of(folder)
    words = " ".join(words_of(text).split())
    assert "Trial 7 is the best of 5 fully measured points: validation accuracy 0.8700" in words
    assert "stopped" in words and "diverged" in words and "lower the learning rate" in words
    assert "rejected: a constraint" in words and "flops<=1M" in words and "torch 2.15" in words
    assert "nasforge show made --trial 7 --rerun" in words and "evolution(population=4)" in words
    state = load_state(folder)
    x, y = tables.front_axes(state)
    _, front = tables.in_two_metrics(state, x, y)
    assert front
    table = text[text.index("<h2>Pareto front</h2>") : text.index("<h2>Best trials</h2>")]
    assert re.findall(r'<th scope="row"><a href="#trial-(\d+)"', table) == [str(one.number) for one in front]


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    text = report_of(write(tmp_path / "a<b>", mixed()))
    assert "default-src 'none'" in text and "<h1>a&lt;b&gt; " in text
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)|url\(|@import|https?://(?!www\.w3\.org)(?!jfly)""", text)


def test_a_click_shows_what_the_journal_says(tmp_path: Path) -> None:
    text = report_of(write(tmp_path / "made", mixed()))
    texts = re.search(r'<script type="application/json" id="trials">(.*?)</script>', text, re.S)
    assert texts
    content = json.loads(texts[1])
    assert content["keys"] == list(SPACE.domains) and set(re.findall(r'"#trial-(\d+)"', text)) == set(content["trials"])
    status, metrics, places = content["trials"]["7"]
    values = dict(zip(content["keys"], (content["options"][i][j] for i, j in enumerate(places)), strict=True))
    assert status == "finished" and metrics[0] == "0.8700"
    assert values["model.block"] == point(7).values["model.block"] and values["model.width"] == "16"


def test_ten_thousand_trials_stay_below_two_megabytes(tmp_path: Path) -> None:
    """With thirty decisions, each trial on its own place of the front's figure, and long learning curves."""

    decisions = tuple(Decision(f"model.layer{n}.block", Choice(BLOCKS, ((), (), ()))) for n in range(30))
    space = SearchSpace("long", (*decisions, Decision("train.learning_rate", Float(0.001, 1.0, log=True))))
    begun = replace(header("long"), config={**header().config, "space": space.to_json()})

    def events(number: int) -> list[Event]:
        flops, accuracy = 1e3 + 90.0 * number, round(0.5 + number / 25_000, 6)
        values = {key: BLOCKS[(number >> n) % 3] for n, key in enumerate(space.domains)}
        asked = Asked(number, Measure(space.point({**values, "train.learning_rate": 0.001 + number / 20_000})))
        step = {"val/accuracy": accuracy, "time/worker_s": 1.0}
        result = Result("finished", {**step, "cost/flops": flops}, (accuracy, -flops), 2, Charge(2.0, 1e6))
        reports = [Reported(number, 1, at, {**step, "val/accuracy": accuracy - 0.1 / at}, "continue") for at in (1, 2)]
        checked = Checked(number, {"cost/flops": flops}, "accepted")
        return [asked, checked, Started(number, 1), *reports, Told(number, result)]

    reader = Reader(write(tmp_path / "long", [begun, *events(0)]))
    reader.refresh()
    assert reader.state is not None
    for number in range(1, 10_000):
        for event in events(number):
            reader.state.apply(event)
    text = search_report(reader)
    assert 100_000 < len(text.encode()) <= 2_000_000
    words = " ".join(words_of(text).split())
    assert "10,000</b> finished" in text and "computed from a random sample of 150 of 10,000 finished trials." in words


@pytest.mark.parametrize("events", [[], trial(0, "failed"), trial(0, "running"), trial(0, "rejected")])
def test_a_search_without_a_result_has_a_report(tmp_path: Path, events: list[Event]) -> None:
    folder = write(tmp_path / "young", [header("young"), *events])
    words = " ".join(words_of(report_of(folder)).split())
    assert "The search has no result: " in words and "What was searched" in words


def test_a_space_with_more_points_than_any_float(tmp_path: Path) -> None:
    decisions = tuple(Decision(f"model.width{n}", Choice(tuple(range(10)))) for n in range(320))
    space = replace(SPACE, decisions=decisions)
    begun = replace(header(), config={**header().config, "space": space.to_json()})
    words = words_of(report_of(write(tmp_path / "huge", [begun])))
    assert re.search(r"points: about 10\^3\d\d", words)


def test_a_table_without_networks_and_test_split(tmp_path: Path) -> None:
    looked_up = replace(
        header(), config={**header().config, "data": None, "evaluator": {"name": "lookup_table", "options": {}}}
    )
    folder = write(tmp_path / "table", [looked_up, *trial(0)])
    words = words_of(report_of(folder))
    assert (
        "test split" not in words
        and "nasforge retrain" not in words
        and "Trial 0 is the only fully measured point" in words
    )


def test_a_supernet_and_values_on_its_weights(tmp_path: Path) -> None:
    shared = [Asked(0, TrainShared(SPACE, "softmax", 2)), Checked(0, {}, "accepted"), Started(0, 1)]
    shared += [Reported(0, 1, step, {"train/loss": 1.0}, "continue") for step in (1, 2)]
    shared += [Told(0, Result("finished", {"train/loss": 1.0}, None, 2, Charge(4.0, 1e6)))]
    metrics = {"val/accuracy": 0.9, "cost/flops": 1000.0}
    measured = [
        Asked(1, Measure(point(1), weights=Artifact("artifacts/0/supernet.pt", "0" * 64, 1))),
        Checked(1, {"cost/flops": 1000.0}, "accepted"),
        Started(1, 1),
    ]
    measured += [Told(1, Result("finished", metrics, (0.9, -1000.0), 0, Charge(1.0, 1e6)))]
    folder = write(tmp_path / "spos", [header("spos"), *shared, *measured])
    words = " ".join(words_of(report_of(folder)).split())
    assert "These values use the supernet's weights" in words and "2 epochs" in words


def test_finalists_have_their_intervals_and_the_winner_its_mistakes(tmp_path: Path) -> None:
    images = tmp_path / "photos"
    (images / "cat").mkdir(parents=True)
    Image.new("RGB", (300, 200), "red").save(images / "cat" / "1.png")
    Image.new("RGB", (300, 200), "red").save(tmp_path / "outside.png")
    begun = replace(header(), config={**header().config, "data": {"source": str(images)}})
    folder = write(tmp_path / "made", [begun, *mixed()[1:]])
    best, other = point(7), point(0)
    name, drawn = (p.short_id for p in (best, other))
    tests = {f"{name}-seed0-e9": 0.9, f"{name}-seed1-e9": 0.92, f"ResNet-8-for-{name}-seed0-e9": 0.8}
    tests |= {f"{drawn}-seed0-e9": 0.7, "ensemble-of-2-abc": 0.93}
    write(folder, [TestOpened(key, {"test/accuracy": value}) for key, value in tests.items()])
    (folder / "finalists" / f"{drawn}-seed0-e9").mkdir(parents=True)
    about = {"metrics": {}, "trained": {"role": "random"}}
    (folder / "finalists" / f"{drawn}-seed0-e9" / "network.json").write_text(json.dumps(about))
    (folder / "best").mkdir()
    described = {"trained": {"finalist": f"{name}-seed0-e9"}, "class_names": ["cat", "dog"]}
    (folder / "best" / "network.json").write_text(json.dumps(described))
    file = answers_file(folder, f"{name}-seed0-e9")
    file.parent.mkdir()
    logits = np.array([[0.0, 3.0], [5.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    ids = np.array(["cat/1.png", "../outside.png", "cat/gone.png", "dog/4.png"])
    np.savez(file, truth=np.array([0, 1, 0, 1]), logits=logits, ids=ids)
    text = report_of(folder)
    words = " ".join(words_of(text).split())
    assert "The best network reaches 91.0% accuracy on the test split (95 % interval 78.3% to 100.0%)" in words
    assert "the mean of 2 seeds. The reference ResNet-8 reaches 80.0%." in words
    rows = {row["name"]: row["kind"] for row in networks_on_test(load_state(folder), folder / "finalists")}
    assert list(rows.values()) == ["trial", "reference", "random", "ensemble"]
    assert all(row in words for row in rows) and "1 of 4 images are right" in words
    surest = ["../outside.png is dog, taken for cat (99%)", "cat/1.png is cat, taken for dog (95%)"]
    assert words.index(surest[0]) < words.index(surest[1]) < words.index("cat/gone.png is cat, taken for dog (73%)")
    assert len(re.findall(r'<img src="data:image/jpeg', text)) == 1, "only the file below the folder of the images"


def test_the_picture_of_a_mistake_is_what_the_network_saw(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("RGB", (64, 32), "red").save(tmp_path / "side.jpg", exif=exif)
    Image.new("RGBA", (32, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    shown = []
    for name in ("side.jpg", "clear.png"):
        address = answers._picture(tmp_path, name)
        shown.append(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))
    assert [picture.size for picture in shown] == [(32, 64), (32, 64)]
    assert shown[1].getpixel((5, 5)) == (255, 255, 255)
    assert answers._picture(tmp_path, "gone.png") == answers._picture(tmp_path, "a\0.png") == ""


def test_damaged_answers_are_no_answers(tmp_path: Path) -> None:
    for number, arrays in enumerate(
        (
            {"truth": np.array([0, 5]), "logits": np.zeros((2, 2))},
            {"truth": np.array([0]), "logits": np.zeros((2, 2))},
            {"truth": np.zeros(0, int), "logits": np.zeros((0, 2))},
            {"truth": np.array([0])},
            {"truth": np.array([0]), "logits": np.zeros((1, 2)), "ids": np.array("one")},
        )
    ):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        assert read_answers(tmp_path / f"{number}.npz", tmp_path) is None
    (tmp_path / "text.npz").write_text("no archive")
    assert read_answers(tmp_path / "text.npz", tmp_path) is None
    assert read_answers(tmp_path / "text.npz", tmp_path / "elsewhere") is None
    np.savez_compressed(tmp_path / "whole.npz", truth=np.zeros(99, int), logits=np.arange(198.0).reshape(99, 2))
    whole = (tmp_path / "whole.npz").read_bytes()
    for name, content in (("cut", whole[:-40]), ("changed", whole[:60] + bytes(60) + whole[120:])):
        (tmp_path / f"{name}.npz").write_bytes(content)
        assert read_answers(tmp_path / f"{name}.npz", tmp_path) is None
    np.savez(tmp_path / "right.npz", truth=np.array([1, 0]), logits=np.array([[9.0, 0], [0, 1]]))
    answers = read_answers(tmp_path / "right.npz", tmp_path)
    assert answers is not None
    assert [one.image for one in surest_mistakes(answers, [])] == ["test image 0", "test image 1"]


def test_dashboard_and_show_say_the_same(tmp_path: Path) -> None:
    state = load_state(write(tmp_path / "runs" / "made", mixed()))
    sentence = outcome_sentence(state, [], "stopped")
    assert sentence in words_of(report_of(tmp_path / "runs" / "made"))
    assert tables.effort(state) == {"trials": 7.0, "steps": 16.0, "worker_seconds": 32.5, "multiply_adds": 6_000_010.0}
    folder = tmp_path / "runs" / "made"
    retrain, export = "Retrain the best from scratch and test it", "Export the best network"
    assert [title for title, _ in commands_for(folder, state)][-1] == retrain, "no best/ to export yet"
    (folder / "best").mkdir()
    (folder / "best" / "network.json").write_text("{}")
    assert [title for title, _ in commands_for(folder, state)][-2:] == [retrain, export]


def test_names_and_files(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "made", mixed())
    write(tmp_path / "runs" / "campaign" / "one", mixed())
    out = tmp_path / "page.html"
    assert nasforge.report("made", out=out, runs_dir=tmp_path / "runs") == out and out.stat().st_size > 10_000
    with raises(ExportError, "missing", "out"):
        nasforge.report("made", out=tmp_path / "nowhere" / "page.html", runs_dir=tmp_path / "runs")
    with raises(ConfigError, "unsupported", "model"):
        nasforge.report("campaign", runs_dir=tmp_path / "runs")
    with raises(JournalError, "unknown", "name", "nothing"):
        nasforge.report("nothing", runs_dir=tmp_path / "runs")


def test_a_page_may_name_a_photo_whose_name_is_not_utf8(tmp_path: Path) -> None:
    picture.write(tmp_path / "page.html", f"<b>ü {os.fsdecode(bytes([255]))}.png</b>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<b>ü \\udcff.png</b>"


def test_seeds_with_one_value_have_no_interval(made: Path) -> None:
    name = point(7).short_id
    write(made, [TestOpened(f"{name}-seed{seed}-e9", {"test/accuracy": 118 / 120}) for seed in range(3)])
    (row,) = networks_on_test(load_state(made), made / "finalists")
    assert (row["n"], row["low"], row["high"]) == (3, None, None)
    words = " ".join(words_of(report_of(made)).split())
    assert "The best network reaches 98.3% accuracy on the test split, the same with each of the 3 seeds." in words


def test_retrainings_of_another_length_are_no_further_seeds(made: Path) -> None:
    name = point(7).short_id
    tests = {"seed0-e9": 0.5, "seed1-e9": 0.6, "seed0-e27": 0.8, "seed1-e27": 0.9}
    write(made, [TestOpened(f"{name}-{seed}", {"test/accuracy": value}) for seed, value in tests.items()])
    write(made, [TestOpened(f"{name}-seed0-e81", {})])
    state = load_state(made)
    (row,) = networks_on_test(state, made / "finalists")
    assert (row["n"], row["value"]) == (2, pytest.approx(0.85)), "of 27 epochs; that of 81 has no figures yet"
    course = trajectory_of(state, state.header)
    assert course.test is not None and course.test[-1] == pytest.approx(0.85)
