"""One fit of a few seconds, looked at from all sides, stopped everywhere and continued."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from expecting import raises
from sklearn.datasets import load_digits

import nasforge
from nasforge.api.fit import Fitted, _name_of, log
from nasforge.api.fit.report import _protocol
from nasforge.api.fit.rewrite import rewrite_report
from nasforge.api.listing import listing
from nasforge.cli.app import main
from nasforge.cli.fit import _show as print_fit
from nasforge.core.errors import ConfigError, DataError, JournalError, SearchError
from nasforge.core.layout import FIT
from nasforge.experiment.state import load_state
from nasforge.exporters.network_folder import load

SECONDS = 20
pytestmark = pytest.mark.filterwarnings("error:a tracker failed")  # it would take the clock of the search with it


def settings(place, **more):
    return {"time": SECONDS, "name": "few", "runs_dir": place / "runs", "tracking_uri": "none", **more}


@pytest.fixture(scope="module", autouse=True)
def speed():
    """The plan depends on the measured speed, and tests run on machines that do other work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasforge.api.fit.work.fastest_threads", lambda *arguments: (1, 0.02))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    digits = load_digits()
    rows = np.flatnonzero(digits.target < 3)[:150]
    images = (digits.images[rows] * 15).astype(np.uint8)
    np.savez(folder / "few.npz", x_train=images, y_train=digits.target[rows], class_names=["zero", "one", "two"])
    return folder


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def fitted(place, messages):
    return nasforge.fit(place / "few.npz", **settings(place), say=messages.append)


def entries(fitted):
    return [json.loads(line) for line in (fitted.folder / FIT).read_text().splitlines()]


def test_the_answer_is_a_network_that_has_learnt(fitted):
    winner = fitted.winner
    assert winner.test["accuracy"] > 0.8 and winner.kind in ("found", "reference")
    low, high = winner.test_ci95["accuracy"]
    assert low < winner.test["accuracy"] <= high
    assert not fitted.content["nothing_learnt"]
    network = load(fitted.folder / "best")
    assert network.class_names == ("zero", "one", "two") and network.description.calibration.temperature > 0
    assert network.description.metrics["test/accuracy"] == winner.test["accuracy"]
    assert set(fitted.content["exported"]) == {"onnx", "safetensors"}
    assert all(Path(file).is_file() for file in fitted.content["exported"].values())


def test_baselines_are_rows_and_never_the_winner(fitted):
    kinds = {row.kind for row in fitted.leaderboard}
    assert {"majority", "sklearn"} <= kinds
    assert all(row.test and row.val for row in fitted.leaderboard)


def test_the_best_baseline_on_the_screen_is_the_best_of_the_table(fitted, messages):
    (line,) = (line for line in messages if line.startswith("best baseline: "))
    name, _, value = line.removeprefix("best baseline: ").rpartition(" accuracy ")
    baselines = {row.name: row.val["accuracy"] for row in fitted.leaderboard if row.kind in ("majority", "sklearn")}
    assert f"{max(baselines.values()):.4f}" == value == f"{baselines[name.rstrip(',')]:.4f}"


def test_the_choice_is_on_record_before_the_test_split_is_opened(fitted):
    kinds = [entry["kind"] for entry in entries(fitted)]
    assert kinds.index("chosen") < kinds.index("opened") < kinds.index("tested") < kinds.index("finished")
    assert kinds.count("opened") == kinds.count("tested") == len(fitted.leaderboard)


def test_the_winner_is_the_answer_and_no_message(fitted, messages, capfd):
    print_fit(fitted.content)
    out, err = capfd.readouterr()
    winner = fitted.content["winner"]
    assert out.count(f"Winner: {winner}: ") == 1 and err == ""
    assert messages and not any(line.startswith(f"winner: {winner}") for line in messages)


def test_every_decision_has_a_reason_and_is_said(fitted, messages):
    decisions = [entry for entry in entries(fitted) if entry["kind"] == "decision"]
    assert {"resolution", "metric", "trainings", "pretrained"} == {entry["name"] for entry in decisions}
    for entry in decisions:
        assert entry["reason"] and any(line.startswith(entry["name"]) for line in messages)


