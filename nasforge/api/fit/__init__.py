"""From a folder of images to a proven model, in the time that the user gives.

`fit` is a plan over the other verbs and never a second search loop: inspect the images, measure baselines that need
no network, search from a portfolio of good networks on, choose the winner on images that no candidate was trained on,
train it again on everything but the test split, open the test split once, export, report.
"""

from __future__ import annotations

import os
import re
import time as clock
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.api.fit.log import NO_PRETRAINED, FitLog, Request, entries_of, finished_of, reading, stamp_of, winner_of
from nasforge.api.fit.plan import read_plan
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import PRESETS, seconds_of
from nasforge.core import trust
from nasforge.core.errors import ConfigError, DataError, JournalError, did_you_mean
from nasforge.core.layout import BEST, EXPORTED, REPORT, SEARCH
from nasforge.core.paths import whole_path
from nasforge.core.ranges import check_whole
from nasforge.core.say import Say, to_stderr
from nasforge.core.tracking_uri import NO_TRACKING, chosen_uri
from nasforge.core.tracking_uri import tracking_uri as whole_uri
from nasforge.registry import names
from nasforge.settings.experiment import check_experiment_name
from nasforge.settings.values import is_made, like_source, limits_of, made_of, unknown_source

if TYPE_CHECKING:
    from nasforge.api.export import Exported


_SPELT_OUT = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "æ": "ae", "Æ": "Ae", "ø": "oe"}
    | {"Ø": "Oe", "œ": "oe", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "þ": "th", "Þ": "Th"}
)
OBJECTIVES = ("val/accuracy", "val/balanced_accuracy", "val/f1_macro", "val/loss")


@dataclass(frozen=True)
class Fitted:
    """A fit that has come to its end.

    Attributes:
        folder: of the fit, with `best/`, `exported/` and `report.html`.
        content: all that `--json` prints.
    """

    folder: Path
    content: Mapping[str, Any]

    @staticmethod
    def read(folder: Path | str) -> Fitted:
        """The finished fit in a folder.

        Raises:
            JournalError: there is none, or it has not come to its end.
        """
        folder = Path(folder).absolute()
        finished = finished_of(entries_of(folder))
        if finished is None:
            raise JournalError(f"{folder}: this fit has not finished. Repeat its command to continue it", kind="empty")
        with reading(folder):
            return Fitted(folder, _with_places(folder, finished["content"]))

    @property
    def leaderboard(self) -> list[Row]:
        """The rows of the table, the best on the folds first: by the metric of the fit, by accuracy for the loss."""
        return [Row.from_json(row) for row in self.content["rows"]]

    @property
    def winner(self) -> Row:
        """The row of the network in `best/`."""
        return Row.from_json(winner_of(self.content))

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / REPORT

    def predict(self, files: Sequence[str | Path]) -> list[str | None]:
        """Return the most likely class of every image file; None for a file that cannot be read."""
        return [answer.label for answer in self._answers(files)]

    def predict_proba(self, files: Sequence[str | Path]) -> list[dict[str, float] | None]:
        """Class -> calibrated probability for every image file; None for a file that cannot be read."""
        return [answer.probabilities for answer in self._answers(files)]

    def _answers(self, files: Sequence[str | Path]) -> Any:
        from nasforge.api.predict import predict

        return predict(self.folder / BEST, files)

    def export(self, *to: str, out: str | Path | None = None) -> Exported:
        """Ship the network in further formats: `onnx`, `safetensors`, `torch_export`."""
        from nasforge.api.export import export

        return export(self.folder, to, out or self.folder / EXPORTED)


