"""The journal: what is written is what is read; torn, corrupt, foreign and locked files."""

import errno
import fcntl
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from expecting import raises

from nasforge.core.errors import JournalError
from nasforge.core.events import SCHEMA, Header, Reported, Started
from nasforge.core.layout import JOURNAL, LOCK
from nasforge.experiment.journal import Journal, dumps, loads, read_events

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
    events = read_events(tmp_path)
    assert events[1] == event
    assert math.isnan(events[2].metrics["n"])
    assert "NaN" not in (tmp_path / JOURNAL).read_text()


def test_dumps_refuses_what_is_not_plain() -> None:
    with raises(JournalError, "type", None, "object"):
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
    "broken",
    [
        *(b"not json", b'{"event":"started"}', b'{"event":"nonsense","number":1}', b"[1]", b""),
        *(b'{"event":"started","number":0,"attempt":1,"at":{"$float":"%s"}}' % at for at in (b"nan", b"inf", b"-inf")),
    ],
)
def test_corrupt_middle_is_refused_with_its_line(tmp_path: Path, broken: bytes) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    lines = path.read_bytes().split(b"\n")
    lines[2] = broken
    path.write_bytes(b"\n".join(lines))
    with raises(JournalError, "unreadable", None, "journal.jsonl", 3):
        Journal(tmp_path)
    assert path.read_bytes() == b"\n".join(lines), "a refused journal is left as it was"


def test_other_schema_is_refused_with_advice(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    path.write_text(path.read_text().replace(f'"schema":{SCHEMA}', '"schema":99'))
    with raises(JournalError, "unsupported", None, 99, "--name"):
        read_events(tmp_path)


def test_second_header_and_missing_header(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / JOURNAL
    text = path.read_text()
    path.write_text(text + text.splitlines(keepends=True)[0])
    with raises(JournalError, "unreadable", None, 5):
        read_events(tmp_path)
    path.write_text("".join(text.splitlines(keepends=True)[1:]))
    with raises(JournalError, "unreadable", None, ":1:"):
        read_events(tmp_path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with raises(JournalError, "missing", None, JOURNAL):
        read_events(tmp_path)
    (tmp_path / JOURNAL).touch()
    with raises(JournalError, "empty"):
        read_events(tmp_path)


def test_lock_keeps_a_second_driver_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    code = (
        f"from nasforge.experiment.journal import Journal; from pathlib import Path; Journal(Path({str(tmp_path)!r}))"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode != 0
    assert "another driver is running this experiment (process" in second.stderr
    journal.close()
    Journal(tmp_path).close()


def test_storage_without_locks_has_drivers_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    first = Journal(tmp_path)
    first.append(HEADER)
    second = Journal(tmp_path)
    second.append(Started(0, 1))
    with raises(JournalError, "busy", None, JOURNAL):
        first.append(Started(1, 1))
    assert len(read_events(tmp_path)) == 2


def test_a_disk_that_is_full_at_the_start_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with raises(JournalError, "failed", None, tmp_path, "No space left on device"):
            Journal(tmp_path)
    Journal(tmp_path).close()  # the lock was released


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append(HEADER)
    whole = (tmp_path / JOURNAL).read_bytes()
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: really(handle, data[:7], at))
    with raises(JournalError, "failed", None, JOURNAL, "space"):
        journal.append(Started(0, 1))
    assert (tmp_path / JOURNAL).read_bytes() == whole
    monkeypatch.undo()
    journal.append(Started(0, 1))
    assert len(read_events(tmp_path)) == 2


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(JournalError, "failed", None, "Not a directory"):
        Journal(tmp_path / "file" / "x")


def test_a_second_driver_after_the_lock_was_removed(tmp_path: Path) -> None:
    written(tmp_path)
    first = Journal(tmp_path)
    (tmp_path / LOCK).unlink()
    second = Journal(tmp_path)
    second.append(Started(7, 1))
    whole = (tmp_path / JOURNAL).read_bytes()
    for _ in range(2):
        with raises(JournalError, "busy"):
            first.append(Started(8, 1))
    assert (tmp_path / JOURNAL).read_bytes() == whole, "the longer journal is never cut"
    second.append(Started(9, 1))
    assert [event.number for event in read_events(tmp_path)[1:]] == [0, 1, 2, 7, 9]


@pytest.mark.parametrize("change", ["replaced", "deleted", "shorter", "longer", "moved"])
def test_a_journal_that_is_not_as_the_driver_left_it(tmp_path: Path, change: str) -> None:
    journal = Journal(tmp_path / "x")
    journal.append(HEADER)
    path = tmp_path / "x" / JOURNAL
    content = path.read_bytes()
    match change:
        case "replaced":
            path.with_name("copy").write_bytes(content)
            path.with_name("copy").rename(path)
        case "deleted":
            path.unlink()
        case "shorter":
            os.truncate(path, 10)
        case "longer":
            path.write_bytes(content + b"{}\n")
        case "moved":
            path.parent.rename(tmp_path / "y")
    with raises(JournalError, "busy", None, path):
        journal.append(Started(0, 1))
    if path.exists():
        assert b"started" not in path.read_bytes()


def test_a_forked_process_never_writes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(HEADER)
    child = os.fork()
    if child == 0:
        try:
            journal.append(Started(0, 1))
        except JournalError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    journal.append(Started(0, 1))
    assert len(read_events(tmp_path)) == 2


@pytest.mark.parametrize("content", [None, b"", b'{"event":"hea'])
@pytest.mark.parametrize("beside", ["artifacts", "best", "finalists"])
def test_work_without_its_journal_is_not_overwritten(tmp_path: Path, content: bytes | None, beside: str) -> None:
    (tmp_path / beside).mkdir()
    if content is not None:
        (tmp_path / JOURNAL).write_bytes(content)
    with raises(JournalError, "missing", None, f"{beside}/", "--name"):
        Journal(tmp_path)
    assert not (tmp_path / JOURNAL).exists() or (tmp_path / JOURNAL).read_bytes() == content


def test_events_that_cannot_be_are_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(HEADER)
    whole = (tmp_path / JOURNAL).read_bytes()
    with raises(JournalError, "type", "step", "reported"):
        journal.append(Reported(0, 1, 1.5, {}, "continue"))  # type: ignore[arg-type]
    assert (tmp_path / JOURNAL).read_bytes() == whole


def test_deeply_nested_lines_are_corrupt_ones(tmp_path: Path) -> None:
    written(tmp_path)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b"[" * 200_000 + b"\n")
    with raises(JournalError, "unreadable", None, "journal.jsonl", 5):
        read_events(tmp_path)