def test_it_says_what_it_used(fitted):
    assert fitted.content["seconds"] > 0
    used = [entry["used"] for entry in entries(fitted)]
    assert used == sorted(used)


def test_the_page_needs_no_other_file(fitted):
    text = fitted.report.read_text()
    assert "default-src 'none'" in text and not re.search(r"""(?:src|href)=["']?(?!["']?(?:#|data:))""", text)
    for words in (fitted.content["winner"], "zero", "SVM", "95 %"):
        assert words in text


def test_answers_name_their_images(fitted, place):
    labels = np.load(place / "few.npz")["y_train"]
    archives = sorted((fitted.folder / "answers").glob("*.npz"))
    assert archives
    for archive in archives:
        stored = np.load(archive)
        rows = [int(name.removeprefix("train/")) for name in stored["ids"].tolist()]
        assert len(set(rows)) == len(rows) and (labels[rows] == stored["truth"]).all()


@pytest.mark.parametrize("named", [True, False])
def test_the_page_names_the_images_of_mistakes(fitted, tmp_path, named):
    folder = shutil.copytree(fitted.folder, tmp_path / fitted.folder.name)
    what = [
        entry["what"] for entry in entries(fitted) if entry["kind"] == "tested" and entry["row"] == fitted.winner.name
    ]
    archive = folder / "answers" / f"{what[-1].replace(' ', '_')}.npz"
    stored = dict(np.load(archive))
    stored["probabilities"] = np.roll(stored["probabilities"], 1, axis=1)  # all answers are wrong
    names = stored["ids"] if named else [f"test image {place}" for place in range(len(stored["truth"]))]
    if not named:  # as fits of earlier versions wrote them
        del stored["ids"]
    np.savez(archive, **stored)
    text = rewrite_report(folder).read_text()
    shown = re.findall(r"<b>([^<]*)</b><span>is (\w+), taken for (\w+)", text)
    assert len(shown) == 12 and {name for name, _, _ in shown} <= set(names)
    assert all(truth != answer for _, truth, answer in shown) and text.count('<img src="data:image/png') >= 12


def test_a_finished_fit_is_printed_again_and_nothing_is_done(fitted, place):
    before = (fitted.folder / FIT).read_bytes()
    lines = []
    again = nasforge.fit(place / "few.npz", **settings(place), say=lines.append)
    assert again.content == fitted.content and (fitted.folder / FIT).read_bytes() == before
    assert len(lines) == 1 and "--time" in lines[0]


def test_a_plan_repeats_the_decisions(fitted, place, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    plan = tmp_path / "plan.yaml"
    shutil.copy(fitted.folder / "plan.yaml", plan)
    monkeypatch.setattr("nasforge.api.fit.run.search", stop)
    with pytest.raises(KeyboardInterrupt):
        nasforge.fit(place / "few.npz", **settings(tmp_path, plan=plan))
    names = ("resolution", "metric", "trainings")
    kept = {entry["name"]: entry["value"] for entry in entries(fitted) if entry.get("name") in names}
    lines = (tmp_path / "runs" / "few" / FIT).read_text().splitlines()
    decided = [entry for entry in map(json.loads, lines) if entry.get("name") in names]
    assert {entry["name"]: entry["value"] for entry in decided} == kept
    assert {entry["reason"] for entry in decided} == {"as the plan says"}
    assert (tmp_path / "runs" / "few" / "plan.yaml").read_text() == plan.read_text()
    with raises(ConfigError, "changed", "name", "plan"):
        nasforge.fit(place / "few.npz", **settings(tmp_path))
    with raises(ConfigError, "conflict", "objective", "val/f1_macro", plan):
        nasforge.fit(place / "few.npz", **settings(tmp_path, plan=plan, objective="val/f1_macro"))


def test_a_plan_of_more_folds_than_the_images_allow_is_named_and_can_be_corrected(place, tmp_path, monkeypatch):
    plan = tmp_path / "plan.yaml"
    about = "{folds: 100, epochs: 1, steps: 2, training: 0.1, threads: 1, second_per_step: 0.01}"
    plan.write_text(f"schema: 1\ntrainings: {about}\n")
    with raises(ConfigError, "range", "trainings.folds", "folds is 100", "Delete all of trainings"):
        nasforge.fit(place / "few.npz", **settings(tmp_path, plan=plan))
    plan.write_text("schema: 1\n")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nasforge.api.fit.run.measure_baselines", stop)
    with pytest.raises(KeyboardInterrupt):  # the same command goes on with the corrected plan
        nasforge.fit(place / "few.npz", **settings(tmp_path, plan=plan))


def test_other_options_are_refused_by_name(fitted, place):
    with raises(ConfigError, "changed", "name", "constraints"):
        nasforge.fit(place / "few.npz", **settings(place, constraints=["params<=10k"]))


_SLOWER = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("prepared", "yardsticks", "chosen")]


