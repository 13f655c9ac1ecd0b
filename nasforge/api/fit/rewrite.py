"""The report of a finished fit, written again: after the page was lost, or by a newer NASForge."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

from nasforge.api.fit.log import FitLog, Request, entries_of, finished_of, reading
from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.layout import FIT, REPORT
from nasforge.core.say import silent
from nasforge.core.tracking_uri import NO_TRACKING


def rewrite_report(folder: Path, page: Path | None = None) -> Path:
    """Write the page of a fit from its log and files; returns the page.

    Args:
        folder: of the fit.
        page: the file; None for `report.html` in the folder.

    Raises:
        JournalError: there is no fit in the folder, it has not come to its end, or a process works on it.
        NasforgeError: a file that the page shows is missing.
    """
    from nasforge.api.fit.report import write_report
    from nasforge.api.fit.ship import test_answers_of
    from nasforge.api.fit.work import Work

    entries = entries_of(folder)
    finished = finished_of(entries)
    if finished is None:
        raise JournalError(f"{folder}: this fit has not finished. Repeat its command to continue it", kind="empty")
    with reading(folder), FitLog(folder, entries[0]["inputs"], time.monotonic()) as log:
        inputs, content = entries[0]["inputs"], finished["content"]
        tested = log.last("tested", row=content["winner"])
        if tested is None:
            raise JournalError(
                f"{folder / FIT}: has no answers of {content['winner']}. Restore it from a backup", kind="missing"
            )
        work = Work(log, _request_of(folder, inputs), float(finished["seconds"]), NO_TRACKING, silent)
        answers = test_answers_of(work, str(tested["what"]))
        if not answers.is_file():
            raise ConfigError(f"{answers}: this file is missing, and the report needs it. Restore it", kind="missing")
        page = page or folder / REPORT
        write_report(page, work, content, answers)
    return page


def _request_of(folder: Path, inputs: dict[str, object]) -> Request:
    names = {field.name for field in fields(Request)}
    known = {key: value for key, value in inputs.items() if key in names}
    try:
        return Request(**known)  # type: ignore[arg-type]
    except TypeError as error:
        raise JournalError(
            f"{folder / FIT}:1: this line is corrupt ({error}). Restore the file from a backup", kind="unreadable"
        ) from None
