"""A journal that is followed: lines as they come, torn ones, files that were replaced, damaged ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from expecting import raises

sys.path.insert(0, str(Path(__file__).parent / "mlflow"))
from made_journal import header, mixed, point, trial, write

from nasforge.core.errors import JournalError
from nasforge.core.events import Asked, Checked, Interrupted, Started, Told
from nasforge.core.layout import JOURNAL
from nasforge.core.trial import Measure, Result
from nasforge.experiment.journal import Journal
from nasforge.experiment.state import State, load_state
from nasforge.views.reader import Reader


def _state(reader):
    assert reader.state is not None
    return reader.state


def test_it_goes_on_from_the_last_byte(made):
    reader = Reader(made)
    assert reader.refresh() and not reader.refresh()
    state, version = _state(reader), reader.version
    write(made, trial(9))
    assert reader.refresh() and reader.version != version
    assert _state(reader) is state  # kept, not folded anew
    assert _state(reader).trials == load_state(made).trials
    assert _state(reader).counts() == load_state(made).counts()


def test_a_line_that_is_half_written_is_left_for_later(made):
    path = made / JOURNAL
    whole = path.read_bytes()
    cut = whole[: whole.rstrip().rindex(b"\n") + 20]
    path.write_bytes(cut)
    reader = Reader(made)
    reader.refresh()
    before = len(_state(reader).trials)
    with path.open("ab") as file:
        file.write(whole[len(cut) :])
    assert reader.refresh()
    assert _state(reader).trials == load_state(made).trials and before <= len(_state(reader).trials)


def test_the_finished_trials_are_the_same_whenever_they_are_asked_for(tmp_path):
    points, steps = [0, 1, 0, 2, 1, 3, 0, 3], [1, 1, 1, 3, 3, 3, 3, 1]
    values = [0.5, 0.4, 0.6, 0.2, 0.3, 0.7, 0.1, 0.9]
    events = [header("again", objectives=["max:val/accuracy"], constraints=[])]
    for number, (which, deep, value) in enumerate(zip(points, steps, values, strict=True)):
        events += [Asked(number, Measure(point(which))), Checked(number, {}, "accepted"), Started(number, 1)]
        events.append(Told(number, Result("finished", {"val/accuracy": value}, (value,), deep)))
    state = State(events[0])
    often = []
    for event in events[1:]:
        state.apply(event)
        often.append([trial.number for trial in state.finished()])
    assert often[-1] == [trial.number for trial in load_state(write(tmp_path, events)).finished()] == [3, 4, 5, 6]
    assert [1, 2] in often and [1, 0] not in often
    assert [trial.number for trial in state.ranking()] == [5, 4, 3, 6] and state.best.number == 5


@pytest.mark.parametrize("how", ["replaced", "truncated", "rewritten"])
def test_another_file_is_read_from_its_beginning(made, tmp_path, how):
    reader = Reader(made)
    reader.refresh()
    other = write(tmp_path / "other", [header("other"), *trial(0)])
    path, content = made / JOURNAL, (other / JOURNAL).read_bytes()
    if how == "replaced":
        (other / JOURNAL).replace(path)
    elif how == "truncated":
        path.write_bytes(content)
    else:
        path.write_bytes(content + b" " * 100_000)
    assert reader.refresh()
    assert len(_state(reader).trials) == 1


def test_a_journal_that_is_gone_or_empty_says_so(made):
    reader = Reader(made)
    reader.refresh()
    (made / JOURNAL).unlink()
    with raises(JournalError, "missing", None, made):
        reader.refresh()
    assert reader.state is None
    (made / JOURNAL).touch()
    with raises(JournalError, "empty", None, made):
        reader.refresh()


def test_a_corrupt_line_is_said_each_time_until_it_is_cut_off(made):
    path = made / JOURNAL
    whole = path.read_bytes()
    reader, line = Reader(made), len(whole.splitlines()) + 1
    path.write_bytes(whole + b"no event\n")
    for _ in range(2):
        with raises(JournalError, "unreadable", None, f"jsonl:{line}: "):
            reader.refresh()
        assert len(_state(reader).trials) == 9
    path.write_bytes(whole)
    reader.refresh()
    assert _state(reader).trials == load_state(made).trials


def test_a_time_limit_leaves_lines_for_the_next_call(tmp_path):
    folder = write(tmp_path / "long", [header(), *(event for n in range(40) for event in trial(n))])
    reader = Reader(folder)
    reader.refresh(0)
    assert reader.behind and 0 < reader.progress < 1
    while reader.behind:
        reader.refresh(0)
    assert reader.progress == 1 and _state(reader).trials == load_state(folder).trials


def test_times_of_attempts_and_of_the_search(tmp_path):
    import dataclasses
    import json

    events = [dataclasses.replace(header(), schema=2), *trial(0), *trial(1, "running"), Interrupted(1, 1, "kill")]
    folder = write(tmp_path / "timed", events)
    path = folder / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for second, line in enumerate(lines):
        line["at"] = 1000.0 + second
    lines[-1]["at"] = 2000.0  # a later driver writes this line, so it says nothing about the attempt's end
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reader = Reader(folder)
    reader.refresh()
    assert reader.times.attempts == {0: [(1003.0, 1007.0)], 1: [(1010.0, 1010.0)]}
    assert (reader.times.began, reader.times.latest, reader.times.active) == (1000.0, 2000.0, 10.0)


def test_a_driver_is_seen(made):
    reader = Reader(made)
    assert not reader.running
    journal = Journal(made)
    assert reader.running
    journal.close()


def test_mixed_journals_fold_as_in_one_go(tmp_path):
    events = mixed(12)
    folder = write(tmp_path / "steps", events[:1])
    reader = Reader(folder)
    for event in events[1:]:
        write(folder, [event])
        reader.refresh()
    assert _state(reader).trials == load_state(folder).trials