def fit(
    source: str | Path,
    *,
    time: str | float = "10m",
    constraints: Sequence[str] = (),
    objective: str | None = None,
    preset: str = "balanced",
    plan: str | Path | None = None,
    labels: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    strict: bool = False,
    weights: str | Path | None = None,
    backbone: str | None = None,
    pretrained: str | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    tracking_uri: str | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say = to_stderr,
    began: float | None = None,
) -> Fitted:
    """Find, train and export a network for images, within a time. The same call continues a fit that was stopped.

    Example:
        >>> model = nasforge.fit("photos/", time="10m", constraints=["flops<=40M"])
        >>> model.predict(["a.jpg", "b.jpg"])

    Args:
        source: a folder of classes, one with train, val and test folders, a `.npz` file, `digits`, or the name of a
            data set of torchvision; or a data set that is made of one of these (`addnist:digits`).
        time: from the call to its end: `90s`, `10m`, `2h`, or seconds.
        constraints: hard limits: `flops<=40M`, `params<=300k`, `latency_ms<=5`.
        objective: `val/accuracy`, `val/balanced_accuracy`, `val/f1_macro` or `val/loss`; None: what suits the classes.
        preset: `quick`, `balanced` or `thorough`: many candidates trained shortly, or few trained long.
        plan: `plan.yaml` of another fit, whose decisions are repeated; None: they are made for these images.
        labels: a CSV file with a row per image, in place of a folder per class.
        image_column: of the CSV: the image's path. None: found by its name.
        label_column: of the CSV: its class.
        group_column: of the CSV: the patient, the video...; a group stays on one side of every split.
        strict: refuse unreadable images and tiny classes, in place of leaving them out.
        weights: a file of weights of a timm network, `.safetensors` or `.pth`. The network competes and may win.
        backbone: timm's name of the network of `weights`. None: the file's name tells it.
        pretrained: timm's name of a network whose weights are downloaded; `none`: no pretrained network takes part.
            None: small ones do whose weights are in a local cache.
        name: of the fit's folder in `runs_dir`. None: from the source's.
        runs_dir: where fits and experiments live.
        tracking_uri: of MLflow; `none` for no tracking.
        seed: of splits, search and training.
        device: `auto`, `cpu`, `cuda`...
        say: takes a line for the user.
        began: `time.monotonic()` of when the time began to count, where that was before the call.

    Raises:
        NasforgeError: a user's mistake, in words; nothing that was finished is lost.
        KeyboardInterrupt: after Ctrl-C; the same call continues.
    """
    started = clock.monotonic() if began is None else began
    seconds = seconds_of(time)
    if preset not in PRESETS:
        raise ConfigError(f"preset: got '{preset}'; {did_you_mean(preset, PRESETS)}", kind="unknown", key="preset")
    if objective is not None and objective not in OBJECTIVES:
        raise ConfigError(
            f"objective: got '{objective}'; {did_you_mean(objective, OBJECTIVES)}", kind="unknown", key="objective"
        )
    check_whole(seed, "seed", 0)
    limits = tuple(map(str, limits_of(list(constraints), None)))
    text = str(source)
    place = _place_of(text)
    inner = _innermost(place)
    folder = whole_path(runs_dir) / check_experiment_name(_name_of(text) if name is None else name)
    if (is_made(inner) or not inner) and (problem := unknown_source(place)):
        raise DataError(f"data: {problem}", kind="unknown", key="data")
    if inner not in names("data") and not _is_there(inner):
        raise DataError(
            f"data: there is no file or folder {inner}{like_source(_innermost(text))}", kind="missing", key="data"
        )
    file = None if weights is None else os.path.normpath(whole_path(weights))
    if backbone is not None and file is None:
        raise ConfigError(
            f"backbone: got '{backbone}' without weights. Give --weights FILE, or --pretrained {backbone}",
            kind="missing",
            key="weights",
        )
    if file is not None or pretrained not in (None, NO_PRETRAINED):
        from nasforge.api.fit.pretrained.weights import check_asked

        check_asked(file, backbone, pretrained)
    decisions = None if plan is None else read_plan(whole_path(plan))
    if decisions and objective is not None and decisions.get("metric", objective[4:]) != objective[4:]:
        raise ConfigError(
            f"objective: got '{objective}', and {plan} says metric: {decisions['metric']}. Give one of the two",
            kind="conflict",
            key="objective",
        )
    request = Request(
        source=place,
        labels=None if labels is None else os.path.normpath(whole_path(labels)),
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        constraints=limits,
        objective=objective,
        preset=preset,
        seed=seed,
        device=device,
        strict=strict,
        weights=file,
        backbone=backbone,
        pretrained=pretrained,
        plan=decisions,
    )
    inputs = {**asdict(request), "data_stamp": stamp_of(inner, request.labels, folder)}
    if file is not None:
        inputs["weights_stamp"] = stamp_of(file, None)
    with trust.from_user(say), FitLog(folder, inputs, started) as log:
        last = finished_of(log.entries)
        if last is not None and last["seconds"] >= seconds:
            say("This fit is complete: nothing is trained. A larger --time continues it.")
            return Fitted.read(folder)
        from nasforge.api.fit.run import run
        from nasforge.api.track import track_results

        store = _store(tracking_uri, folder)
        run(log, request, seconds, store, say)
        track_results(folder / SEARCH, store, say)
    return Fitted.read(folder)


def _with_places(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with whole paths."""
    files = {name: str(folder / EXPORTED / file) for name, file in content["exported"].items()}
    network, report = str(folder / BEST), str(folder / REPORT)
    return {**content, "network": network, "exported": files, "report": report}


def _place_of(source: str) -> str:
    """Return a registered name as it is, and a path as an absolute one; also behind the colon of `addnist:digits`."""
    if source in names("data") and not Path(source).is_absolute():
        return source
    if pair := made_of(source):
        return f"{pair[0]}:{_place_of(pair[1]) if pair[1] else ''}"
    return os.path.normpath(whole_path(source))


def _innermost(source: str) -> str:
    """Return the data set that others are made of: `digits` of `addnist:digits`."""
    pair = made_of(source)
    return _innermost(pair[1]) if pair else source


def _is_there(place: str) -> bool:
    try:
        return Path(place).exists()
    except OSError as error:
        raise DataError(
            f"data {place} cannot be read ({error.strerror}); allow to read it, or name other data",
            kind="unreadable",
            key="data",
        ) from None


def _name_of(source: str) -> str:
    """Return a fit's name from its source: `photos-fit` of `data/photos/`, `Kaefer-fit` of `Käfer/`."""
    if pair := made_of(source):
        return f"{pair[0]}-{_name_of(pair[1])}"
    readable = unicodedata.normalize("NFC", whole_path(source).stem).translate(_SPELT_OUT)
    stem = "".join(letter for letter in unicodedata.normalize("NFKD", readable) if not unicodedata.combining(letter))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")
    return f"{stem or 'data'}-fit"


def _store(uri: str | None, folder: Path) -> str:
    """MLflow's store: the one of the runs folder, whatever lies in the fit's."""
    chosen = chosen_uri(uri)
    return chosen if chosen == NO_TRACKING else whole_uri(chosen, folder.parent)
