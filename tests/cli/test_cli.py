"""The command line: forms, JSON, errors, the live view."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli_toys
import pytest
import typer
from expecting import raises
from rich.console import Console
from waiting import wait_until

import nasforge.api.retrain
import nasforge.api.search
from nasforge import registry
from nasforge.cli import app as cli
from nasforge.cli.describe import decision_rows, sampled_costs
from nasforge.cli.live import Watch
from nasforge.cli.output import count_text
from nasforge.cli.settings import parse_value, settings_of
from nasforge.cli.summary import print_summary
from nasforge.core.errors import KINDS, ConfigError
from nasforge.core.events import Asked, Checked, Started, Told
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import Artifact, Measure, Result
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import load_space, resolve
from nasforge.testing.toys import Planted, toy_config, toy_experiment
from nasforge.views.results import remarks

COMMANDS = (
    "search",
    "show",
    "watch",
    "describe",
    "spaces",
    "strategies",
    "retrain",
    "export",
    "track",
    "dashboard",
    "compare",
    "tune",
    "calibrate",
    "inspect",
    "predict",
    "explain",
    "list",
    "report",
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli_toys.write_space(tmp_path)
    return tmp_path


def nasforge_(capfd, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


SEARCH = ("search", "nested.yaml", "--evaluator", "cli_toys:planted", "--runner", "local", "--tracking-uri", "none")


def parse(words):
    """Parse a command line as the real one would, without running it."""
    group = typer.main.get_command(cli.app)
    with group.make_context("nasforge", list(words)) as context:
        name, command, rest = group.resolve_command(context, list(words))
        command.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = nasforge_(capfd, command, "--help")
    assert code == 0
    examples = [line.strip() for line in out.splitlines() if line.strip().startswith(f"nasforge {command}")]
    assert examples, out
    for example in examples:
        parse([word.strip("'") for word in example.split()[1:]])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_are_sentences_that_the_terminal_wraps(command):
    described = typer.main.get_command(cli.app).commands[command]
    text, _, _ = described.help.partition("\n\n[bold]Examples")
    assert all(paragraph.endswith(".") and "\n" not in paragraph for paragraph in text.split("\n\n"))
    poor = [option.name for option in described.params if not (option.help or "").endswith(".")]
    assert not poor, "end each help with a full stop: " + ", ".join(poor)


def test_search_json_is_one_object_and_nothing_else(place, capfd):
    arguments = [*SEARCH, "--name", "first", "--max-trials", "6", "--epochs", "3", "--json"]
    arguments[arguments.index("cli_toys:planted")] = "cli_toys:Noisy"
    code, out, err = nasforge_(capfd, *arguments)
    assert code == 0
    printed = json.loads(out)
    assert printed["experiment"] == "first"
    assert printed["trials"]["finished"] + printed["trials"]["pruned"] == 6
    assert {"finished", "pruned", "failed", "rejected"} <= set(printed["trials"])
    best = printed["best"]
    state = load_state(place / "runs" / "first")
    assert best["arch_id"] == state.best.architecture.arch_id
    assert best["architecture"]["values"] == dict(state.best.architecture.values)
    assert best["metrics"]["val/accuracy"] == state.best.metrics["val/accuracy"]
    for noise in ("noise from Python", "noise from C", "noise from a child"):
        assert noise in err


def test_a_search_that_finds_nothing_does_not_exit_as_if_it_had(place, capfd):
    words = [*SEARCH, "--name", "broken", "--max-trials", "3", "--json"]
    code, out, _ = nasforge_(capfd, *words, "--set", "evaluator.fail=[0, 1, 2]")
    assert code == 1 and json.loads(out)["best"] is None and json.loads(out)["trials"]["failed"] == 3
    code, out, _ = nasforge_(capfd, "show", "broken")
    assert code == 0 and "planted failure" in out


def test_only_commands_that_work_are_named_as_next(place, capfd):
    _, out, _ = nasforge_(capfd, *SEARCH, "--name", "imaged", "--max-trials", "2", "--data", "digits")
    assert "nasforge retrain imaged" in out and "nasforge export" not in out


def test_search_prints_a_line_per_closed_trial_and_the_next_commands(place, capfd):
    code, out, err = nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "4", "--pruner", "none")
    assert code == 0
    assert len(re.findall(r"^\[\d/4\] trial \d+ +finished val/accuracy 0\.\d+", err, re.MULTILINE)) == 4
    assert "nasforge dashboard" in out
    assert "nasforge retrain" not in out and "nasforge export" not in out  # no images, no weights
    best = load_state(place / "runs" / "first").best
    assert best.architecture.arch_id in out and f"{best.metrics['val/accuracy']:.4f}" in out


def test_the_same_command_continues(place, capfd):
    nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "3")
    before = (place / "runs/first/journal.jsonl").read_text()
    code, out, err = nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "5", "--json")
    assert code == 0 and "Continuing 'first': 3 trials are done" in err
    assert sum(json.loads(out)["trials"].values()) == 5
    assert (place / "runs/first/journal.jsonl").read_text().startswith(before)


def test_several_objectives_show_the_front(place, capfd):
    objectives = ("--objective", "val/accuracy", "--objective", "min:cost/flops")
    code, out, _ = nasforge_(capfd, *SEARCH, "--name", "two", "--max-trials", "8", "--strategy", "nsga2", *objectives)
    assert code == 2  # the toy builds no network, so its costs cannot be an objective of the check
    objectives = ("--objective", "val/accuracy", "--objective", "min:work/multiply_adds")
    code, out, _ = nasforge_(capfd, *SEARCH, "--name", "two", "--max-trials", "8", "--strategy", "nsga2", *objectives)
    assert code == 0 and "Pareto front" in out
    code, out, _ = nasforge_(capfd, "show", "two", "--json")
    assert json.loads(out)["front"] == [trial.number for trial in load_state(place / "runs/two").front()]


def test_show_json_lists_the_trials_in_order(place, capfd):
    nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "8", "--epochs", "9", "--set", "evaluator.fail=[2, 4]")
    code, out, _ = nasforge_(capfd, "show", "first", "--json")
    printed = json.loads(out)
    assert code == 0 and [trial["number"] for trial in printed["trials"]] == list(range(8))
    assert {"number", "arch_id", "status", "metrics"} <= set(printed["trials"][0])
    assert [trial["status"] for trial in printed["trials"]].count("failed") == 2 == printed["counts"]["failed"]
    code, out, _ = nasforge_(capfd, "show", "first")
    assert "Failures" in out and "planted failure" in out and "traceback.txt" in out  # cause and advice
    assert "Budget" in out and "worker time" in out


def test_show_one_trial(place, capfd):
    nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "2", "--pruner", "none")
    code, out, _ = nasforge_(capfd, "show", "first", "--trial", "1", "--json")
    printed = json.loads(out)
    assert code == 0 and printed["number"] == 1 and [step["step"] for step in printed["steps"]] == [1, 2, 3]
    code, out, err = nasforge_(capfd, "show", "first", "--trial", "7")
    assert code == 2 and "no trial 7" in err and out == ""


def test_rerun_compares_and_its_exit_code_tells(place, capfd, monkeypatch):
    arguments = [*SEARCH, "--name", "first", "--max-trials", "4", "--epochs", "9"]
    arguments[arguments.index("cli_toys:planted")] = "cli_toys:shifting"
    nasforge_(capfd, *arguments)
    code, out, _ = nasforge_(capfd, "show", "first", "--trial", "3", "--rerun")
    assert code == 0 and "equal to the last bit" in out
    monkeypatch.setattr(cli_toys, "SHIFT", 1e-9)
    code, out, _ = nasforge_(capfd, "show", "first", "--trial", "3", "--rerun", "--json")
    printed = json.loads(out)["rerun"]
    assert code == 1 and printed["equal"] is False and any("val/accuracy" in key for key in printed["differing"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "nowhere", "--data", "digits"), "no search space 'nowhere'"),
        (("search", "nested.yaml", "--data", "digit"), "did you mean 'digits'"),
        (("search",), "no search space"),
        (("search", "nested.yaml", "--images", "100"), "no data"),
        (("search", "tiny", "--data", "digits", "--objective", "val/acuracy"), "did you mean 'val/accuracy'"),
        ((*SEARCH, "--constraint", "flops<40M"), "flops<=40M"),
        ((*SEARCH, "--strategy", "evolutoin"), "did you mean 'evolution'"),
        ((*SEARCH, "--set", "strategy.populatoin=3"), "did you mean 'population'"),
        ((*SEARCH, "--set", "stratgy.population=3"), "did you mean 'strategy'"),
        ((*SEARCH, "--set", "population"), "must look like"),
        ((*SEARCH, "--name", "../x"), "letters"),
        ((*SEARCH, "--max-trials", "0"), "above 0"),
        ((*SEARCH, "--max-trials", "many"), "max-trials"),
        ((*SEARCH, "--max-trails", "4"), "max-trials"),
        (("show", "../x"), "no experiment '../x'"),
        (("show", "frist"), "no experiment 'frist'"),
        (("show", "first", "--rerun"), "no experiment"),
        (("describe", "tiny", "--shape", "32"), "3x32x32"),
        (("describe", "tiny", "--point", "nothing.json"), "no such file"),
        (("serach",), "serach"),
    ],
)
def test_mistakes_give_one_message_and_code_2(place, capfd, arguments, message):
    for words in (arguments, (*arguments, "--json")):
        code, out, err = nasforge_(capfd, *words)
        assert code == 2
        assert message in " ".join(err.split()) and "Traceback" not in err
        if words is arguments:
            assert out == ""
        else:
            answer = json.loads(out)
            assert message in answer["error"] and answer["kind"] in KINDS and "key" in answer
    assert not (place / "runs").exists() or arguments[0] != "search"


def test_json_lists_every_mistake_of_a_file(place, capfd):
    (place / "two.yaml").write_text("space: tiny\ndata: digits\nbudgett: {trials: 2}\nstrategyy: random\n")
    code, out, _ = nasforge_(capfd, "search", "--config", "two.yaml", "--json")
    answer = json.loads(out)
    assert (code, answer["kind"], answer["key"]) == (2, *(answer["problems"][0][name] for name in ("kind", "key")))
    assert {(problem["kind"], problem["key"]) for problem in answer["problems"]} == {
        ("unknown", "budgett"),
        ("unknown", "strategyy"),
    }
    assert all(problem["error"] in answer["error"] for problem in answer["problems"])


def test_an_option_of_another_runner_is_refused(place, capfd):
    code, _, err = nasforge_(capfd, *SEARCH, "--address", "auto")
    assert code == 2 and "runner 'local' has no option 'address'" in err


def test_a_missing_experiment_is_compared_with_those_that_are_there(place, capfd):
    nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "1")
    _, _, err = nasforge_(capfd, "show", "frist")
    assert "did you mean 'first'" in err


def test_stop_gives_130_and_the_command_that_continues(place, capfd, monkeypatch):
    def stopped(*args, **kwargs):
        raise nasforge.api.search.StopNow("stopped at once; the same command continues")

    monkeypatch.setattr(nasforge.api.search, "search", stopped)
    code, _, err = nasforge_(capfd, *SEARCH, "--set", "recipe.optimizer=adamw")
    assert code == 130 and "nasforge search nested.yaml" in err and "recipe.optimizer=adamw" in err


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_retraining_that_is_stopped_says_by_which_command_it_continues(place, capfd, monkeypatch, number):
    def stopped(*args, **kwargs):
        os.kill(os.getpid(), number)
        time.sleep(1)

    nasforge_(capfd, *SEARCH, "--name", "first", "--max-trials", "1")
    monkeypatch.setattr(nasforge.api.retrain, "retrain", stopped)
    code, _, err = nasforge_(capfd, "retrain", "first", "--seeds", "3")
    assert code == 130 and "the same command continues: nasforge retrain first --seeds 3" in err
    code, out, _ = nasforge_(capfd, "retrain", "first", "--json")
    assert code == 130 and "continues: nasforge retrain" in json.loads(out)["error"]


def test_a_command_that_has_nothing_to_continue_only_stops(place, capfd, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("nasforge.cli.spaces.shipped_spaces", stopped)
    code, _, err = nasforge_(capfd, "spaces")
    assert code == 130 and err.strip() == "stopped"


def test_sigterm_stops_a_real_search_which_then_continues(place):
    words = [*SEARCH, "--name", "first", "--max-trials", "5", "--set", "evaluator.gate=gate", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli_toys.__file__).parent)}
    command = [sys.executable, "-m", "nasforge", *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        journal = place / "runs/first/journal.jsonl"
        wait_until(lambda: journal.exists() and '"started"' in journal.read_text(), "a trial")
        driver.send_signal(signal.SIGTERM)
        out, err = driver.communicate(timeout=200)
    assert driver.returncode == 130, err
    assert "error" in json.loads(out)
    (place / "gate").touch()
    done = subprocess.run(command, env=environment, capture_output=True, timeout=200)
    assert done.returncode == 0 and sum(json.loads(done.stdout)["trials"].values()) == 5, done.stderr


def config_of(**options):
    return resolve(*settings_of(**options))


def test_set_goes_over_the_options_and_over_a_file(place):
    (place / "experiment.yaml").write_text(
        "space: nested.yaml\nstrategy: {name: evolution, population: 8, sample: 3}\nbudget: {trials: 7}\n"
        "data: digits\nladder: [{epochs: 2}, {epochs: 4}]\n"
    )
    options = {"space": None, "file": place / "experiment.yaml"}
    config = config_of(**options, assignments=["strategy.population=20", "runner.resources.measure.gpu=0.25"])
    assert config.strategy.options == {"population": 20, "sample": 3}
    assert config.runner.options == {"resources": {"measure": {"gpu": 0.25}}}
    assert config.budget.trials == 7 and [rung.epochs for rung in config.ladder] == [2, 4]
    over = config_of(
        **options,
        data={"images": 500},
        budget={"trials": 3},
        assignments=["recipe.optimizer=adamw"],
        epochs=1,
        seed=4,
    )
    assert over.budget.trials == 3 and over.ladder[-1].epochs == 1 and over.seed == 4
    assert over.data.source == "digits" and over.data.images == 500 and over.recipe == {"optimizer": "adamw"}


def test_paths_become_absolute_and_names_stay(place):
    (place / "photos").mkdir()
    assert config_of(space="tiny", data={"source": "photos/"}).data.source == str(place / "photos")
    assert config_of(space="tiny", data={"source": "set.npz"}).data.source == str(place / "set.npz")
    config = config_of(space="tiny", data={"source": "FashionMNIST", "folder": "./downloads"})
    assert config.data.source == "FashionMNIST" and config.data.folder == str(place / "downloads")
    assert config.runs_dir == place / "runs"


@pytest.mark.parametrize(
    ("text", "value"),
    [("20", 20), ("1e-3", 1e-3), ("true", True), ("null", None), ("adamw", "adamw"), ("[1, 2]", [1, 2]), ("", "")],
)
def test_values_are_json_or_texts(text, value):
    assert parse_value(text) == value


def test_an_assignment_needs_a_key(place):
    with raises(ConfigError, "type", "set", "strategy.=3"):
        config_of(space="tiny", assignments=["strategy.=3"])


def test_describe_counts_and_costs(place, capfd):
    code, out, _ = nasforge_(capfd, "describe", "tiny", "--shape", "1x8x8", "--json")
    printed = json.loads(out)
    assert code == 0 and printed["points"] is None and printed["networks"] > 1e4
    costs = printed["costs"]
    assert costs["smallest"]["cost/params"] < costs["default"]["cost/params"] < costs["largest"]["cost/params"]
    _, out, _ = nasforge_(capfd, "describe", "tiny", "--shape", "1x8x8")
    assert "model.stage{0..1}.layer{1..2}.block" in out and "bottleneck" in out


def test_describe_counts_recipes_that_cannot_be_with_networks_that_cannot(monkeypatch):
    monkeypatch.setattr("nasforge.cli.describe.SAMPLES", 8)
    averages = SearchSpace(
        "averages", tuple(Decision(f"train.{name}", Choice((0.0, 0.9))) for name in ("ema_decay", "swa_share"))
    )
    costs, broken = sampled_costs(load_space("tiny").with_recipe(averages), (1, 8, 8), 10, 0)
    assert costs and broken and len(costs) + len(broken) == 8
    assert all("one average is kept" in why for why in broken)


def test_describe_shows_the_default_of_every_decision():
    shown = {row["decision"]: row["default"] for row in decision_rows(load_space("mobile"))}
    assert all(part for default in shown.values() for part in default.split(", "))
    assert shown["model.stage0.width"] == "16" and shown["train.weight_decay"] == "0.0001"


def test_describe_a_point_takes_what_it_gives(place, capfd):
    _, out, _ = nasforge_(capfd, "describe", "tiny", "--shape", "1x8x8", "--point", "random", "--seed", "3", "--json")
    printed = json.loads(out)
    assert sum(row["params"] for row in printed["network"]) == printed["costs"]["cost/params"]
    assert sum(row["flops"] for row in printed["network"]) == printed["costs"]["cost/flops"]
    (place / "point.json").write_text(json.dumps(printed["architecture"]["values"]))
    (place / "wrapped.json").write_text(json.dumps(printed["architecture"]))
    for file in ("point.json", "wrapped.json"):
        _, again, _ = nasforge_(capfd, "describe", "tiny", "--shape", "1x8x8", "--point", file, "--json")
        assert json.loads(again)["arch_id"] == printed["arch_id"]
    (place / "point.json").write_text(json.dumps({**printed["architecture"]["values"], "model.stage0.width": 13}))
    code, _, err = nasforge_(capfd, "describe", "tiny", "--point", "point.json")
    assert code == 2 and "stage0.width" in err and "13" in err


def test_spaces_and_strategies_list_the_registry(capfd):
    _, out, _ = nasforge_(capfd, "spaces", "--json")
    assert {"tiny", "blocks", "mobile"} <= {row["name"] for row in json.loads(out)["spaces"]}
    _, out, _ = nasforge_(capfd, "strategies", "--json")
    printed = json.loads(out)
    assert {row["name"] for row in printed["strategies"]} == set(registry.names("strategy"))
    assert "population" in next(row for row in printed["strategies"] if row["name"] == "evolution")["options"]
    filled_in = {"space", "seed", "objectives", "targets", "ladder"}
    assert all(filled_in.isdisjoint(row["options"]) for row in printed["strategies"])
    joint = next(row for row in printed["strategies"] if row["name"] == "joint")
    table = next(row for row in printed["evaluators"] if row["name"] == "lookup_table")
    assert {"model", "recipe"} <= joint["options"].keys() and "path" in table["options"]
    _, out, _ = nasforge_(capfd, "strategies")
    assert "elitist=true" in out and "sample=-" in out and "True" not in out and "None" not in out


def test_the_live_view_shows_trials_budget_and_the_best(tmp_path):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140, height=40)
    watch = Watch(console)
    config = toy_config(tmp_path, budget={"trials": 3, "worker_seconds": 1e6})
    with watch.shown(), toy_experiment(config, trackers=[watch]) as experiment:
        watch.on_open(experiment)
        registry.make("runner", "local", {}, experiment, Planted())
    drawn = screen.getvalue()
    best = experiment.state.best
    assert f"Best val/accuracy (max): {best.metrics['val/accuracy']:.4f} (trial {best.number})" in drawn
    assert "3 of 3" in drawn and "3 finished" in drawn and "worker time" in drawn


@pytest.mark.slow
def test_from_search_to_file(place, capfd):
    """The whole way on a few real images: search, retrain, export, track, repeat."""
    common = ("--name", "way", "--runner", "local", "--max-trials", "2", "--epochs", "1", "--json")
    code, out, _ = nasforge_(capfd, "search", "tiny", "--data", "digits", "--images", "300", *common)
    assert code == 0 and json.loads(out)["best"]["metrics"]["cost/flops"] > 0
    code, out, _ = nasforge_(capfd, "retrain", "way", "--seeds", "1", "--epochs", "1", "--json")
    (finalist,) = json.loads(out)["finalists"]
    assert code == 0 and 0 < finalist["retrained"]["test"]["test/accuracy"]["mean"] <= 1
    code, out, _ = nasforge_(capfd, "export", "way", "--to", "safetensors", "--out", "shipped", "--json")
    printed = json.loads(out)
    assert (
        code == 0 and Path(printed["files"]["safetensors"]).exists() and Path(printed["card"]).parent == Path("shipped")
    )
    code, out, _ = nasforge_(capfd, "track", "way")
    assert code == 0 and "nasforge mlflow way" in out and Path("runs/mlflow.db").is_file()
    code, out, _ = nasforge_(capfd, "show", "way", "--trial", "0", "--rerun")
    assert code == 0 and "equal to the last bit" in out
    code, out, _ = nasforge_(capfd, "show", "way")
    assert "Met the sealed test split" in out


@pytest.mark.parametrize("epochs", [0, 3])
def test_networks_that_were_measured_on_a_supernet_alone_are_said_to_be(tmp_path, capfd, epochs):
    with toy_experiment(toy_config(tmp_path)) as experiment:
        state = experiment.state
    point = load_space(cli_toys.write_space(tmp_path)).default_point()
    measure = Measure(point, weights=Artifact("artifacts/0/weights.safetensors", "", 0))
    told = Told(0, Result("finished", {"val/accuracy": 0.5}, (0.5,), epochs))
    for event in (Asked(0, measure), Checked(0, {}, "accepted"), Started(0, 1), told):
        state.apply(event)
    print_summary(state, remarks=remarks(state))
    assert ("no network has been trained from scratch" in capfd.readouterr().out) == (epochs == 0)


def test_targets_that_nothing_meets_are_said(place, capfd):
    Path("t.yaml").write_text("name: t\ndecisions: {model: {width: [8, 16]}}\n")
    Path("t.csv").write_text("width,accuracy,size\n8,0.5,2000\n16,0.75,5000\n")
    table = [f"evaluator.{option}" for option in ("path=t.csv", "signal=accuracy", "costs.params=size")]
    options = [word for option in table for word in ("--set", option)]
    search = (
        "search",
        "t.yaml",
        "--evaluator",
        "lookup_table",
        "--runner",
        "local",
        "--tracking-uri",
        "none",
        *options,
    )
    two = (*search, "--max-trials", 2)
    code, out, _ = nasforge_(capfd, *two, "--name", "small", "--target", "params<=1k")
    assert code == 0 and "No trial meets params<=1k: the best has params 5k" in " ".join(out.split())
    code, out, _ = nasforge_(capfd, "show", "small", "--json")
    assert (json.loads(out)["targets"], json.loads(out)["targets_met"]) == (["params<=1000"], False)
    code, out, _ = nasforge_(capfd, *two, "--name", "large", "--target", "params<=3k")
    assert code == 0 and "No trial meets" not in out
    code, out, _ = nasforge_(capfd, "show", "large", "--json")
    assert json.loads(out)["targets_met"] is True and json.loads(out)["best"]["metrics"]["cost/params"] == 2000


def test_counts_have_the_unit_that_they_round_to() -> None:
    counts = (999.7, 1000, 351_912, 999_940, 999_960, 40e6, 999_960_000, 1.5e12)
    assert [count_text(count) for count in counts] == [
        "999.7",
        "1.0k",
        "351.9k",
        "999.9k",
        "1.0M",
        "40.0M",
        "1.0G",
        "1.5T",
    ]
