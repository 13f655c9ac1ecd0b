"""`nasforge compare` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_toys import write_space

from nasforge.cli import app as cli

CAMPAIGN = (
    *("compare", "--space", "nested.yaml", "--evaluator", "compare_toys:Table", "--epochs", "1", "--seeds", "2"),
    *("--max-trials", "6", "--name", "camp", "--tracking-uri", "none"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setattr("nasforge.views.comparison_page.write_picture", lambda comparison, path: None)
    write_space(tmp_path)
    return tmp_path


def nasforge(capfd: Any, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def test_campaign_then_a_second_look(place: Path, capfd: Any) -> None:
    code, out, err = nasforge(capfd, *CAMPAIGN, "--strategies", "evolution(sample=3)")
    assert code == 0, err
    assert "evolution(sample=3)" in out and "random" in out and "mean − 2 SE" in out
    assert "at 6 charged trials" in out and "to the optimum of the signal (0.75)" in out
    assert "with fewer than 5 seeds" in out and "comparison.html, comparison.json" in out
    assert "4 of 4 searches done" in err
    code, out, err = nasforge(capfd, "compare", "camp", "--at", "3,6", "--axis", "trials", "--tracking-uri", "none")
    assert code == 0 and "at 3 charged trials" in out and "at 6 charged trials" in out, err
    assert not (place / "runs" / "comparison").exists(), "a campaign's second look stays in its folder"


def test_an_earlier_picture_does_not_stay_beside_new_figures(place: Path, capfd: Any) -> None:
    arguments = ("--strategies", "random", "--tracking-uri", "none")
    assert nasforge(capfd, *CAMPAIGN, *arguments)[0] == 0
    picture = place / "runs" / "camp" / "comparison.png"
    for again in ((*CAMPAIGN, *arguments), ("compare", "camp", "--tracking-uri", "none")):
        picture.write_text("of another comparison")
        assert nasforge(capfd, *again)[0] == 0 and not picture.exists()  # nothing draws in these tests


def test_json_is_one_object(place: Path, capfd: Any) -> None:
    code, out, _ = nasforge(capfd, *CAMPAIGN, "--strategies", "random", "--json")
    printed = json.loads(out)
    assert code == 0 and printed["strategies"]["random"]["seeds"] == [0, 1]
    assert printed["folder"] == str(place / "runs" / "camp")
    row = printed["rows"][0]
    assert row["summary"]["n"] == 2 and len(row["values"]) == 2 and row["against_random"] is None


def test_settings_from_a_file_and_options_over_it(place: Path, capfd: Any) -> None:
    (place / "table.yaml").write_text(
        "name: one\nspace: nested.yaml\nstrategy: evolution\nseed: 4\nbudget: {trials: 50}\nepochs: 1\n"
        "evaluator: {name: compare_toys:Table, shift: 0.5}\ntracking_uri: none\n"
    )
    code, out, err = nasforge(
        capfd, *("compare", "--config", "table.yaml", "--strategies", "random", "--seeds", "1", "--max-trials", "4"),
        *("--name", "filed", "--tracking-uri", "none", "--json"),
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["end"] == 4 and (place / "runs" / "filed" / "random-s0" / "journal.jsonl").is_file()


def test_a_budget_of_seconds_is_compared_over_seconds(place: Path, capfd: Any) -> None:
    arguments = [word for word in CAMPAIGN if word not in ("--max-trials", "6")]
    code, out, err = nasforge(
        capfd, *arguments, "--strategies", "evolution", "--max-worker-seconds", "0.05", "--axis", "worker_seconds"
    )
    assert code == 0, err
    assert "at 0.05 s of charged worker time" in out


def test_a_dead_server_loses_nothing(place: Path, capfd: Any) -> None:
    arguments = [word if word != "none" else "http://127.0.0.1:9" for word in CAMPAIGN]
    code, out, err = nasforge(capfd, *arguments, "--strategies", "random")
    assert code == 0 and "takes nothing" in err and "nasforge track camp" in "".join(err.splitlines())
    assert (place / "runs" / "camp" / "comparison.json").is_file() and "val/accuracy" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "compare: no experiments"),
        (["compare", "nothing"], "no experiment 'nothing'"),
        (["compare", "x", "--seeds", "3"], "seeds: only for a campaign"),
        ([*CAMPAIGN, "--strategies", "evolutoin"], "did you mean 'evolution'"),
        ([*CAMPAIGN, "--strategies", "evolution", "--set", "strategy.sample=3"], "beside the name"),
        ([*CAMPAIGN, "--strategies", "evolution", "--at", "x"], "--at 'x'"),
        ([*CAMPAIGN, "--strategies", "evolution", "--at", "3,7"], "--at 7: "),
        ([*CAMPAIGN, "--strategies", "evolution", "--set", "runner.max_concurrent_trials=2"], "runner 'local' has no"),
        ([*CAMPAIGN, "--strategies", "evolution", "--seeds", "0"], "--seeds must be a whole number from 1 to 100000"),
        ([*CAMPAIGN, "--strategies", "evolution", "--workers", "0"], "--workers"),
        (["compare", "--strategies", "random"], "no search space"),
    ],
)
def test_mistakes_are_one_clear_error(place: Path, capfd: Any, arguments: list[str], message: str) -> None:
    code, out, err = nasforge(capfd, *arguments)
    assert code == 2 and message in err and "Traceback" not in err and out == ""
    assert not (place / "runs" / "camp").exists()


def test_show_lists_the_searches_of_a_campaign(place: Path, capfd: Any) -> None:
    assert nasforge(capfd, *CAMPAIGN, "--strategies", "evolution")[0] == 0
    code, out, _ = nasforge(capfd, "show", "camp")
    assert code == 0 and "a campaign of 4 searches" in out and "evolution-s1" in out and "max:val/accuracy" in out
    assert "nasforge compare camp" in out
    assert f"nasforge show evolution-s0 --runs-dir {place / 'runs' / 'camp'}" in out
    printed = json.loads(nasforge(capfd, "show", "camp", "--json")[1])
    assert [search["experiment"] for search in printed["searches"]] == [
        *("evolution-s0", "evolution-s1", "random-s0", "random-s1")
    ]
    aims = ("--evaluator", "cli_toys:planted", "--runner", "local", "--max-trials", "2", "--tracking-uri", "none")
    other = ("search", "nested.yaml", *aims, "--objective", "min:time/worker_s", "--runs-dir", str(place / "runs/camp"))
    assert nasforge(capfd, *other, "--name", "fast")[0] == 0
    rows = {line.split()[1]: line for line in nasforge(capfd, "show", "camp")[1].splitlines() if "│" in line}
    assert "min:time/worker_s" in rows["fast"] and "max:val/accuracy" in rows["random-s1"], "a metric for each number"
    (place / "runs" / "camp" / "random-s0" / "journal.jsonl").write_text("nonsense\n")
    code, out, _ = nasforge(capfd, "show", "camp")
    assert code == 0 and "cannot be read" in out, "a broken search is one bad row"
    for words in (["show", "camp", "--trial", "1"], ["show", "camp", "--importance"], ["export", "camp"]):
        code, _, err = nasforge(capfd, *words)
        assert code == 2 and "'camp' is a campaign of 5 searches" in err
        assert f"--runs-dir {place / 'runs' / 'camp'}" in err
    code, _, err = nasforge(capfd, "show", "cmap")
    assert code == 2 and "did you mean 'camp'" in err


@pytest.mark.parametrize("number", [10**9, 10**30])
def test_more_seeds_than_fit_into_memory_are_refused(place: Path, capfd: Any, number: int) -> None:
    code, out, _ = nasforge(capfd, *CAMPAIGN, "--strategies", "random", "--seeds", str(number), "--json")
    assert code == 2 and json.loads(out)["key"] == "seeds"


def test_a_file_in_the_place_of_a_folder_is_one_sentence(place: Path, capfd: Any) -> None:
    assert nasforge(capfd, *CAMPAIGN, "--strategies", "random")[0] == 0
    (place / "runs" / "taken").write_text("mine")
    (place / "runs" / "camp" / "comparison.json").unlink()
    (place / "runs" / "camp" / "comparison.json").mkdir()
    for names in (("camp/random-s0", "camp/random-s1", "--name", "taken"), ("camp",)):
        code, out, err = nasforge(capfd, "compare", *names, "--tracking-uri", "none", "--json")
        assert code == 2 and json.loads(out)["kind"] == "conflict" and "Traceback" not in err
    assert (place / "runs" / "taken").read_text() == "mine"
