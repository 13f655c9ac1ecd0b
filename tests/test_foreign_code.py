"""Network folders and runs folders of somebody else's run no code of theirs, whatever command meets them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from expecting import raises

import nasforge
from nasforge.cli import app as cli
from nasforge.core import importing, trust
from nasforge.core.architecture import Architecture
from nasforge.core.errors import TrustError
from nasforge.core.layout import DESCRIPTION
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.models.ensemble import ensemble_space

BUILDER = """
from torch import nn


class Block(nn.Sequential):
    def __init__(self, in_channels, out_channels, stride=1, *, activation):
        super().__init__(nn.Conv2d(in_channels, out_channels, 3, stride, 1), activation())


def build(pick, *, in_channels, classes):
    width = pick.width("width")
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def canonical(model):
    return str(sorted(model.items()))
"""
SPACE = """\
name: mine
builder: foreign_builder:build
decisions: {model: {width: [4, 8]}}
defaults: {train: {batch_size: 64}}
"""
SEARCH = ["--data", "digits", "--max-trials", "1", "--epochs", "1", "--runner", "local"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with `space.yaml`, `foreign_builder.py`, and `runs/first`, searched there."""
    project = tmp_path_factory.mktemp("project")
    (project / "foreign_builder.py").write_text(BUILDER)
    (project / "space.yaml").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv(trust.STATE_DIR, str(project / "state"))
        assert cli.main(["search", "space.yaml", *SEARCH, "--name", "first", "--tracking-uri", "none"]) == 0
    return project


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """Whatever was imported and remembered in this process before is forgotten."""
    forget_imports(monkeypatch)


def forget_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in importing._ADDED])
    for name in ("_BESIDE", "_ELSEWHERE", "_ADDED"):
        monkeypatch.setattr(importing, name, type(getattr(importing, name))())
    for name in ("foreign_builder", "payload"):
        sys.modules.pop(name, None)


