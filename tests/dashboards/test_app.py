"""The pages over a runs folder, asked without a browser; and once clicked through in a real one."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from expecting import raises

pytest.importorskip("fastapi", reason='needs FastAPI: pip install "nasforge[dashboard]"')
sys.path.insert(0, str(Path(__file__).parent))
from chromium import chromium
from fastapi.testclient import TestClient
from made_journal import SPACE, header, point, trial, write
from PIL import Image
from ports import free_port

import nasforge
from nasforge.core.errors import ConfigError
from nasforge.core.events import TestOpened, Told
from nasforge.core.layout import JOURNAL
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.dashboards import launch, library
from nasforge.dashboards.app import create_app
from nasforge.experiment.state import load_state
from nasforge.views import texts
from nasforge.views.svg import Axis, Bar, bars

PAGES = ("search", "trials", "trial/7", "importance", "how", "compare?trials=6,7")


def client(runs_dir: Path, **options: Any) -> TestClient:
    return TestClient(create_app(runs_dir, **{"reading_s": 60.0, **options}), base_url="http://127.0.0.1")


def page(browser: TestClient, address: str, status: int = 200) -> str:
    answer = browser.get(address)
    assert answer.status_code == status, answer.text[:2000]
    return answer.text


def test_home_lists_everything_and_filters_and_sorts(made: Path) -> None:
    write(made.parent / "camp" / "random-s0", [header("random-s0"), *trial(0)])
    (made.parent / "broken").mkdir()
    (made.parent / "broken" / JOURNAL).write_text("no journal\n")
    browser = client(made.parent)
    text = page(browser, "/")
    for name in ("made", "camp", "broken"):
        assert f'href="/{name}"' in text
    assert "0.8700" in text and "campaign" in text and "journal.jsonl:1" in text
    assert 'href="/camp"' not in page(browser, "/?q=made")
    assert 'href="/made"' not in page(browser, "/?kind=campaign")
    ordered = page(browser, "/?sort=name&down=1")
    assert '<input type="hidden" name="sort" value="name">' in ordered
    assert ordered.index('href="/made"') < ordered.index('href="/broken"')
    assert 'href="/camp:random-s0"' in page(browser, "/camp")
    assert "Best so far" in page(browser, "/camp:random-s0/search")


@pytest.mark.parametrize("name", ["x" * 300, "camp:" + "x" * 300, "%C3%A9" * 200, "a%00b", "..%2f..", "%ff"])
def test_a_name_that_no_file_can_have_is_not_found(made: Path, name: str) -> None:
    for path in ("", "/search", "/trials.csv", "/files/x", "/trial/0/log"):
        page(client(made.parent), f"/{name}{path}", 404)


def test_numbers_of_thousands_of_digits_in_an_address(made: Path) -> None:
    browser, huge = client(made.parent), "9" * 5000
    for address in (f"trials?page={huge}", f"importance?from={huge}", f"networks?trials={huge}"):
        page(browser, f"/made/{address}")
    assert "0.8700" in page(browser, f"/made/compare?trials=7,{huge}")
    for number in ("abc", huge):
        assert "a trial has a whole number" in page(browser, f"/made/trial/{number}", 404)


@pytest.mark.parametrize("key", ["rows", "name", "test", "test_ci95", "accuracy", "split", "at", "used", "reason"])
@pytest.mark.parametrize("value", [None, 7, "x", [], [7], {"x": None}], ids=str)
def test_a_fit_log_that_was_changed_spoils_no_other_page(made: Path, key: str, value: Any) -> None:
    rates = {"accuracy": 0.5}
    row = {"name": "found", "kind": "found", "params": 1.0, "flops": 1.0, "val": rates, "test": rates}
    row |= {"test_ci95": {"accuracy": [0.4, 0.6]}}
    content = {"rows": [row], "winner": "found", "classes": ["a", "b"], "split": {"test": 4}, "reason": "it is best"}
    begun = {"kind": "begun", "schema": 1, "inputs": {"source": "photos"}, "at": 1.0, "used": 0.0}
    text = json.dumps([begun, {"kind": "finished", "content": content, "at": 4.0, "used": 3.0}])

    def changed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value if name == key else inner for name, inner in pairs}

    lines = json.loads(text, object_pairs_hook=changed)
    (made.parent / "fit").mkdir()
    (made.parent / "fit" / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    browser = client(made.parent)
    for order in ("", "?sort=started", "?sort=elapsed", "?sort=test"):
        assert 'href="/made"' in page(browser, f"/{order}")
    page(browser, "/fit")


def test_no_two_metrics_stand_under_one_heading_without_a_word(made: Path) -> None:
    accuracy, loss = "validation accuracy", "validation loss"
    browser = client(made.parent)
    text = page(browser, "/")
    assert f">best: {accuracy}</a>" in text and "0.8700</td>" in text
    write(
        made.parent / "losses", [header("losses", objectives=["min:val/loss", "min:cost/flops"]), *trial(0), *trial(1)]
    )
    text = page(browser, "/")
    assert ">best</a>" in text
    assert (
        f'0.8700<br><span class="dim">{accuracy}</span>' in text
        and f'0.3333<br><span class="dim">{loss}</span>' in text
    )
    assert f">best: {loss}</a>" in page(browser, "/?q=losses")
    write(made.parent / "other", [header("other"), *trial(2)])
    text = page(browser, "/?sort=best&down=1")
    places = [text.index(f'href="/{name}"') for name in ("losses", "made", "other")]
    assert places == sorted(places), "in groups of one metric"


def _campaign(folder: Path) -> Path:
    """A campaign of two strategies with three seeds each; evolution is better by .05."""
    for name, gain in (("random", 0.0), ("evolution", 0.05)):
        for seed in range(3):
            settings = {"strategy": {"name": name, "options": {}}, "constraints": [], "budget": {"trials": 6}}
            events: list[Any] = [dataclasses.replace(header(f"{name}-s{seed}", **settings), seed=seed)]
            for number in range(6):
                for event in trial(number):
                    if isinstance(event, Told):
                        value = 0.5 + 0.02 * number + 0.01 * seed + gain
                        metrics = {**event.result.metrics, "val/accuracy": value}
                        outcome = dataclasses.replace(event.result, metrics=metrics, values=(value, -1.0 - number))
                        event = dataclasses.replace(event, result=outcome)
                    events.append(event)
            write(folder / f"{name}-s{seed}", events)
    return folder


def test_a_campaign_compares_its_strategies(tmp_path: Path) -> None:
    _campaign(tmp_path / "camp")
    browser = client(tmp_path)
    text = page(browser, "/camp")
    assert text.count('class="band ') == 4, "two strategies, accuracy and hypervolume"
    assert "at 6 charged trials" in text and "+0.0500" in text and "0.6600" in text
    for name in ("random", "evolution"):
        for seed in range(3):
            assert f'<a href="/camp:{name}-s{seed}" title="camp:{name}-s{seed}">{seed}</a>' in text
    assert "charged worker time (s)" in page(browser, "/camp?axis=worker_seconds&lines=nothing")
    text = page(browser, "/camp?lines=searches")
    assert "camp:evolution-s2" in text and 'class="band ' not in text and "p Wilcoxon" not in text
    slow = client(tmp_path, reading_s=0.0)
    assert "The journals are being read" in page(slow, "/camp")


def test_a_campaign_shows_the_comparison_that_was_written(tmp_path: Path) -> None:
    from nasforge.api.compare.campaign import read_search
    from nasforge.views.comparison import compare_groups
    from nasforge.views.groups import groups_of
    from nasforge.views.plain import plain

    folder = _campaign(tmp_path / "camp")
    searches = [
        dataclasses.replace(read_search(path), final=[0.25] * 6) for path in sorted(folder.iterdir()) if path.is_dir()
    ]
    comparison = dataclasses.replace(compare_groups("camp", groups_of(searches)), final="table/accuracy")
    stored = folder / "comparison.json"
    stored.write_text(json.dumps(plain(comparison.to_json())))
    browser = client(tmp_path)
    text = page(browser, "/camp")
    assert "table/accuracy of the best so far" in text and "0.2500" in text
    assert "figures of <code>comparison.json" in text
    assert 'href="/camp:random-s1"' in text
    assert "table/accuracy" not in page(browser, "/camp?axis=worker_seconds")
    whole = json.loads(stored.read_text())
    changed = (
        {"end": "x"},
        {"rows": [{**whole["rows"][0], "quantity": "unknown"}]},
        {"curves": [{**whole["curves"][0], "low": []}]},
    )
    for broken in ("{", "[]", '{"curves": 3}', *(json.dumps({**whole, **change}) for change in changed)):
        stored.write_text(broken)
        assert "comparison.json of this campaign cannot be read" in page(client(tmp_path), "/camp")
    stored.write_text(json.dumps(plain(comparison.to_json())))
    os.utime(stored, (1.0, 1.0))
    assert "table/accuracy" not in page(client(tmp_path), "/camp")


def test_any_searches_are_compared(made: Path) -> None:
    _campaign(made.parent / "camp")
    browser = client(made.parent)
    assert 'name="searches" value="made"' in page(browser, "/") and 'value="camp:random-s0"' in page(browser, "/camp")
    answer = browser.get("/-/compare?searches=made&searches=camp:random-s0&axis=trials")
    assert str(answer.url).endswith("/-/compare?searches=made,camp:random-s0&axis=trials")
    assert "not searches of the same problem; different: constraints" in answer.text
    assert answer.text.count('class="line ') == 4 and 'class="band ' not in answer.text
    assert '<th scope="row"><a href="/camp:random-s0">camp:random-s0</a></th>' in answer.text
    text = page(browser, "/-/compare?searches=camp")
    assert text.count('class="band ') == 4
    write(made.parent / "single", [header("single", objectives=["min:val/loss", "min:cost/flops"]), *trial(0)])
    assert "different objectives" in page(browser, "/-/compare?searches=made,single")
    write(made.parent / "young", [header("young")])
    assert "nothing to compare" in page(browser, "/-/compare?searches=young")
    (made.parent / "single" / JOURNAL).write_text("no journal\n")
    text = page(client(made.parent), "/-/compare?searches=made,single")
    assert "Left out, since it cannot be read: single (" in text and 'class="line ' in text
    assert "it cannot be read: single (" in page(client(made.parent), "/-/compare?searches=single")
    for address in ("/-/compare", "/-/compare?searches=nothing"):
        page(browser, address, 404)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_and_escapes_what_files_say(tmp_path: Path, path: str) -> None:
    evil = "<script>alert(1)</script>"
    events = [header(data={"source": evil, "validation": 0.1}), *(e for n in range(9) for e in trial(n))]
    lines = write(tmp_path / "made", events) / JOURNAL
    lines.write_text(lines.read_text().replace('"residual"', json.dumps(evil)).replace("evolution", evil))
    text = page(client(tmp_path), f"/made/{path}")
    assert evil not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in client(tmp_path).get(f"/made/{path}").headers["content-security-policy"]


def test_search_shows_progress_front_failures_and_advice(made: Path) -> None:
    text = page(client(made.parent), "/made/search")
    for words in ("best so far", "Pareto front", "flops&lt;=", "diverged", "lower the learning rate", "rejected"):
        assert words in text, words
    for over in ("seconds", "work"):
        assert "charged" in page(client(made.parent), f"/made/search?over={over}&x=cost/params&y=val/loss")


def test_a_decision_without_any_drawing_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "made", [header(), *trial(0, "failed")])
    text = page(client(tmp_path), "/made/importance")
    assert "model.width is 8 in the only trial with this decision. It has not finished." in text
    assert "No finished trial has" not in text and text.count('class="missing"') == 5, "three decisions, two figures"


def test_a_figure_of_a_plug_in_is_linked_drawn_and_may_break(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasforge import registry

    assert "More figures" not in page(client(made.parent), "/made/search")
    document = (Path(__file__).parents[2] / "docs/howto/plugins.md").read_text()
    (code,) = re.findall(r"```python\n(# my_figures\.py\n.*?)```", document, re.DOTALL)
    (tmp_path / "my_figures.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_figures", raising=False)
    monkeypatch.setitem(registry.BUILT_IN["figure"], "sizes", "my_figures:sizes")
    monkeypatch.setitem(registry.BUILT_IN["figure"], "broken", "my_figures:no_such_figure")
    browser = client(made.parent)
    text = page(browser, "/made/search")
    assert "More figures" in text and 'href="/made/figures/sizes"' in text
    answer = browser.get("/made/figures/sizes")
    assert "histogram" in answer.text and "/-/static/plotly.min.js" in answer.text
    sizes = [trial.metrics["cost/params"] for trial in load_state(made).finished()]
    assert list(registry.get("figure", "sizes")(load_state(made)).data[0].x) == sizes and len(sizes) == 5
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert "cannot be drawn" in page(browser, "/made/figures/broken")
    assert "lotly" in page(browser, "/-/static/plotly.min.js") and browser.get("/made/figures/none").status_code == 404


def test_trials_are_filtered_sorted_and_exported(made: Path) -> None:
    browser = client(made.parent)
    text = page(browser, "/made/trials?filter=block=residual val/accuracy>0.81&sort=val/accuracy&down=1")
    assert [f'id="trial-{n}"' in text for n in (0, 1, 2, 6, 7)] == [False, False, True, True, True]
    assert text.index('id="trial-7"') < text.index('id="trial-2"')
    assert "is no column" in page(browser, "/made/trials?filter=nothing>1")
    assert "is no column" not in page(browser, "/made/trials?filter=status=finished steps>0 epochs>0")
    rows = browser.get("/made/trials.csv?status=finished").text.splitlines()
    assert len(rows) == 6 and rows[0].startswith("trial,status,steps,val/accuracy")


def test_decisions_that_no_trial_took_are_no_columns(tmp_path: Path) -> None:
    inner = Decision("model.block.bottleneck.reduction", Choice((2, 4)))
    block = Decision("model.block", Choice(("residual", "inverted", "bottleneck"), ((), (), (inner,))))
    space = SearchSpace("made", tuple(block if one.key == block.key else one for one in SPACE.decisions))
    write(tmp_path / "runs" / "nested", [header("nested", space=space.to_json()), *trial(0)])
    browser = client(tmp_path / "runs")
    assert "bottleneck.reduction" not in page(browser, "/nested/trials")
    assert (
        browser.get("/nested/trials.csv").text.splitlines()[0].endswith("model.width,model.block,train.learning_rate")
    )


def test_a_trial_and_its_failure(made: Path) -> None:
    text = page(client(made.parent), "/made/trial/3")
    assert "diverged" in text and "lower the learning rate" in text and "--rerun" in text
    assert "no trial 99" in page(client(made.parent), "/made/trial/99", 404)


def test_a_trial_has_a_log(made: Path) -> None:
    browser = client(made.parent)
    assert 'data-load="/made/trial/3/log"' in page(browser, "/made/trial/3")
    folder = made / "artifacts" / "3" / "attempt-1"
    folder.mkdir(parents=True)
    (folder / "traceback.txt").write_text("Traceback <most recent>")
    text = page(browser, "/made/trial/3/log")
    for words in ("attempt 1 begins", "failed by diverged", "Traceback of attempt 1", "Traceback &lt;most recent&gt;"):
        assert words in text, words
    assert "validation accuracy 0.8700" in page(browser, "/made/trial/7/log")
    assert "has no trial 99" in page(browser, "/made/trial/99/log")


def test_trials_are_compared_with_differences_marked(made: Path) -> None:
    browser = client(made.parent)
    text = page(browser, "/made/compare?trials=6&trials=7").replace("<wbr>", "")
    assert "Trials 6, 7" in text and "model.width ≠" in text and "model.block ≠" not in text and "★" in text
    assert "Choose two or more" in page(browser, "/made/compare")


def test_values_are_printed_for_people(made: Path) -> None:
    assert texts.value_text(0.16183507387042656) == "0.1618" and texts.value_text("") == "–"
    assert texts.bytes_text(7050) == "7.05 kB" and texts.bytes_text(326) == "326 B"
    assert texts.metric_text(3.6414, "cost/memory_mb") == "3.64"
    titles = {re.findall("<title>(.+)</title>", page(client(made.parent), f"/made/{path}"))[0] for path in PAGES}
    assert len(titles) == len({path.partition("?")[0] for path in PAGES})
    assert "interrupted" in page(client(made.parent), "/made/trial/8")


def test_ticks_of_whole_axes_are_whole() -> None:
    assert Axis.of("epoch", [1, 2], whole=True).ticks() == [1.0, 2.0]
    assert "<circle" in bars("accuracy", [Bar("one", 0.9, "0.9")], low=0.8)


def test_a_network_is_drawn_where_there_is_one(tmp_path: Path, made: Path) -> None:
    searched = {"space": "tiny", "data": {"source": "digits", "images": 200}, "epochs": 1, "budget": {"trials": 1}}
    place = {"runs_dir": str(tmp_path), "tracking_uri": "none", "name": "real", "runner": "local"}
    state = nasforge.search(**searched, **place)
    assert f"trial 0, {state.best.architecture.arch_id}" in page(client(tmp_path), "/real/networks?trials=0")
    assert "Not drawn: trial 7 has no network for images" in page(client(made.parent), "/made/networks?trials=7")


def test_a_result_shows_the_test_split_files_and_commands(made: Path, tmp_path: Path) -> None:
    from nasforge.core.events import TestOpened
    from nasforge.experiment.state import load_state

    best = load_state(made).best
    assert best is not None and best.architecture is not None
    name = best.architecture.short_id
    metrics = {"test/accuracy": 0.9}
    seeds = [TestOpened(f"{name}-seed{n}-e9", {"test/accuracy": 0.9 + 0.02 * n}) for n in range(2)]
    reference = f"ResNet-8-x0.5-for-{name}-seed0-e9"
    vgg = f"VGG-16-BN-x0.1-for-{name}-seed0-e9"
    write(made, [*seeds, TestOpened(reference, metrics), TestOpened(vgg, {"test/accuracy": 0.8})])
    (made / "finalists" / reference).mkdir(parents=True)
    costs = {"cost/params": 78_000.0, "cost/flops": 12_400_000.0}
    (made / "finalists" / reference / "network.json").write_text(json.dumps({"metrics": costs}))
    (made / "best").mkdir()
    (made / "best" / "network.json").write_text("{}")
    (made / "best" / "out").symlink_to("/etc/passwd")
    browser = client(made.parent)
    text = page(browser, "/made")
    assert (
        "78k" in text
        and "12.4M" in text
        and "91.0%" in text
        and "reference" in text
        and "nasforge show made --trial 7 --rerun" in text
        and "The reference ResNet-8-x0.5 reaches 90.0%. The reference VGG-16-BN-x0.1 reaches 80.0%." in text
    )
    for words in ("found by the search", "hand-designed network", "nasforge predict made image.jpg", ">seeds</th>"):
        assert words in text, words
    answer = browser.get("/made/files/best/network.json")
    assert answer.text == "{}" and "attachment" in answer.headers["content-disposition"]
    for path in ("best/out", "journal.jsonl", "..%2Fmade%2Fjournal.jsonl", "best/../journal.jsonl"):
        assert browser.get(f"/made/files/{path}").status_code == 404
    assert "Not drawn" in page(browser, "/made/winner")


def test_a_finished_fit_shows_its_rows_and_confusions(tmp_path: Path) -> None:
    import numpy as np

    fit = tmp_path / "photos"
    opened = TestOpened(f"{point(0).short_id}-seed0-e9", {"test/accuracy": 0.7083})
    write(fit / "search", [header("search"), *trial(0), opened])
    rows = [
        {
            **{"name": name, "kind": kind, "params": 10.0, "flops": 20.0, "seconds": 1.0},
            **{split: {"accuracy": value} for split in ("val", "test")},
            "test_ci95": {"accuracy": [value - 0.1, value + 0.1]},
        }
        for name, kind, value in (("network", "search", 0.75), ("SVM", "sklearn", 0.5))
    ]
    content = {"rows": rows, "winner": "network", "classes": ["cat", "dog"], "split": {"test": 4}}
    lines = [
        {"kind": "begun", "schema": 1, "inputs": {"source": "photos"}, "at": 1.0, "used": 0.0},
        {
            "kind": "decision",
            "name": "metric",
            "value": "accuracy",
            "reason": "classes are even",
            "at": 2.0,
            "used": 1.0,
        },
        {
            **{"kind": "decision", "name": "trainings", "value": {"steps": 9}, "reason": "9 steps of 2 ms"},
            **{"at": 2.2, "used": 1.0},
        },
        {"kind": "chosen", "winner": "network", "reason": "ahead of all", "until": 9.0, "at": 2.5, "used": 1.5},
        {"kind": "tested", "what": "w", "figures": {"name": "network"}, "at": 3.0, "used": 2.0},
        {"kind": "finished", "content": content, "at": 4.0, "used": 3.0},
    ]
    (fit / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (fit / "answers").mkdir()
    np.savez(fit / "answers" / "w.npz", truth=np.array([0, 0, 1, 1]), probabilities=np.eye(2)[[0, 0, 1, 0]])
    browser = client(tmp_path)
    text = page(browser, "/photos")
    for words in ("75.0%", "SVM", "3 of 4 images", "dog is taken for cat: 1", "classes are even", "finished"):
        assert words in text, words
    for words in (
        "baseline without a network",
        "9 steps of 2 ms",
        "ahead of all",
        "data <b>photos</b>",
        "3.0 s</b> elap",
    ):
        assert words in text, words
    assert ">seeds</th>" not in text and "{&#39;steps" not in text
    home = page(browser, "/")
    assert "0.7500" in home and ">test: accuracy</a>" in home
    assert "0.7500</b> on the test split" in text and "0.7083" not in text, "the fit's network, not a later retraining"
    assert "test image 3" in text and "data:image/jpeg" not in text and "Nothing was learnt" not in text
    (tmp_path / "images" / "dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "dog" / "3.png")
    ids = np.array(["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"])
    np.savez(fit / "answers" / "w.npz", truth=np.array([0, 0, 1, 1]), probabilities=np.eye(2)[[0, 0, 1, 0]], ids=ids)
    lines[0]["inputs"] = {"source": str(tmp_path / "images")}
    inspection = {
        **{"images": 9, "classes": {"cat": 5, "dog": 4}, "unreadable": {"a.png": "cut off"}, "left_out": {}},
        **{"two_labels": [], "duplicates": [], "near_duplicates": [], "notes": ["hidden files are left out"]},
    }
    lines[1:1] = [{"kind": "inspected", "inspection": inspection, "at": 1.5, "used": 0.5}]
    twice = {"gain": 0.02, "low": 0.01, "high": 0.03}
    content |= {"nothing_learnt": True, "beaten_by": ["SVM"], "test_seen_before": True, "twice": twice}
    (fit / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(browser, "/photos")
    assert (
        "the network is ahead on the test split, with accuracy 0.7500 against 0.5000" in text
        and "Prefer it" not in text
    )
    content["rows"][1]["test"]["accuracy"] = 0.8
    (fit / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(browser, "/photos")
    for words in (
        *("dog/3.png", "data:image/jpeg", "Nothing was learnt: no network", "SVM is ahead of the network"),
        *("The test split was seen before", "about +2.0 % accuracy", "9 images of 2 classes: cat (5), dog (4)"),
        *("unreadable images, left out: 1, such as a.png: cut off", "hidden files are left out"),
    ):
        assert words in text, words


def test_the_headline_has_the_test_accuracy_of_the_sentence(tmp_path: Path) -> None:
    same_network = {0: 0.72, 6: 0.7}  # by another recipe
    tests = [
        TestOpened(f"{point(number).short_id}-seed0-e9", {"test/accuracy": value})
        for number, value in same_network.items()
    ]
    trials = [event for number in range(7) for event in trial(number)]
    write(tmp_path / "first", [header("first"), *trials, *tests])
    text = page(client(tmp_path), "/first")
    assert "The best network reaches 70.0% accuracy on the test split" in text
    assert "0.7000</b> on the test split" in text
    assert " interrupted</li>" not in text, "no trial is, and none runs"


def test_new_events_show_up_and_a_long_journal_is_read_in_pieces(made: Path) -> None:
    browser = client(made.parent)
    assert "0.8700" in page(browser, "/made/search")
    write(made, trial(9))
    assert "0.8900" in page(browser, "/made/search")
    long = write(made.parent / "long", [header("long"), *(e for n in range(60) for e in trial(n))])
    slow = client(long.parent, reading_s=0.0)
    text = page(slow, "/long/search")
    assert 'id="reading"' in text and ">stopped<" not in text and "interrupted" not in text
    for _ in range(20):
        text = page(slow, "/long/search")
    assert 'id="reading"' not in text and "60</b> finished" in text


def test_alphas_are_drawn(tmp_path: Path) -> None:
    from made_journal import SPACE

    from nasforge.core.events import Asked, Checked, Reported, Started
    from nasforge.core.trial import TrainShared

    reports = [
        Reported(
            0, 1, step, {"train/loss": 1.0, "alphas/skips": 0.3 * step}, "continue", {"model.block": (0.1 * step, 0.0)}
        )
        for step in (1, 2)
    ]
    shared = [Asked(0, TrainShared(SPACE, "softmax", 2)), Checked(0, {}, "accepted"), Started(0, 1), *reports]
    write(tmp_path / "darts", [dataclasses.replace(header("darts"), schema=2), *shared])
    text = page(client(tmp_path), "/darts/how")
    assert "Alphas of the supernet" in text and "inverted" in text
    assert "epoch 2: 60%" in text and "In 60% of the decisions the most likely network" in text


def test_a_policy_and_forecasts_are_drawn(tmp_path: Path) -> None:
    from nasforge.runners.local import run
    from nasforge.testing.toys import Planted, toy_config, toy_experiment

    for strategy, trials in (("ppo", 30), ("predictor", 30)):
        config = toy_config(tmp_path, strategy=strategy, name=strategy, budget={"trials": trials})
        with toy_experiment(config, sync=False) as experiment:
            run(experiment, Planted())
    browser = client(tmp_path)
    text = page(browser, "/ppo/how")
    assert "PPO takes the decisions one after the other" in text and text.count('class="band area s0"') == 5
    text = page(browser, "/ppo/how?decision=model.width")
    assert "<option selected>model.width" in text and text.count('class="band area s0"') == 1
    assert "Forecast against outcome" not in text
    text = page(browser, "/predictor/how")
    assert "Rank correlation" in text and "outcome as forecast" in text and "95%" in text and "Policy" not in text
    assert "The predictor expected it to beat" in page(browser, "/predictor/trial/29")
    assert "expected" not in page(browser, "/predictor/trial/0")
    assert "weights of the objectives" not in text
    config = toy_config(
        tmp_path, strategy="predictor", name="two", budget={"trials": 20}, objectives=["val/accuracy", "cost/flops"]
    )
    with toy_experiment(config, sync=False) as experiment:
        run(experiment, Planted())
    text = page(browser, "/two/how")
    assert "outcome as forecast" in text and "draws weights of the objectives" in text
    assert re.search(r"weighed: .* \d+%, .* \d+%\.", page(browser, "/two/trial/19"))
    old = tmp_path / "two" / JOURNAL
    lines = [json.loads(line) for line in old.read_text().splitlines()]
    for line in lines:
        line.get("proposal", {}).get("origin", {}).pop("forecast", None)
    old.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(browser, "/two/how")
    assert "holds no forecasts for several objectives" in text and "outcome as forecast" not in text
    old = tmp_path / "ppo" / JOURNAL
    lines = [json.loads(line) for line in old.read_text().splitlines()]
    for line in lines:
        line.get("proposal", {}).get("origin", {}).pop("policy", None)
    old.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(browser, "/ppo/how")
    assert "An earlier version of NASForge wrote this journal" in text and "band area" not in text


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_runs_folder_says_how_to_begin(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    assert "nasforge search tiny --data digits" in page(client(folder), "/")


def test_a_search_that_has_just_begun(tmp_path: Path) -> None:
    write(tmp_path / "young", [header("young")])
    for path in ("search", "trials", "importance", "how"):
        page(client(tmp_path), f"/young/{path}")


def test_a_broken_journal_is_said(made: Path) -> None:
    path = made / JOURNAL
    path.write_bytes(path.read_bytes() + b"no event\n")
    assert "this line is corrupt" in page(client(made.parent), "/made/search")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "..", "x" * 5000])
def test_a_damaged_search_is_one_row_and_the_others_stay(made: Path, name: str) -> None:
    folder = write(made.parent / "damaged", [header("damaged"), *trial(0)])
    opened = {"event": "test_opened", "finalist": name, "metrics": {"test/accuracy": 0.5}, "at": 1.0}
    with (folder / JOURNAL).open("a") as journal:
        journal.write(json.dumps(opened) + "\n")
    browser = client(made.parent)
    text = page(browser, "/")
    assert 'href="/made"' in text and 'href="/damaged"' in text and "0.8700" in text
    for address in ("/damaged", "/damaged/search"):
        assert ("this line is corrupt" in page(browser, address)) == (len(name) < 5000)


def test_names_that_no_address_can_hold_are_left_out(made: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write(made.parent / name, [header("cafe"), *trial(0)])
    for search in (name, "random-s0"):
        write(made.parent / "camp" / search, [header("random-s0"), *trial(0)])
    (made / "exported").mkdir()
    (made / "exported" / f"{name}.onnx").touch()
    browser = client(made.parent)
    text = page(browser, "/")
    assert 'href="/made"' in text and "caf" not in text
    assert "/camp:random-s0" in page(browser, "/camp") and "caf" not in page(browser, "/camp")
    assert "caf" not in page(browser, "/made")


@pytest.mark.parametrize("name", ["events", "static", "compare"])
def test_a_search_may_have_any_name(made: Path, name: str) -> None:
    write(made.parent / name, [header(name), *trial(0)])
    browser = client(made.parent)
    for address in (f"/{name}", f"/{name}/search", f"/{name}/trials"):
        assert f"<title>{name}" in page(browser, address)


def test_an_error_of_a_row_is_shown_in_the_row(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(view: library.View) -> dict[str, Any]:
        raise TypeError("a strange file")

    monkeypatch.setattr(library, "facts_of", damaged)
    assert "a strange file" in page(client(made.parent), "/")


def test_a_description_with_a_number_of_hundreds_of_digits(made: Path) -> None:
    name = "x-for-y"
    write(made, [TestOpened(name, {"test/accuracy": 0.5})])
    (made / "finalists" / name).mkdir(parents=True)
    (made / "finalists" / name / "network.json").write_text(json.dumps({"metrics": {"cost/params": 10**400}}))
    browser = client(made.parent)
    for address in ("/", "/made", "/made/search"):
        page(browser, address)


def test_other_names_of_the_host_and_unknown_addresses_are_refused(made: Path) -> None:
    assert TestClient(create_app(made.parent), base_url="http://evil.example").get("/").status_code == 421
    for address in ("/none", "/made/nothing", "/-/static/../app.py", "/%2e%2e/search"):
        assert client(made.parent).get(address).status_code == 404


@pytest.mark.parametrize(("host", "called"), [("LocalHost", "localhost"), ("127.0.0.1", "127.0.0.1"), ("0", None)])
def test_a_host_is_called_by_any_spelling_of_its_name(host: str, called: str | None) -> None:
    with launch.listen(0, host) as listening:
        names = launch._names_of(host, listening)
    assert called in names if called else names == ()


def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with raises(ConfigError, "failed", None, "127.0.0.1", "--port"):
            launch.listen(holder.getsockname()[1])


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with raises(ConfigError, "missing", None, "nasforge[dashboard]"):
        launch.launch(tmp_path)


def _served(runs_dir: Path) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    command = [sys.executable, "-m", "nasforge", "dashboard", "--runs-dir", str(runs_dir), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/favicon.ico").close()
            return server, address
        except OSError:
            assert server.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.2)


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_server_ends_while_a_page_listens_for_news(made: Path, ended_by: signal.Signals) -> None:
    server, address = _served(made.parent)
    try:
        with urllib.request.urlopen(f"{address}/-/events?of=made") as news:
            assert [news.readline() for _ in range(3)] == [b": here\n", b"\n", b"event: change\n"]
            server.send_signal(ended_by)
            assert server.wait(120) == 0
    finally:
        server.kill()
        server.wait()


def test_the_server_ends_while_a_page_is_drawn(made: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "drawing"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom nasforge.dashboards import launch, pages\n"
        f"def slow(view):\n    Path({str(drawing)!r}).touch()\n    time.sleep(600)\n"
        "pages.importance.importance_drawing = slow\n"
        "launch.launch(Path(sys.argv[1]), int(sys.argv[2]))\n"
    )
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", script, str(made.parent), str(port)])
    try:
        asked, end = None, time.monotonic() + 120
        while not drawing.exists():
            assert server.poll() is None and time.monotonic() < end, "the server did not draw"
            if asked is None:
                asked = socket.socket()
                if asked.connect_ex(("127.0.0.1", port)):
                    asked.close()
                    asked = None
                else:
                    asked.sendall(b"GET /made/importances HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_in_chromium_the_pages_draw_and_follow_the_journal(made: Path, tmp_path: Path) -> None:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    server, address = _served(made.parent)
    try:
        with chromium(program, f"{address}/made/search") as browser:
            browser.wait_for("document.querySelectorAll('figure.plot svg').length >= 3")
            browser.wait_for("document.body.innerText.includes('0.8700')")
            write(made, trial(9))
            browser.wait_for("document.body.innerText.includes('0.8900')")
            browser.click("Trials", "nav a")
            browser.wait_for("document.querySelectorAll('input[name=trials]').length == 10")
            browser.evaluate("document.getElementById('choose-6').click()")
            write(made, trial(10))
            browser.wait_for("!!document.getElementById('choose-10')")
            assert browser.evaluate("document.getElementById('choose-6').checked")
            browser.evaluate("document.getElementById('choose-7').click()")
            browser.click("Compare the chosen trials")
            browser.wait_for("location.href.endsWith('compare?trials=6,7')")
            browser.wait_for("document.body.innerText.includes('Not drawn')")
            for path in PAGES:
                browser.call("Page.navigate", url=f"{address}/made/{path}")
                browser.wait_for("document.readyState == 'complete' && !!document.querySelector('h1')")
                assert "Traceback" not in browser.text()
            browser.screenshot(tmp_path / "dashboard.png")
            assert (tmp_path / "dashboard.png").stat().st_size > 20_000
    finally:
        server.terminate()
        server.wait()


def test_the_result_shows_the_stored_explanations_and_serves_nothing_else(made: Path) -> None:
    browser = client(made.parent)
    assert "Where it looks" not in page(browser, "/made")
    folder = made / "explained" / "photo-1"
    folder.mkdir(parents=True)
    (made / "explained" / "secret.png").write_bytes(b"no picture of it")
    for name in ("input.png", "heat.png", "stage_1.png"):
        (folder / name).write_bytes(b"picture")
    content = {"image": "<cat>.jpg", "answer": "cat", "probability": 0.9, "explained": "cat", "truth": None}
    stages = [{"channels": 8, "height": 4, "width": 4, "picture": "stage_1.png"}, {"picture": "../secret.png"}, 3]
    content |= {"input": "input.png", "heat": "../secret.png/../../secret.png", "stages": stages}
    (folder / "explanation.json").write_text(json.dumps(content))
    text = page(browser, "/made")
    assert "Where it looks" in text and "&lt;cat&gt;.jpg" in text and "8 maps of 4 x 4" in text
    assert browser.get("/made/explained/photo-1/input.png").content == b"picture"
    assert browser.get("/made/explained/photo-1/input.png").headers["content-type"] == "image/png"
    for path in ("photo-1/explanation.json", "secret.png", "photo-1/heat.png", "photo-1/../secret.png"):
        assert browser.get(f"/made/explained/{path}").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"stages": 5},
        {"probability": "x"},
        {"probability": 10**400},
        {"probability": float("nan")},
        {"image": 5},
        {"truth": {}},
        *({"input": name, "heat": name} for name in ("a\0.png", "x" * 5000 + ".png", "\ud800.png", "../../../a.png")),
        {"stages": [{"channels": 8, "height": 4, "width": 4, "picture": "a\0.png"}, {"channels": 5}]},
    ],
    ids=lambda change: ascii(change)[:40],
)
def test_a_damaged_explanation_does_not_take_the_page_away(made: Path, change: dict[str, Any]) -> None:
    folder = made / "explained" / "photo-1"
    folder.mkdir(parents=True)
    content = {"image": "cat.jpg", "answer": "cat", "probability": 0.9, "explained": "cat", "input": "a.png"}
    content |= {"heat": "b.png", "stages": [], **change}
    (folder / "explanation.json").write_text(json.dumps(content))
    browser = client(made.parent)
    whole = "input" in change or isinstance(change.get("stages"), list)
    assert ("cat.jpg: cat" in page(browser, "/made")) == whole
    assert browser.get("/made/explained/photo-1/a.png").status_code == 404
