import time
from pathlib import Path

import pytest
from expecting import raises

import nasforge
from nasforge.api.fit.log import FitLog, _files_below, _stamp, entries_of, stamp_of
from nasforge.core.errors import ConfigError, DataError, JournalError
from nasforge.core.layout import FIT

INPUTS = {"source": "/photos", "constraints": ["flops<=40M"], "seed": 0}


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes; nothing opens its files."""
    for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path / "photos"


def opened(folder, inputs=INPUTS):
    return FitLog(folder, inputs, time.monotonic())


def test_a_decision_is_taken_once_and_read_back(tmp_path):
    messages = []
    with opened(tmp_path) as log:
        assert log.decide("folds", lambda: (5, "few images"), messages.append) == 5
    with opened(tmp_path) as log:
        assert log.resumed
        assert log.decide("folds", lambda: pytest.fail("taken again"), messages.append) == 5
    assert messages == ["folds: 5, few images"]


def test_time_goes_on_where_it_stopped_and_not_between_sessions(tmp_path, clock):
    with FitLog(tmp_path, INPUTS, time.monotonic() - 100) as log:
        log.write("phase", name="search", seconds=100)
    clock.move(1000)
    with opened(tmp_path) as log:
        clock.move(7)
        assert log.used == pytest.approx(107)
        log.write("phase", name="test", seconds=7)
    used = [entry["used"] for entry in entries_of(tmp_path)]
    assert used == pytest.approx([100, 100, 107])


def test_an_unfinished_line_is_cut_off(tmp_path):
    with opened(tmp_path) as log:
        log.write("phase", name="images", seconds=1)
    path = tmp_path / FIT
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "cho')
    assert len(entries_of(tmp_path)) == 2
    with opened(tmp_path) as log:
        assert path.read_bytes() == whole
        log.write("chosen", until=9.0, winner="a")
    assert [entry["kind"] for entry in entries_of(tmp_path)] == ["begun", "phase", "chosen"]


def test_other_inputs_are_refused_by_name(tmp_path):
    with opened(tmp_path) as log:
        log.write("yardsticks", rows=[])
    with raises(ConfigError, "changed", "name", "constraints none (was flops<=40M)", "--name"):
        opened(tmp_path, {**INPUTS, "constraints": []})
    opened(tmp_path).close()


def test_other_inputs_begin_anew_where_nothing_was_trained(tmp_path, clock):
    with FitLog(tmp_path, INPUTS, time.monotonic() - 100) as log:
        log.decide("metric", lambda: ("loss", "few images"), lambda _: None)
    with opened(tmp_path, {**INPUTS, "labels": "/labels.csv"}) as log:
        assert not log.resumed and log.used == pytest.approx(0)
    assert [entry["kind"] for entry in entries_of(tmp_path)] == ["begun"]


def test_a_fit_whose_data_are_refused_leaves_no_folder(tmp_path):
    with pytest.raises(DataError), opened(tmp_path / "cells"):
        raise DataError("one class", kind="empty")
    assert not (tmp_path / "cells").exists()
    with pytest.raises(DataError), opened(tmp_path / "cells") as log:
        log.write("inspected", inspection={})
        raise DataError("too few", kind="empty")
    assert (tmp_path / "cells" / FIT).is_file()


def test_two_processes_do_not_work_on_one_fit(tmp_path):
    with opened(tmp_path), raises(JournalError, "busy", "name"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        "nonsense",
        '{"kind": "a", "at": "x", "used": 0}',
        '{"kind": ["a"], "at": 1, "used": 0}',
        f'{{"kind": "a", "at": 1{"0" * 400}, "used": 0}}',
        '{"kind": "trained", "folder": "/etc", "network": "n", "epochs": 3, "at": 1, "used": 0}',
        '{"kind": "trained", "folder": "finalists/../../n", "network": "n", "epochs": 3, "at": 1, "used": 0}',
        '{"kind": "trained", "network": "n", "epochs": 3, "at": 1, "used": 0}',
        '{"kind": "last_training", "network": "n", "until": 1, "deadline": "soon", "at": 1, "used": 0}',
        '{"kind": "yardsticks", "rows": [3], "at": 1, "used": 0}',
        '{"kind": "decision", "name": "metric", "reason": "r", "at": 1, "used": 0}',
        '{"kind": "inspected", "inspection": 3, "at": 1, "used": 0}',
    ],
)
def test_a_corrupt_line_is_named(tmp_path, line):
    with opened(tmp_path) as log:
        log.write("phase", name="images", seconds=1)
    with (tmp_path / FIT).open("a") as file:
        file.write(line + "\n")
    with raises(JournalError, "unreadable", None, f"{FIT}:3"):
        opened(tmp_path)


def test_the_stamp_is_of_the_images_alone(photos):
    before = stamp_of(str(photos), None)
    (photos / ".DS_Store").write_text("a file manager")
    (photos / "cat" / "notes.txt").write_text("cats")
    (photos / "runs" / "photos-fit").mkdir(parents=True)
    opened(photos / "runs" / "photos-fit").close()
    (photos / "runs" / "photos-fit" / "map.png").write_bytes(b"drawn by nasforge")
    assert stamp_of(str(photos), None) == before
    (photos / "cat" / "new.png").write_bytes(b"another image")
    assert stamp_of(str(photos), None) != before


def test_a_registered_name_has_no_stamp_beside_a_folder_of_that_name(photos, monkeypatch):
    photos.rename(photos.with_name("digits"))
    monkeypatch.chdir(photos.parent)
    assert stamp_of("digits", None) == "" != stamp_of("./digits", None)


def test_the_stamp_is_of_images_behind_links_too(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (photos / "cow").symlink_to(tmp_path / "elsewhere")
    before = stamp_of(str(photos), None)
    (tmp_path / "elsewhere" / "new.png").write_bytes(b"another image")
    assert stamp_of(str(photos), None) != before


def test_a_fit_of_an_earlier_version_keeps_its_stamp_of_all_files(photos, tmp_path):
    (photos / "notes.txt").write_text("cats")
    earlier = _stamp(str(photos), None, _files_below)
    assert earlier != stamp_of(str(photos), None)
    opened(tmp_path / "fit", {**INPUTS, "data_stamp": earlier}).close()
    assert stamp_of(str(photos), None, tmp_path / "fit") == earlier
    (photos / "cat" / "0.png").unlink()
    assert stamp_of(str(photos), None, tmp_path / "fit") == stamp_of(str(photos), None)


def test_data_and_runs_that_may_not_be_read_are_one_sentence(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    stat = Path.stat

    def refuse(path, **options):
        if closed in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with raises(DataError, "unreadable", None, closed / "photos", "Permission denied"):
        stamp_of(str(closed / "photos"), None)
    with raises(DataError, "unreadable", "data", closed / "photos", "Permission denied"):
        nasforge.fit(closed / "photos", runs_dir=tmp_path / "runs")
    with raises(JournalError, "failed", "runs_dir", closed / "fit", "Permission denied", "--runs-dir"):
        opened(closed / "fit")