@pytest.fixture
def received(searched, tmp_path, monkeypatch):
    """A copy of the runs folder on another machine, with the module in the working folder; nothing was agreed to."""
    shutil.copytree(searched / "runs", tmp_path / "runs")
    shutil.copy(searched / "foreign_builder.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(trust.STATE_DIR, str(tmp_path / "state"))
    return tmp_path / "runs"


def with_header(runs: Path, change) -> None:
    """Rewrite the configuration in the journal of `first`, as whoever sends it may have done."""
    journal = runs / "first" / "journal.jsonl"
    first, rest = journal.read_text().split("\n", 1)
    header = json.loads(first)
    change(header["config"])
    journal.write_text(json.dumps(header) + "\n" + rest)


def with_description(folder: Path, change) -> None:
    content = json.loads((folder / DESCRIPTION).read_text())
    change(content["space"])
    (folder / DESCRIPTION).write_text(json.dumps(content))


def test_ones_own_search_is_consent(searched, monkeypatch, capsys):
    monkeypatch.setenv(trust.STATE_DIR, str(searched / "state"))
    for folder in (searched, searched.parent):  # also typed in a folder where the module does not lie
        sys.modules.pop("foreign_builder", None)
        monkeypatch.chdir(folder)
        assert nasforge.load(searched / "runs/first/best").class_names[0] == "0"
    export = ["export", "first", "--runs-dir", str(searched / "runs"), "--out", str(searched / "out")]
    assert cli.main(export) == 0, capsys.readouterr().err
    assert nasforge.load(searched / "out").class_names[0] == "0"


COMMANDS = {
    "export": ["export", "first"],
    "retrain": ["retrain", "first", "--epochs", "1", "--seeds", "1"],
    "tune": ["tune", "first", "--recipe", "sgd", "--max-trials", "1", "--runner", "local"],
    "rerun": ["show", "first", "--trial", "0", "--rerun"],
    "draw": ["show", "first", "--trial", "0", "--draw", "drawn.html"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_asks_for_consent(received, command, capsys):
    assert cli.main(command) == 2
    assert "--trust" in capsys.readouterr().err
    assert "foreign_builder" not in sys.modules


def test_consent_is_given_once(received, capsys):
    assert cli.main([*COMMANDS["draw"], "--trust"]) == 0
    assert cli.main(COMMANDS["export"]) == 0
    assert cli.main(COMMANDS["rerun"]) == 0
    (received.parent / "foreign_builder.py").write_text(BUILDER + "\n# changed\n")
    assert cli.main(COMMANDS["export"]) == 2
    assert cli.main([*COMMANDS["export"], "--trust"]) == 0


def test_a_builder_that_has_changed_in_another_folder_runs_again_with_consent(received, tmp_path, monkeypatch, capsys):
    file = received.parent / "foreign_builder.py"
    assert cli.main([*COMMANDS["draw"], "--trust"]) == 0
    file.write_text(BUILDER + "\n# a comment\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    forget_imports(monkeypatch)
    export = ["export", "first", "--runs-dir", str(received), "--to", "safetensors", "--out", "out"]
    assert cli.main(export) == 2
    assert f"foreign_builder.py in {file.parent} has changed" in (printed := capsys.readouterr().err)
    assert "--trust" in printed
    assert cli.main([*export, "--trust"]) == 0, capsys.readouterr().err
    assert nasforge.load(received / "first/best").class_names[0] == "0"


def test_a_module_in_the_runs_folder_never_runs(received, monkeypatch, capsys):
    shutil.move(received.parent / "foreign_builder.py", received)
    monkeypatch.chdir(received)
    for command in (COMMANDS["export"], COMMANDS["rerun"], COMMANDS["draw"]):
        assert cli.main([*command, "--runs-dir", ".", "--trust"]) == 2
        assert "inside the folder that is loaded" in capsys.readouterr().err
    assert "foreign_builder" not in sys.modules


def test_no_part_of_a_configuration_is_imported_by_a_view(received, capsys):
    def change(config):
        for part in ("evaluator", "strategy", "pruner", "runner"):
            config[part]["name"] = "payload:Thing"
        config["space"] |= {"canonical": "payload:thing", "text": "payload:thing", "derive": "payload:thing"}

    with_header(received, change)
    (received.parent / "payload.py").write_text("raise SystemExit('it ran')")
    for options in ([], ["--trial", "0"], ["--importance"]):
        cli.main(["show", "first", *options])
    cli.main(["track", "first", "--optuna", f"sqlite:///{received}/optuna.db"])
    assert "payload" not in sys.modules
    assert "it ran" not in capsys.readouterr().err


def test_the_dashboard_draws_no_network_of_a_users_builder(received):
    testing = pytest.importorskip("fastapi.testclient")
    from nasforge.dashboards.app import create_app

    browser = testing.TestClient(create_app(received, reading_s=60), base_url="http://127.0.0.1")
    for path in ("", "/search", "/trials", "/trial/0", "/importance", "/how"):
        assert browser.get(f"/first{path}").status_code == 200
    shown = browser.get("/first/networks?trials=0").text
    assert "Not drawn" in shown and "foreign_builder:build" in shown
    assert "foreign_builder" not in sys.modules


@pytest.mark.parametrize("part", ["evaluator", "runner"])
def test_every_part_of_a_configuration_needs_consent(received, part, capsys):
    with_header(
        received, lambda config: (config[part].update(name="payload:Thing"), config["space"].update(builder=""))
    )
    (received.parent / "payload.py").write_text("raise SystemExit('it ran')")
    command = COMMANDS["tune"][:-2] if part == "runner" else COMMANDS["rerun"]
    assert cli.main([*command]) == 2
    assert "payload:Thing" in (printed := capsys.readouterr().err)
    assert "--trust" in printed


def test_a_cluster_that_a_journal_names_needs_consent(received, capsys):
    def change(config):
        config["runner"] = {"name": "ray_tune", "options": {"address": "192.0.2.1:6379"}}
        config["space"] |= {"builder": "staged", "arguments": {"strides": [1], "layers": 1}}

    with_header(received, change)
    assert cli.main(COMMANDS["tune"][:-2]) == 2
    assert "192.0.2.1" in (printed := capsys.readouterr().err)
    assert "--trust" in printed


def test_comparing_journals_imports_nothing_without_consent(received, capsys):
    with_header(received, lambda config: config["evaluator"].update(name="payload:Thing"))
    (received.parent / "payload.py").write_text("raise SystemExit('it ran')")
    shutil.copytree(received / "first", received / "second")
    assert cli.main(["compare", "first", "second", "--tracking-uri", "none"]) in (0, 2)
    assert not {"payload", "foreign_builder"} & {*sys.modules}
    assert "it ran" not in capsys.readouterr().err


NAMED = {
    "builder": {"builder": "foreign_builder:build"},
    "block": {
        "builder": "staged",
        "arguments": {"strides": [1], "layers": 1, "blocks": {"mine": "foreign_builder:Block"}},
    },
    "ensemble": ensemble_space(
        [
            (
                SearchSpace("s", (Decision("model.width", Choice((4, 8))),), "foreign_builder:build"),
                Architecture({"model.width": 4}),
            )
        ]
    ).to_json(),
    "installed": {"builder": "os:system"},
}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_a_network_folder_asks_for_consent(received, named):
    with_description(received / "first/best", lambda space: space.update(named))
    with raises(TrustError, "untrusted", None, "trust=True"):
        nasforge.load(received / "first/best")
    assert "foreign_builder" not in sys.modules


def test_a_network_folder_with_consent(received):
    assert nasforge.load(received / "first/best", trust=True).class_names[0] == "0"
    assert nasforge.load(received / "first/best").class_names[0] == "0"


@pytest.mark.parametrize("inside", ["first/best/payload.py", "first/best/payload/__init__.py"])
def test_a_network_folder_never_runs_code_that_it_brings(received, inside, monkeypatch):
    best = received / "first/best"
    with_description(best, lambda space: space.update(builder="payload:build"))
    (received / inside).parent.mkdir(exist_ok=True)
    (received / inside).write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(best)
    with raises(TrustError, "untrusted", "builder", "payload"):
        nasforge.load(best, trust=True)
    assert "payload" not in sys.modules
