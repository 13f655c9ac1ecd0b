"""What `nasforge retrain` prints, and the options that its search and it refuse."""

from dataclasses import replace

import pytest

from nasforge.api.retrain.verdict import Ensemble, Finalist, Retrained, judged, spread
from nasforge.cli import retrain as cli_retrain
from nasforge.cli.app import main
from nasforge.cli.settings import runner_and_recipe
from nasforge.core.architecture import Architecture
from nasforge.core.goals import Objective

COSTS = {"cost/params": 1200.0, "cost/flops": 34000.0}


def retrained(name, *accuracies):
    test = {key: spread(accuracies) for key in ("test/accuracy", "test/f1_macro", "test_flip/accuracy")}
    return Retrained(name, tuple(f"{name}-seed{i}" for i in range(len(accuracies))), COSTS, test)


def finalist(rank, merit, *accuracies, reference=None):
    return Finalist(rank, rank, Architecture({}), 6, {}, merit, retrained(f"net{rank}", *accuracies), reference)


def test_the_table_and_what_it_means(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    top = [
        finalist(n, 1 - n / 10, 0.96 - n / 100, 0.97 - n / 100, reference=retrained("ResNet-8", 0.93, 0.94))
        for n in (1, 2)
    ]
    drawn = [finalist(5, 0.3, 0.80, 0.82), finalist(7, 0.1, 0.70, 0.74)]
    whole = Ensemble(
        "ensemble-of-2-x", ("a", "b"), {"cost/params": 2400.0, "cost/flops": 68000.0}, {"test/accuracy": 0.99}
    )
    cli_retrain._print(judged(top, drawn, whole))
    printed = capsys.readouterr().out
    assert "6 epochs on train + validation" in printed
    assert "0.9550 \u00b1 0.0635" in printed  # t of one degree of freedom, 12.7062, times 0.005
    for text in ("found", "reference", "random", "ensemble", "of 2", "0.9900", "2.4k", "68.0k", "test_flip/accuracy"):
        assert text in printed, text
    assert "Gain over the random networks: +0.1850 (95 % interval" in printed and "2 against 2 networks" in printed
    assert (
        "Gain over the reference ResNets: +0.0150" in printed
        and "2 networks, each against its own reference)" in printed
    )
    assert "Kendall's tau +1.00 (p = 0.083, n = 4); too few networks" in printed


def test_one_seed_has_no_interval(capsys):
    cli_retrain._print(judged([finalist(1, 0.9, 0.95, reference=retrained("ResNet-8", 0.93))], [], None))
    printed = capsys.readouterr().out
    assert "(one seed)" in printed and "too few for an interval" in printed
    assert "Kendall" not in printed and "random networks" not in printed


def test_equal_seeds_have_no_interval(capsys):
    cli_retrain._print(judged([finalist(1, 0.9, 0.95, 0.95, reference=retrained("ResNet-8", 0.93, 0.93))], [], None))
    printed = " ".join(capsys.readouterr().out.split())
    assert "+0.0200 (2 against 2 seeds: no interval, since they are all equal on either side)" in printed


def test_the_figure_of_the_searchs_objective_has_a_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    test = {"test/accuracy": spread([0.9]), "test/f1_macro": spread([0.8]), "test/roc_auc": spread([0.987])}
    top = [Finalist(1, 1, Architecture({}), 6, {}, 0.9, Retrained("net", ("net-seed0",), COSTS, test))]
    cli_retrain._print(judged(top, [*top], None, Objective("val/roc_auc", maximise=True)))
    printed = capsys.readouterr().out
    assert "test/roc_auc" in printed and "0.9870" in printed
    assert "Gain over the random networks in test/roc_auc: +0.0000 (1 against 1 seeds: too few" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "tiny", "--data", "digits", "--cv", "3", "--evaluator", "training"), "leave one out"),
        (("search", "tiny", "--data", "digits", "--cv", "1"), "folds must be a whole number of at least 2"),
    ],
)
def test_folds_that_cannot_be(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_only_the_runner_and_the_recipe_have_options_in_retrain(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "journal.jsonl").write_text("")
    assert main(["retrain", "first", "--set", "strategy.population=3"]) == 2
    assert "only the runner and the recipe have options here" in capsys.readouterr().err


def test_settings_of_the_recipe_are_set_and_named_in_the_title(capsys, monkeypatch):
    runner, recipe = runner_and_recipe("local", {"address": None}, ["recipe.cutout_pixels=8", "recipe.flip=true"])
    assert runner == {"name": "local", "options": {}}
    assert recipe == {"cutout_pixels": 8, "flip": True}
    monkeypatch.setenv("COLUMNS", "200")
    cli_retrain._print(judged([replace(finalist(1, 0.9, 0.95, 0.96), recipe=recipe)], [], None))
    assert "6 epochs on train + validation with cutout_pixels 8, flip True;" in capsys.readouterr().out
