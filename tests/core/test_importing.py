"""Where modules are found: installed ones first, then beside the file that names them, then in the working folder."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from expecting import raises

from nasforge import registry
from nasforge.cli import app as cli
from nasforge.core import importing, trust
from nasforge.core.errors import ConfigError, TrustError
from nasforge.core.importing import adopt, load, places
from nasforge.settings.experiment import load_settings, load_space

CODE = "def build():\n    return __file__\n"
SPACE = "name: s\nbuilder: {}:build\ndecisions:\n  model: {{a: [1, 2]}}\n"


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """An empty working folder; what is imported and added to the path is forgotten afterwards."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv(trust.STATE_DIR, str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("_BESIDE", "_ELSEWHERE", "_ADDED"):
        monkeypatch.setattr(importing, name, type(getattr(importing, name))())
    before = {*sys.modules}
    yield here
    for name in {*sys.modules} - before:
        del sys.modules[name]


def made(folder: Path, name: str, code: str = CODE) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{name}.py"
    file.write_text(code)
    return file


def test_the_working_folder_comes_after_everything_else(working_folder):
    file = made(working_folder, "only_here")
    assert load("only_here:build", "it")() == str(file)
    assert sys.path[-1] == str(working_folder)


def test_an_installed_module_comes_first(working_folder):
    made(working_folder, "torch", "raise SystemExit('hijacked')")
    assert load("torch:nn", "it").__name__ == "torch.nn"


@pytest.mark.parametrize("name", ["profile:build", "random:Random", "json:build"])
def test_a_file_called_like_a_module_of_pythons(working_folder, name):
    file = made(working_folder, name.partition(":")[0])
    with raises(ConfigError, "conflict", "builder", file):
        load(name, "builder")


def test_a_module_of_a_module_that_is_no_package():
    assert load("os.path:join", "builder 'os.path:join'") is os.path.join


def test_a_file_called_like_an_installed_module(working_folder):
    file = made(working_folder, "yaml")
    with raises(ConfigError, "missing", "builder", "yaml", "build", file):
        load("yaml:build", "builder")


def test_beside_the_space_that_names_it(tmp_path):
    file = made(tmp_path / "spaces", "beside_space")
    (tmp_path / "spaces" / "s.yaml").write_text(SPACE.format("beside_space"))
    space = load_space(tmp_path / "spaces" / "s.yaml")
    assert registry.get("builder", space.builder)() == str(file)


def test_a_block_beside_the_space(tmp_path):
    file = made(tmp_path / "spaces", "beside_blocks")
    text = SPACE.format("x").replace("x:build", "staged") + "arguments: {blocks: {mine: 'beside_blocks:build'}}\n"
    (tmp_path / "spaces" / "s.yaml").write_text(text)
    space = load_space(tmp_path / "spaces" / "s.yaml")
    assert registry.get("block", space.arguments["blocks"]["mine"])() == str(file)


def test_beside_the_file_of_settings_that_names_it(tmp_path):
    file = made(tmp_path / "settings", "beside_settings")
    path = tmp_path / "settings" / "experiment.yaml"
    path.write_text("space: tiny\nstrategy: {name: 'beside_settings:build', population: 3}\n")
    load_settings(path)
    assert registry.get("strategy", "beside_settings:build")() == str(file)


def test_beside_the_space_comes_before_the_working_folder(working_folder, tmp_path):
    made(working_folder, "in_both", "raise SystemExit('the wrong one')")
    file = made(tmp_path / "spaces", "in_both")
    (tmp_path / "spaces" / "s.yaml").write_text(SPACE.format("in_both"))
    assert registry.get("builder", load_space(tmp_path / "spaces" / "s.yaml").builder)() == str(file)


def test_two_modules_of_one_name(tmp_path):
    for folder, code in (("one", CODE), ("two", CODE + "# another\n")):
        made(tmp_path / folder, "same_name", code)
        (tmp_path / folder / "s.yaml").write_text(SPACE.format("same_name"))
    registry.get("builder", load_space(tmp_path / "one/s.yaml").builder)
    with raises(ConfigError, "conflict", None, "one/same_name.py", "two/same_name.py"):
        registry.get("builder", load_space(tmp_path / "two/s.yaml").builder)


def test_a_module_in_a_package(working_folder):
    made(working_folder / "package_here", "__init__", "")
    file = made(working_folder / "package_here", "inner")
    assert load("package_here.inner:build", "it")() == str(file)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.inner", "..nowhere", "", "json.nowhere", "empty_folder"])
def test_no_such_module_says_where_it_was_looked_for(working_folder, name):
    (working_folder / "empty_folder").mkdir()
    with raises(ConfigError, "missing", "builder", name, working_folder, "PYTHONPATH"):
        load(f"{name}:build", "builder")