@pytest.mark.parametrize("kind", ["inspected", "searched", "trained", "opened", *_SLOWER])
def test_a_fit_that_was_killed_goes_on(fitted, place, tmp_path, kind):
    copy = tmp_path / "runs" / "few"
    shutil.copytree(fitted.folder, copy)
    lines = (copy / FIT).read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind)
    (copy / FIT).write_text("".join(lines[: last + 1]) + '{"kind": "half a li')
    again = nasforge.fit(place / "few.npz", **settings(tmp_path))
    assert again.content["resumed"] and again.winner.test["accuracy"] > 0.8
    kept = {entry["name"]: entry["value"] for entry in entries(fitted) if entry["kind"] == "decision"}
    decided = {entry["name"]: entry["value"] for entry in entries(again) if entry["kind"] == "decision"}
    if kind not in ("inspected", "prepared"):  # the plan is made after these, with the time that is left
        assert decided == kept
    if kind in ("chosen", "trained", "opened"):
        assert again.content["winner"] == fitted.content["winner"]
    assert [r.test for r in again.leaderboard if r.kind == "majority"] == [
        r.test for r in fitted.leaderboard if r.kind == "majority"
    ]


def test_a_log_from_before_pretrained_networks_is_continued(fitted, place, tmp_path):
    copy = tmp_path / "runs" / "few"
    shutil.copytree(fitted.folder, copy)
    kept = [e for e in entries(fitted) if e.get("name") != "pretrained"]
    for key in ("weights", "backbone", "pretrained"):
        del kept[0]["inputs"][key]
    last = next(i for i, entry in enumerate(kept) if entry["kind"] == "opened")
    (copy / FIT).write_text("".join(json.dumps(entry) + "\n" for entry in kept[: last + 1]))
    again = nasforge.fit(place / "few.npz", **settings(tmp_path))
    assert again.content["resumed"] and again.content["winner"] == fitted.content["winner"]


def test_a_log_that_was_tampered_with_is_one_sentence(fitted, place, tmp_path):
    copy = tmp_path / "runs" / "few"
    shutil.copytree(fitted.folder, copy)
    lines = (copy / FIT).read_text().splitlines(keepends=True)[:-1]
    (copy / FIT).write_text("".join(lines).replace('"folds":', '"folds":"many","not":'))
    with raises(JournalError, "unreadable", None, "trainings", "--name"):
        nasforge.fit(place / "few.npz", **settings(tmp_path))


def test_constraints_that_nothing_meets_end_in_time(place, tmp_path):
    with raises(SearchError, "empty", None, "params<=1"):
        nasforge.fit(place / "few.npz", **settings(tmp_path, constraints=["params<=1"]))


def test_a_missing_folder_leaves_nothing_behind(tmp_path):
    with raises(DataError, "missing", "data", tmp_path / "nothere"):
        nasforge.fit(tmp_path / "nothere", **settings(tmp_path))
    assert not (tmp_path / "runs").exists()


class _Begun(Exception):
    """The fit has passed all checks of its options."""


def test_data_that_are_made_of_others_are_taken(place, tmp_path, monkeypatch):
    sources = []

    def begin(log, request, *rest):
        sources.append((request.source, log.entries[0]["inputs"]["data_stamp"] != ""))
        raise _Begun

    monkeypatch.setattr("nasforge.api.fit.run.run", begin)
    monkeypatch.chdir(place)
    for source in ("addnist:digits", "tile:few.npz"):
        with pytest.raises(_Begun):
            nasforge.fit(source, **settings(tmp_path, name=None))
    assert sources == [("addnist:digits", False), (f"tile:{place / 'few.npz'}", True)]
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {"addnist-digits-fit", "tile-few-fit"}


