"""The log of one trial."""

import dataclasses
from pathlib import Path

from expecting import raises
from made_journal import header, mixed, point, trial, write

from nasforge.core.errors import JournalError
from nasforge.core.events import Asked, Checked, Interrupted, Reported, Started, Told
from nasforge.core.layout import JOURNAL
from nasforge.core.trial import Artifact, Measure, Origin, Result
from nasforge.views.trial_log import log_of, tracebacks


def texts(folder: Path, number: int) -> list[str]:
    return [line.text for line in log_of(folder, number)]


def test_a_log_has_the_events_of_its_trial_alone(tmp_path: Path) -> None:
    weights = Artifact("artifacts/0/attempt-1/weights.safetensors", "0" * 64, 3)
    asked = Asked(12, Measure(point(1), weights=weights, origin=Origin((1, 2), "crossover", 3, "joint")))
    events = [asked, Checked(12, {"cost/params": 9.0}, "accepted"), Started(12, 1), Interrupted(12, 1), Started(12, 2)]
    events += [Interrupted(12, 2, "kill"), Started(12, 3)]
    events += [Reported(12, 3, 1, {"val/accuracy": 0.5}, "stop"), Told(12, Result("pruned", values=(0.5, 1.0)))]
    made = [dataclasses.replace(header(), schema=2), *(event for n in range(12) for event in trial(n)), *events]
    folder = write(tmp_path / "made", made)
    lines = log_of(folder, 12)
    assert [line.text for line in lines] == [
        f"a network is proposed with the weights {weights.path} (joint crossover of trial 1 and 2)",
        "accepted",
        "attempt 1 begins",
        "attempt 1 ends: the driver stopped on request",
        "attempt 2 begins",
        "attempt 2 ends: the process of the search ended or was killed",
        "attempt 3 begins",
        "epoch 1 of attempt 3, and the pruner stops it",
        "pruned",
    ]
    kinds = ["asked", "checked", *("started", "interrupted") * 2, "started", "reported", "told"]
    assert [line.event for line in lines] == kinds
    assert lines[1].metrics == {"cost/params": 9.0} and all(line.at for line in lines)
    assert texts(folder, 1)[-1] == "finished" and len(texts(folder, 1)) == 7


def test_failures_and_rejections_say_why(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", mixed())
    assert texts(folder, 3)[-1] == "failed by diverged: the loss became NaN in epoch 1; lower the learning rate"
    assert texts(folder, 5)[1:] == ["rejected", "rejected"] and log_of(folder, 5)[0].at is None
    with raises(JournalError, "unknown", "trial", "99"):
        log_of(folder, 99)
    with raises(JournalError, "missing", None, "none"):
        log_of(tmp_path / "none", 0)


def test_a_journal_with_other_spaces_and_a_torn_line_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", mixed())
    path = folder / JOURNAL
    before = texts(folder, 1)
    path.write_text(path.read_text().replace('"number":', '"number" : ') + '{"event":"started","number":1,"att')
    assert texts(folder, 1) == before
    path.write_text(path.read_text().replace('"continue"', '"perhaps"'))
    with raises(JournalError, "unreadable", "decision", "perhaps"):
        log_of(folder, 1)


def test_tracebacks_come_by_attempt_and_from_inside_the_folder_only(tmp_path: Path) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    for attempt, text in ((2, "second"), (10, "x" * 30_000 + "end"), (1, "first")):
        folder = tmp_path / "made" / "artifacts" / "7" / f"attempt-{attempt}"
        folder.mkdir(parents=True)
        (folder / "traceback.txt").write_text(text)
    (tmp_path / "made" / "artifacts" / "7" / "attempt-3").mkdir()
    (tmp_path / "made" / "artifacts" / "7" / "attempt-3" / "traceback.txt").symlink_to(outside)
    kept = tracebacks(tmp_path / "made", 7)
    assert [attempt for attempt, _ in kept] == [1, 2, 10] and kept[0][1] == "first"
    assert len(kept[2][1]) == 20_000 and kept[2][1].endswith("end")
    assert tracebacks(tmp_path / "made", 8) == []