def test_a_module_that_a_search_has_used_is_found_from_any_folder(working_folder, tmp_path):
    file = made(tmp_path / "project", "used_before")
    (tmp_path / "project/s.yaml").write_text(SPACE.format("used_before"))
    load_space(tmp_path / "project/s.yaml")
    with trust.from_user():
        load("used_before:build", "it")
    importing._BESIDE.clear()
    sys.path.remove(str(file.parent))
    del sys.modules["used_before"]
    assert load("used_before:build", "it")() == str(file)
    sys.path.remove(str(file.parent))
    del sys.modules["used_before"]
    file.write_text(CODE + "# changed\n")
    with raises(TrustError, "untrusted", None, f"used_before.py in {file.parent} has changed", "PYTHONPATH"):
        load("used_before:build", "it")
    with trust.from_user(), raises(TrustError, "untrusted", None, "has changed"):
        load("used_before:build", "it")
    with trust.view(), raises(TrustError, "untrusted", None, "view"):
        load("used_before:build", "it")
    with trust.foreign(tmp_path / "runs"), raises(TrustError, "untrusted", None, "has changed", "--trust"):
        load("used_before:build", "it")
    assert "used_before" not in sys.modules
    with trust.foreign(tmp_path / "runs", trust=True):
        assert load("used_before:build", "it")() == str(file)


def test_an_unchanged_module_comes_before_a_changed_one(working_folder, tmp_path):
    for folder in ("one", "two"):
        file = made(tmp_path / folder, "in_two_folders")
        with trust.from_user():
            trust.admit("in_two_folders:build", "it", [file])
    (tmp_path / "two/in_two_folders.py").write_text(CODE + "# changed\n")
    with trust.foreign(tmp_path / "runs"):
        assert load("in_two_folders:build", "it")() == str(tmp_path / "one/in_two_folders.py")


@pytest.mark.parametrize("kind", ["builder", "block", "task", "canonical"])
def test_main_is_refused_where_other_processes_import_it_again(kind, monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "build", CODE, raising=False)
    monkeypatch.setattr(main, "__file__", "/somewhere/training.py", raising=False)
    with raises(ConfigError, "unsupported", kind, "my_module:build", "training:build", "training.py"):
        load("__main__:build", f"{kind} '__main__:build'")
    monkeypatch.delattr(main, "__file__")
    with raises(ConfigError, "unsupported", kind, "my_module:build"):
        load("__main__:build", f"{kind} '__main__:build'")
    assert load("__main__:build", "strategy '__main__:build'") is CODE


@pytest.mark.parametrize(
    ("path", "module", "folder"),
    [("hpkg.py", "hpkg", ""), ("pkg/hpkg.py", "hpkg", "pkg to PYTHONPATH"), ("a/b/hpkg", "hpkg", "a/b to PYTHONPATH")],
)
def test_the_path_of_a_file_in_place_of_a_module(working_folder, path, module, folder):
    made(working_folder / Path(path).parent, "hpkg")
    with raises(ConfigError, "type", "strategy", f"not a file: {module}:build", folder):
        load(f"{path}:build", "strategy")


def test_a_refused_module_leaves_the_path_as_it_was(working_folder):
    made(working_folder, "refused")
    before = list(sys.path)
    with trust.view(), pytest.raises(ConfigError):
        load("refused:build", "it")
    assert sys.path == before
    assert "refused" not in sys.modules


def test_a_started_process_looks_where_this_one_does(working_folder, tmp_path, monkeypatch):
    file = made(working_folder, "for_workers")
    places_here = places()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        load("for_workers:build", "it")
    adopt(places_here)
    assert load("for_workers:build", "it")() == str(file)


def test_a_deleted_working_folder(working_folder):
    working_folder.rmdir()
    with raises(ConfigError, "missing", "it", "nowhere"):
        load("nowhere:build", "it")


def test_the_working_folder_registers_no_plugins(working_folder):
    package = working_folder / "evil-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[nasforge.builder]\npretty = only_here:build\n")
    made(working_folder, "only_here")
    load("only_here:build", "it")  # the folder is on the path now
    assert "pretty" not in registry.names("builder")


def test_python_m_puts_the_working_folder_last(working_folder):
    for name in ("profile", "random", "yaml", "typer"):
        made(working_folder, name, "raise SystemExit('hijacked')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-m", "nasforge", "spaces", "--json"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stdout


def test_a_source_tree_in_the_working_folder_is_found_by_new_processes(monkeypatch):
    root = str(Path(importing.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", "/others")
    monkeypatch.setattr(sys, "path", [root])
    assert importing.python_path() == {}
    importing.registers_nothing(root)
    assert importing.python_path() == {"PYTHONPATH": os.pathsep.join([root, "/others"])}


def test_pythons_own_random_is_untouched():
    assert load("random:Random", "it") is random.Random


def test_the_command_line_does_not_put_the_working_folder_on_the_path(working_folder):
    made(working_folder, "profile", "raise SystemExit('hijacked')")
    assert cli.main(["spaces", "--json"]) == 0
    assert str(working_folder) not in sys.path
    assert "" not in sys.path