@pytest.mark.parametrize(
    ("source", "kind"), [("addnist:nothere.npz", "missing"), ("addnist:", "unknown"), ("addnist", "unknown")]
)
def test_data_that_are_made_of_nothing_are_refused(tmp_path, source, kind):
    with raises(DataError, kind, "data", source.rpartition(":")[2]):
        nasforge.fit(source, **settings(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_not_here_is_refused_before_the_images_are_read(place, tmp_path, monkeypatch):
    monkeypatch.setattr("nasforge.api.fit.work.inspect", lambda *arguments, **options: pytest.fail("images are read"))
    with raises(ConfigError, "failed", "device", "meta"):
        nasforge.fit(place / "few.npz", **settings(tmp_path, device="meta"))
    assert not list((tmp_path / "runs").iterdir())


def test_ctrl_c_loses_nothing(place, tmp_path, monkeypatch, fitted):
    shutil.copytree(fitted.folder, tmp_path / "runs" / "few")
    log_file = tmp_path / "runs" / "few" / FIT
    lines = log_file.read_text().splitlines(keepends=True)
    log_file.write_text("".join(lines[:-3]))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nasforge.api.fit.run.ship", stop)
        with pytest.raises(KeyboardInterrupt):
            nasforge.fit(place / "few.npz", **settings(tmp_path))
    assert nasforge.fit(place / "few.npz", **settings(tmp_path)).content["winner"] == fitted.content["winner"]


def test_the_table_and_the_page_say_whether_the_test_split_was_seen_before(fitted, capfd):
    opened, seen = "opened after the choice", "seen before"
    for again, words, others in ((False, opened, seen), (True, seen, opened)):
        content = {**fitted.content, "test_seen_before": again}
        print_fit(content)
        for text in (capfd.readouterr().out, _protocol(content)):
            assert words in text and others not in text


def test_more_time_searches_on_and_says_that_the_test_split_was_seen(fitted, place, tmp_path):
    shutil.copytree(fitted.folder, tmp_path / "runs" / "few")
    more = nasforge.fit(place / "few.npz", **settings(tmp_path, time=SECONDS + 12))
    assert more.content["test_seen_before"]
    searched = [entry["until"] for entry in entries(more) if entry["kind"] == "searched"]
    assert len(searched) == 2 and searched[0] + 5 < searched[1] < more.content["seconds"]
    epochs = [entry["epochs"] for entry in entries(more) if entry["kind"] == "trained"]
    assert min(epochs) >= next(e["value"]["plan"]["epochs"] for e in entries(more) if e.get("name") == "trainings")


def test_changed_images_are_noticed(fitted, place, tmp_path):
    shutil.copytree(fitted.folder, tmp_path / "runs" / "few")
    before = (place / "few.npz").stat()
    os.utime(place / "few.npz", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        with raises(ConfigError, "changed", "name", "images or labels"):
            nasforge.fit(place / "few.npz", **settings(tmp_path))
    finally:
        os.utime(place / "few.npz", ns=(before.st_atime_ns, before.st_mtime_ns))


def test_too_little_time_is_one_sentence_that_says_how_much_is_needed(place, tmp_path):
    with raises(ConfigError, "range", "time", "Give --time "):
        nasforge.fit(place / "few.npz", **settings(tmp_path, time=1))


@pytest.mark.parametrize(
    ("options", "kind", "key"),
    [({"seed": -1}, "range", "seed"), ({"name": ""}, "invalid", "name")],
)
def test_a_wrong_seed_or_name_is_refused_before_anything_is_written(tmp_path, options, kind, key):
    with raises(ConfigError, kind, key):
        nasforge.fit(tmp_path / "few.npz", **(settings(tmp_path) | options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/Käfer", "Kaefer-fit"),
        ("Ka\u0308fer/", "Kaefer-fit"),
        ("Blütenstände.npz", "Bluetenstaende-fit"),
        ("São Tomé", "Sao-Tome-fit"),
        ("Łódź", "Lodz-fit"),
        ("照片", "data-fit"),
        ("digits", "digits-fit"),
        ("addnist:digits", "addnist-digits-fit"),
        ("tile:data/photos.npz", "tile-photos-fit"),
    ],
)
def test_a_fit_is_named_after_its_source_in_plain_letters(source, name):
    assert _name_of(source) == name


@pytest.mark.slow
def test_a_first_candidate_that_is_slower_than_forecast_keeps_the_time(place, tmp_path, monkeypatch):
    monkeypatch.setattr("nasforge.api.fit.work.fastest_threads", lambda *arguments: (1, 0.0003))
    messages = []
    slow = nasforge.fit(place / "few.npz", **settings(tmp_path, preset="thorough"), say=messages.append)
    kinds = {entry["kind"]: entry for entry in entries(slow)}
    assert kinds["late"]["trial"] == 0 and any("much slower than forecast" in line for line in messages)
    assert kinds["searched"]["used"] < SECONDS  # without the deadline these trainings take minutes
    assert slow.content["tried"] == 1 and "ended early" in slow.content["reason"]


def test_too_few_images_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", x_train=np.zeros((6, 8, 8), np.uint8), y_train=np.arange(6) % 2)
    with pytest.raises(DataError):
        nasforge.fit(tmp_path / "two.npz", **settings(tmp_path))


def test_commands_take_the_name_of_a_fit(fitted, place, capfd):
    runs = ["--runs-dir", str(place / "runs")]
    assert main(["show", "few", *runs]) == 0
    printed = capfd.readouterr().out
    assert fitted.content["winner"] in printed and "nasforge show few/search" in printed
    assert main(["show", "few", "--json", *runs]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(fitted.content))
    for words in (["few/search"], ["few", "--trial", "0"], ["few/search", "--trial", "0"]):
        assert main(["show", *words, "--json", *runs]) == 0
        assert json.loads(capfd.readouterr().out)["experiment"] == "few/search"
    assert main(["show", "few/nothing", *runs]) == 2
    assert [row["name"] for row in listing(place / "runs")] == ["few"]
    assert main(["export", "few", "--to", "safetensors", "--out", str(place / "out"), *runs]) == 0
    assert (place / "out" / "weights.safetensors").is_file()


def test_json_is_one_object_of_schema_1(fitted, place, capfd):
    arguments = ["fit", str(place / "few.npz"), "--time", f"{SECONDS}s", "--name", "few", "--json"]
    assert main([*arguments, "--runs-dir", str(place / "runs"), "--tracking-uri", "none"]) == 0
    content = json.loads(capfd.readouterr().out)
    keys = {"seconds", "classes", "split", "rows", "winner", "beaten_by", "nothing_learnt", "left_out", "data_hash"}
    assert content["schema"] == 1 and keys | {"resumed", "network", "exported", "report"} <= set(content)
    for row in content["rows"]:
        assert {"name", "kind", "val", "test", "test_ci95", "params", "flops", "seconds"} <= set(row)


def test_trackers_show_the_search_under_the_name_of_the_fit(fitted):
    assert load_state(fitted.folder / "search").header.experiment == "few"


def test_an_unfinished_fit_has_no_result(tmp_path, capfd):
    show = ["show", "few", "--runs-dir", str(tmp_path)]
    with log.FitLog(tmp_path / "few", {"source": "photos"}, time.monotonic()):
        assert main(show) == 0 and "It is running" in capfd.readouterr().out
    with raises(JournalError, "empty", None, tmp_path / "few"):
        Fitted.read(tmp_path / "few")
    assert main(show) == 0 and "Repeat its command to continue it" in capfd.readouterr().out
    assert main([*show, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["finished"] is False


def test_the_report_is_written_again(fitted, place, capfd, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda place: bool(opened.append(place)))
    before, log_before = fitted.report.read_text(), (fitted.folder / FIT).read_bytes()
    fitted.report.unlink()
    assert main(["report", "few", "--open", "--runs-dir", str(place / "runs")]) == 0
    printed = capfd.readouterr()
    assert printed.out.strip() == str(fitted.report) and "Open the page by its path" in printed.err
    assert opened == [fitted.report.as_uri()] and (fitted.folder / FIT).read_bytes() == log_before
    after = fitted.report.read_text()
    assert after.partition("Time: ")[0] == before.partition("Time: ")[0]
