"""The confusion matrix of the winner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nasforge.dashboards.library import Entry, fit_lines

_MOST_IN_MATRIX = 30


def confusions(entry: Entry, outcome: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the confusion matrix of the winner, where its answers on the test split are stored."""
    places = []
    lines = fit_lines(entry.folder) if outcome is not None else []
    for line in lines:
        named = (line.get("row"), (line.get("figures") or {}).get("name")) if line["kind"] == "tested" else ()
        if outcome is not None and outcome["winner"] in named:
            places.append(entry.folder / "answers" / f"{str(line['what']).replace(' ', '_')}.npz")
    places += [entry.folder / "best" / "answers.npz", *sorted((entry.folder / "finalists").glob("*/answers.npz"))]
    path = next((place for place in places if place.is_file()), None)
    if path is None or not path.resolve().is_relative_to(entry.folder.resolve()):
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            truth = np.asarray(stored["truth"]).astype(int)
            scores = stored["probabilities"] if "probabilities" in stored else stored["logits"]
            answers = np.asarray(scores).argmax(1)
    except (OSError, ValueError, KeyError, IndexError, EOFError):
        return None
    classes = int(max(truth.max(initial=0), answers.max(initial=0), np.asarray(scores).shape[1] - 1)) + 1
    if not len(truth) or truth.min() < 0 or len(truth) != len(answers):
        return None
    names = [str(name) for name in (outcome or {}).get("classes", [])]
    names = names if len(names) == classes else [str(index) for index in range(classes)]
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (truth, answers), 1)
    wrong = [
        (int(counts[i, j]), names[i], names[j])
        for i in range(classes)
        for j in range(classes)
        if i != j and counts[i, j]
    ]
    wrong.sort(reverse=True)
    cells = None
    if classes <= _MOST_IN_MATRIX:
        top = counts.sum(1, keepdims=True).clip(min=1)
        shades = np.ceil(9 * counts / top).astype(int)
        cells = [
            (names[i], [(int(n), int(s)) for n, s in zip(counts[i], shades[i], strict=True)]) for i in range(classes)
        ]
    return {"names": names, "cells": cells, "wrong": wrong[:12], "images": len(truth), "right": int(np.trace(counts))}
