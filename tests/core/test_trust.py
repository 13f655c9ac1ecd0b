"""Who decides whether code that a text names may run, and what is remembered of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from expecting import raises

from nasforge import registry
from nasforge.core import trust
from nasforge.core.errors import TrustError
from nasforge.core.trust import admit, foreign, from_user, typed, view
from nasforge.models import ensemble
from nasforge.settings.space_file import load_space, shipped_spaces

TEXT, WHAT = "mine:build", "builder 'mine:build'"


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    monkeypatch.setenv(trust.STATE_DIR, str(tmp_path / "state"))
    return tmp_path / "state" / "trusted"


@pytest.fixture
def module(tmp_path) -> Path:
    file = tmp_path / "project" / "mine.py"
    file.parent.mkdir()
    file.write_text("X = 1\n")
    return file


@pytest.fixture
def loaded(tmp_path) -> Path:
    folder = tmp_path / "loaded"
    folder.mkdir()
    return folder


def test_a_file_of_somebody_elses_needs_consent(module, loaded):
    with foreign(loaded), raises(TrustError, "untrusted", "builder", module, loaded, "--trust", "trust=True"):
        admit(TEXT, WHAT, [module])


def test_consent_is_asked_for_once(module, loaded):
    with foreign(loaded, trust=True):
        admit(TEXT, WHAT, [module])
    with foreign(loaded):
        admit(TEXT, WHAT, [module])


def test_searching_by_ones_own_settings_is_consent(module, loaded):
    with from_user():
        admit(TEXT, WHAT, [module])
    with foreign(loaded):
        admit(TEXT, WHAT, [module])


def test_without_any_file_nothing_is_asked_and_nothing_remembered(module, records):
    admit(TEXT, WHAT, [module])
    assert not records.exists()


@pytest.mark.parametrize("change", ["content", "folder", "text"])
def test_consent_is_for_one_text_in_one_unchanged_file(module, loaded, change):
    with from_user():
        admit(TEXT, WHAT, [module])
    text = TEXT
    if change == "content":
        module.write_text("X = 2\n")
    elif change == "folder":
        copy = loaded.parent / "copy" / "mine.py"
        copy.parent.mkdir()
        copy.write_bytes(module.read_bytes())
        module = copy
    else:
        text = "mine:other"
    says = f"mine.py in {module.parent} has changed" if change == "content" else "is named by a file in"
    with foreign(loaded), raises(TrustError, "untrusted", "builder", says, "--trust"):
        admit(text, WHAT, [module])


def test_a_package_around_the_module_counts_too(module, loaded):
    package = module.with_name("__init__.py")
    package.write_text("")
    with from_user():
        admit(TEXT, WHAT, [package, module])
    package.write_text("import os\n")
    with foreign(loaded), pytest.raises(TrustError):
        admit(TEXT, WHAT, [package, module])


@pytest.mark.parametrize("place", ["mine.py", "deep/mine.py", "link"])
def test_code_in_the_folder_that_is_loaded_never_runs(loaded, place):
    file = loaded / ("mine.py" if place == "link" else place)
    file.parent.mkdir(exist_ok=True)
    file.write_text("X = 1\n")
    if place == "link":
        link = loaded.parent / "mine.py"
        link.symlink_to(file)
        file = link
    with foreign(loaded, trust=True), raises(TrustError, "untrusted", "builder", file.resolve(), "inside"):
        admit(TEXT, WHAT, [file])


def test_a_view_imports_nothing_whatever_was_agreed(module, loaded):
    with from_user():
        admit(TEXT, WHAT, [module])
    with view(), raises(TrustError, "untrusted", None, "view"):
        admit(TEXT, WHAT, [module])
    with view(), foreign(loaded, trust=True), from_user(), raises(TrustError, "untrusted", None, "view"):
        admit(TEXT, WHAT, [module])


def test_a_search_inside_a_foreign_file_is_not_consent(module, loaded):
    with foreign(loaded), from_user(), pytest.raises(TrustError):
        admit(TEXT, WHAT, [module])
    with foreign(loaded), typed():
        admit(TEXT, WHAT, [module])


def test_consent_holds_for_files_that_are_read_on_the_way(module, loaded):
    with foreign(loaded, trust=True), foreign(loaded / "best"):
        admit(TEXT, WHAT, [module])
    inside = loaded / "mine.py"
    inside.write_text("X = 1\n")
    with foreign(loaded), foreign(loaded / "best", trust=True), raises(TrustError, "untrusted", "builder", inside):
        admit(TEXT, WHAT, [inside])


def test_an_address_needs_consent_too(loaded):
    with foreign(loaded), raises(TrustError, "untrusted", "runner", "ray://somewhere"):
        admit("Ray at ray://somewhere", "runner 'ray_tune' at 'ray://somewhere'")
    with from_user():
        admit("Ray at auto", "runner 'ray_tune' at 'auto'")
    with foreign(loaded):
        admit("Ray at auto", "runner 'ray_tune' at 'auto'")


def test_names_of_ours_need_none(loaded):
    with foreign(loaded), view():
        assert registry.get("builder", "staged") is registry.get("builder", "nasforge.models.staged:build")
        registry.get("builder", ensemble.BUILDER)
        for name in shipped_spaces():
            space = load_space(name)
            for field in ("canonical", "text", "derive"):
                assert not getattr(space, field) or space.function(field)


@pytest.mark.parametrize("name", ["os:system", "nasforge.api.tune:tune", "nasforge.registry:get", "torch.nn:Conv2d"])
def test_other_installed_code_needs_consent(loaded, name):
    for around in (foreign(loaded), view()):
        with around, pytest.raises(TrustError):
            registry.get("builder", name)


def test_a_registered_name_of_another_kind_is_code_like_any_other(loaded):
    with foreign(loaded), pytest.raises(TrustError):
        registry.get("builder", "nasforge.runners.local:run")


def test_a_damaged_record_is_no_consent(module, loaded, records):
    with from_user():
        admit(TEXT, WHAT, [module])
    (record,) = records.iterdir()
    content = json.loads(record.read_text())
    for text in ("", "[]", "{}", json.dumps({**content, "sha256": ""}), json.dumps({**content, "files": 3})):
        record.write_text(text)
        with foreign(loaded), pytest.raises(TrustError):
            admit(TEXT, WHAT, [module])


def test_where_nothing_can_be_stored_the_user_is_told(module, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(trust.STATE_DIR, str(tmp_path / "file"))
    messages: list[str] = []
    with from_user(messages.append):
        admit(TEXT, WHAT, [module])
        admit(TEXT, WHAT, [module])
    assert len(messages) == 1
    assert trust.STATE_DIR in messages[0]


def test_a_user_without_a_home_folder_may_run_code_and_is_told_that_it_is_not_remembered(module, loaded, monkeypatch):
    for name in (trust.STATE_DIR, "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    messages = []
    with from_user(messages.append):
        admit(TEXT, WHAT, [module])
    assert len(messages) == 1 and "no home folder" in messages[0] and trust.STATE_DIR in messages[0]
    with foreign(loaded), raises(TrustError, "untrusted", "builder", "--trust"):
        admit(TEXT, WHAT, [module])
    assert trust.remembered_folders(TEXT, 0) == []


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_folder_of_the_records(monkeypatch):
    monkeypatch.delenv(trust.STATE_DIR)
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert trust.state_dir() == Path("/somewhere/nasforge")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert trust.state_dir() == Path("/home/u/.local/state/nasforge")
