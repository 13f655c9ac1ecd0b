"""What `nasforge show NAME --trial N` prints beyond metrics: the health of the training, and class by class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nasforge.cli.output import line, table
from nasforge.core.trial import Trial
from nasforge.views import health

_SHOWN = 30


def show_health(trial: Trial) -> list[str]:
    """Print the diagnostics of the latest report, if there are any, and return the advice."""
    said = health.advice(trial)
    if said:
        latest = next(step for step in reversed(trial.steps) if any(k.startswith(health.HEALTH) for k in step.metrics))
        rows = [
            (
                row["part"],
                *("" if row[key] is None else f"{row[key]:.3g}" for key in ("gradient_norm", "activation")),
                "" if row["dead_relus"] is None else f"{row['dead_relus']:.0%}",
            )
            for row in health.parts(latest.metrics)
        ]
        columns = ("part", "gradient norm", "activation (rms)", "dead ReLUs")
        table(f"Health after epoch {latest.step}", columns, rows, left=("part",))
        for sentence in said:
            line(f"  {sentence}")
    return said


def show_classes(folder: Path, trial: Trial) -> dict[str, Any] | None:
    """Print precision, recall and F1 of every class, if the trial wrote them, and return them with the confusion."""
    artifact = trial.result.artifacts.get("classes") if trial.result else None
    if artifact is None:
        return None
    file = artifact.inside(folder)
    if not file.is_file():
        line("Figures by class were deleted with the trial's weights: only the best trials keep theirs.")
        return None
    content: dict[str, Any] = json.loads(file.read_text())
    names = [row["class"] for row in content["classes"]]
    rows = []
    for index, row in enumerate(content["classes"]):
        answered = zip(names, content["confusion"][index], strict=True)
        wrong = {name: count for name, count in answered if name != row["class"]}
        taken = max(wrong, key=wrong.__getitem__, default="")
        said = f"{taken} ({wrong[taken]})" if wrong.get(taken) else ""
        rows.append((row["f1"], (row["class"], str(row["images"]), *(f"{row[k]:.3f}" for k in _FIGURES), said)))
    worst = [shown for _, shown in sorted(rows, key=lambda pair: pair[0])[:_SHOWN]]
    more = f", the {_SHOWN} worst of {len(rows)}" if len(rows) > _SHOWN else ""
    columns = ("class", "images", *_FIGURES, "most often taken for")
    table(f"Classes on the validation part, by F1{more}", columns, worst, left=("class", "most often taken for"))
    return content


_FIGURES = ("precision", "recall", "f1")
