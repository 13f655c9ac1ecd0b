"""Paths that are not there, and names that look like them."""

from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.paths import file_inside, inside, like_path, whole_path


def test_a_path_with_a_mistake_is_answered_with_a_name_next_to_it(tmp_path, monkeypatch):
    (tmp_path / "Meine Fotos" / "cells").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for typed in ("Meine Foto", "Meine Foto/", "meine Fotos"):
        assert "'Meine Fotos'" in like_path(typed)
    assert "'Meine Fotos/cells'" in like_path("Meine Foto/cells")
    assert f"'{tmp_path}/Meine Fotos/cells'" in like_path(tmp_path / "Meine Fotos/cell")


def test_where_nothing_looks_alike_nothing_is_said(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / ".git").mkdir()
    assert like_path(tmp_path / "digit") == "" and "'" in like_path(tmp_path / ".gitt")
    for name in ("cells", "cells/inner", "x" * 300, "a\0b"):
        assert like_path(tmp_path / name) == ""


def test_a_path_that_no_file_can_have_is_refused():
    with raises(ConfigError, "invalid", None, "NUL", r"'a\x00b'"):
        whole_path("a\0b")


def test_only_what_lies_below_a_folder_is_inside(tmp_path):
    folder, file = tmp_path / "runs", tmp_path / "runs" / "a" / "b.txt"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "secret").touch()
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    assert inside(folder, "a/b.txt") == inside(folder, file) == file_inside(folder, "a/b.txt") == file
    assert inside(folder, "a/none") == file.with_name("none") and file_inside(folder, "a/none") is None
    for name in ("../secret", "out", "loop", "a\0b", "\ud800", tmp_path / "secret"):
        assert inside(folder, name) is None and file_inside(folder, name) is None
    assert file_inside(folder, "x" * 5000) is file_inside(folder, "a") is None
