"""Names and paths of searches, fits and campaigns: one folder for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.layout import FIT, JOURNAL
from nasforge.experiment.places import COMPARISON, folder_of, kind_of, owner_of, search_of
from nasforge.experiment.state import load_state


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder whose `runs` have a search, two fits, a campaign and a comparison."""
    files = (f"first/{JOURNAL}", f"cells/{FIT}", f"cells/search/{JOURNAL}", f"young/{FIT}", f"several/a/{JOURNAL}")
    for file in (*files, f"others/{COMPARISON}", f"first/first/{JOURNAL}"):
        path = tmp_path / "runs" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["first", "runs/first", "./runs/first/", "several/a", Path("runs/first")], ids=str)
def test_a_name_and_a_path_are_the_same_search(place: Path, name: str | Path) -> None:
    folder = place / "several" / "a" if name == "several/a" else place / "first"
    assert folder_of(name) == owner_of(name) == search_of(name) == folder and kind_of(folder) == "search"


def test_the_runs_folder_comes_before_the_working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "first")
    assert folder_of("first", place) == place / "first"
    assert folder_of("first", place / "several") == place / "first" / "first"


@pytest.mark.parametrize("name", ["cells", "cells/search", "runs/cells", "runs/cells/search"])
def test_a_fit_is_its_search_where_one_is_needed(place: Path, name: str) -> None:
    assert search_of(name) == place / "cells" / "search" and owner_of(name) == place / "cells"


def test_what_is_no_search_is_said(place: Path) -> None:
    assert kind_of(folder_of("several")) == kind_of(folder_of("others")) == "campaign"
    with raises(ConfigError, "conflict", None, "a campaign of 1 searches", "runs/several"):
        search_of("several")
    with raises(ConfigError, "unsupported", None, "a comparison of other searches"):
        owner_of("others")
    with raises(ConfigError, "empty", None, "has not searched", "nasforge show young"):
        search_of("young")


@pytest.mark.parametrize("name", ["firts", "runs", ".", ""])
def test_what_is_not_there_is_unknown(place: Path, name: str) -> None:
    with raises(JournalError, "unknown", "name", "first", "cells", "several"):
        folder_of(name)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300], ids=["NUL", "long"])
def test_a_name_that_no_file_has_is_refused(place: Path, name: str) -> None:
    for find in (folder_of, load_state):
        with raises(ConfigError, "invalid"):
            find(name)
