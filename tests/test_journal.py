"""The journal: what is written is what is read; torn, corrupt, foreign and locked files."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from nasforge.core.errors import JournalError
from nasforge.core.events import SCHEMA, Header, Reported, Started
from nasforge.journal import JOURNAL, Journal, dumps, loads, read_events

HEADER = Header(SCHEMA, "toy", {"budget": {}}, "abc", 0, {}, "")


def written(folder: Path, count: int = 3) -> None:
    journal = Journal(folder)
    journal.append(HEADER)
    for number in range(count):
        journal.append(Started(number, 1))
    journal.close()


def test_round_trip_with_nan_and_infinities(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(HEADER)
    event = Reported(0, 1, 2, {"a": math.inf, "b": -math.inf, "c": 0.1 + 0.2}, "continue")
    assert journal.append(event) == event
    journal.append(Reported(0, 1, 3, {"n": math.nan}, "continue"))
    journal.close()
    found = read_events(tmp_path)
    assert found[1] == event
    assert math.isnan(found[2].metrics["n"])
    assert "NaN" not in (tmp_path / JOURNAL).read_text()


def test_dumps_refuses_what_is_not_plain() -> None:
    with pytest.raises(JournalError, match="plain numbers"):
        dumps({"a": object()})
    assert loads(dumps({"a": [1, "x", None, True, {"b": 2.5}]})) == {"a": [1, "x", None, True, {"b": 2.5}]}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_torn_last_line_is_dropped_and_continued(tmp_path: Path, cut: int) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(read_events(tmp_path)) == 3
    journal = Journal(tmp_path)
    assert len(journal.events) == 3
    journal.append(Started(9, 1))
    journal.close()
    assert [event.number for event in read_events(tmp_path)[1:]] == [0, 1, 9]


@pytest.mark.parametrize(
    "broken", [b"not json", b'{"event":"started"}', b'{"event":"nonsense","number":1}', b"[1]", b""]
)
def test_corrupt_middle_is_refused_with_its_line(tmp_path: Path, broken: bytes) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    lines = path.read_bytes().split(b"\n")
    lines[2] = broken
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match=r"journal\.jsonl:3: this line is corrupt"):
        Journal(tmp_path)
    assert path.read_bytes() == b"\n".join(lines), "a refused journal is left as it was"


def test_other_schema_is_refused_with_advice(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    path.write_text(path.read_text().replace(f'"schema":{SCHEMA}', '"schema":99'))
    with pytest.raises(JournalError, match=r"schema version 99.*--name"):
        read_events(tmp_path)


def test_second_header_and_missing_header(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    text = path.read_text()
    path.write_text(text + text.splitlines(keepends=True)[0])
    with pytest.raises(JournalError, match=":5: a second header"):
        read_events(tmp_path)
    path.write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(JournalError, match=":1: the first line must be the header"):
        read_events(tmp_path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no experiment here"):
        read_events(tmp_path)
    (tmp_path / JOURNAL).touch()
    with pytest.raises(JournalError, match="has not begun"):
        read_events(tmp_path)


def test_lock_keeps_a_second_driver_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    code = f"from nasforge.journal import Journal; from pathlib import Path; Journal(Path({str(tmp_path)!r}))"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode != 0
    assert "another driver is running this experiment (process" in second.stderr
    journal.close()
    Journal(tmp_path).close()


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    journal = Journal(tmp_path)
    journal.append(HEADER)
    whole = (tmp_path / JOURNAL).read_bytes()
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: really(handle, data[:7], at))
    with pytest.raises(JournalError, match=r"no space left.*same command"):
        journal.append(Started(0, 1))
    assert (tmp_path / JOURNAL).read_bytes() == whole
    monkeypatch.undo()
    journal.append(Started(0, 1))
    assert len(read_events(tmp_path)) == 2


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path / "file" / "x")
