"""Sentences about the result of a fit and its images: the terminal, its report and the dashboard have the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasforge.core.metrics import short_name
from nasforge.views.rounding import fixed

_MOST_CLASSES = 8


def warnings_on(content: Mapping[str, Any]) -> list[str]:
    """Return what a user must know before the result of a fit, in sentences; `content` is the object of `--json`."""
    warnings = []
    if content.get("nothing_learnt"):
        warnings.append(
            "Nothing was learnt: no network is better than always answering the largest class. Check the labels, give "
            "more time, or add images of the small classes."
        )
    warnings += [_on_baseline(content, name) for name in content.get("beaten_by", ())]
    if content.get("test_seen_before"):
        warnings.append("The test split was seen before, by an earlier decision of this fit.")
    return warnings


def _on_baseline(content: Mapping[str, Any], name: str) -> str:
    """Return the sentence on a baseline that is ahead on validation images, and what the test split says of it."""
    rows = {row["name"]: row for row in content.get("rows", ())}
    won, baseline = (rows.get(key, {}).get("test", {}) for key in (content.get("winner"), name))
    metric = str(content.get("metric"))
    metric = metric if metric in won else "accuracy"  # the table has no log loss
    if metric in won and metric in baseline and won[metric] > baseline[metric]:
        return (
            f"{name} is ahead of the network on validation images, but the network is ahead on the test split, with "
            f"{short_name(metric)} {fixed(won[metric], 4)} against {fixed(baseline[metric], 4)}. "
            "Give more time or more images to tell them apart."
        )
    return (
        f"{name} is ahead of the network on images that neither was trained on, and needs no network. Prefer it, "
        "or give more time or more images."
    )


def sentence_on_test(content: Mapping[str, Any]) -> str:
    """Return the size of the test split and when it was opened, without a full stop; the line at a table goes on."""
    seen = content["test_seen_before"]
    opened = "seen before, by an earlier choice of this fit" if seen else "opened after the choice"
    return f"test: {content['split']['test']} images, {opened}"


def more_photos(content: Mapping[str, Any]) -> str:
    """Return the sentence on what twice the photos would give; empty where it was not measured."""
    if "twice" not in content:
        return ""
    twice = content["twice"]
    return (
        f"Twice the photos: about {fixed(100 * twice['gain'], 1, '+')} % accuracy "
        f"({fixed(100 * twice['low'], 1)} to {fixed(100 * twice['high'], 1)})"
    )


def sentences_on(inspection: Mapping[str, Any]) -> list[str]:
    """Return an inspection, JSON-able, as sentences for the user."""
    classes = sorted(inspection["classes"].items(), key=lambda pair: -pair[1])
    names = [name if name.isprintable() else repr(name) for name, _ in classes[:_MOST_CLASSES]]
    some = ", ".join(f"{name} ({count})" for name, (_, count) in zip(names, classes, strict=False))
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    lines = [f"{inspection['images']:,} images of {len(classes)} classes: {some}{more}"]
    listed = {
        "unreadable images, left out": [f"{name}: {reason}" for name, reason in inspection["unreadable"].items()],
        "classes left out": [f"{name}: {reason}" for name, reason in inspection["left_out"].items()],
        "equal images with different classes": [" = ".join(names) for names in inspection["two_labels"]],
        "equal images, kept on one side of every split": [" = ".join(names) for names in inspection["duplicates"]],
        "nearly equal images, kept on one side of every split": [
            " ~ ".join(names) for names in inspection["near_duplicates"]
        ],
    }
    lines += [f"{what}: {len(every)}, such as {every[0]}" for what, every in listed.items() if every]
    return [*lines, *inspection["notes"]]
