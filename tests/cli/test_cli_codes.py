"""What a journal says is shown, not interpreted: neither by rich nor by the terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from nasforge.cli import app as cli
from nasforge.cli import output
from nasforge.runners import local
from nasforge.testing.toys import Planted, toy_config, toy_experiment

CODES = "\x1b]0;title\x1b\\\x1b[2J\x9b2J"


class Noisy(Planted):
    def __call__(self, proposal, report):
        if report.number == 0:
            raise RuntimeError(f"boom {CODES}[/b]")
        return super().__call__(proposal, report)

    def metrics_of(self, values, seed, step):
        return {**super().metrics_of(values, seed, step), "val/iou[cat]": 0.25, "val/iou[/b]": 0.75, f"val/x{CODES}": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with toy_experiment(toy_config(folder, name="noisy", budget={"trials": 3}), sync=False) as experiment:
        local.run(experiment, Noisy())
    return folder


@pytest.mark.parametrize("words", [(), ("--trial", "0"), ("--trial", "1"), ("--trial", "0", "--log")])
def test_names_and_messages_are_shown_as_they_are_without_codes(runs, capfd, words):
    assert cli.main(["show", "noisy", *words, "--runs-dir", str(runs)]) == 0
    printed = "".join(capfd.readouterr())
    assert "\x1b" not in printed and "\x9b" not in printed
    assert "boom" not in printed or "[/b]" in printed
    if words == ("--trial", "1"):
        assert "val/iou[cat]" in printed and "val/iou[/b]" in printed


def test_the_console_keeps_its_colours():
    written = io.StringIO()
    table = Table(title="[red]a title")
    table.add_column(f"a[b]{CODES}")
    output._Plain(file=written, force_terminal=True, color_system="standard").print(table, style="bold")
    shown = written.getvalue()
    assert "[red]a title" in shown and "a[b]]0;title" in shown and "\x1b[1m" in shown
    assert "\x1b]" not in shown and "\x1b[2J" not in shown
