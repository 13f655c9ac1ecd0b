"""Metrics by their keys: which direction is better, what an axis calls them, how a value is printed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from nasforge.core.errors import ConfigError

PROXY = "zc/"
"""Prefix of zero-cost proxy metrics."""


@dataclass(frozen=True)
class Metric:
    """A metric that the platform reports.

    Attributes:
        key: as in MLflow: `val/accuracy`.
        maximise: whether more is better.
        title: its name on an axis.
        form: how a value is printed: `number`, `count` (40.0M) or `seconds`.
        short: its name in sentences, without the split; empty: the key's last part, without underscores.
    """

    key: str
    maximise: bool
    title: str
    form: str = "number"
    short: str = ""


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("val/accuracy", True, "validation accuracy"),
        Metric("val/accuracy_std", False, "standard deviation of the validation accuracy"),
        Metric("val/balanced_accuracy", True, "balanced validation accuracy"),
        Metric("val/f1_macro", True, "validation F1 (macro)", short="macro F1"),
        Metric("val/precision_macro", True, "validation precision (macro)", short="macro precision"),
        Metric("val/recall_macro", True, "validation recall (macro)", short="macro recall"),
        Metric("val/roc_auc", True, "validation ROC AUC", short="ROC AUC"),
        Metric("val/loss", False, "validation loss", short="log loss"),
        Metric("train/loss", False, "training loss"),
        Metric("supernet/accuracy", True, "validation accuracy of the supernet"),
        Metric("supernet/derived_accuracy", True, "validation accuracy of the derived network"),
        Metric("cost/flops", False, "FLOPs (multiply-adds)", "count"),
        Metric("cost/params", False, "parameters", "count"),
        Metric("cost/memory_mb", False, "training memory (MB)"),
        Metric("cost/latency_ms", False, "latency (ms)"),
        Metric("time/train_s", False, "training time (s)", "seconds"),
        Metric("time/worker_s", False, "worker time (s)", "seconds"),
        Metric("work/multiply_adds", False, "multiply-adds of the training", "count"),
        Metric("constraint/violation", False, "relative excess over the constraints"),
    )
}
"""The metrics that the platform itself reports, by key."""

BUDGETS: dict[str, str] = {"trials": "trials", "worker_seconds": "worker time", "multiply_adds": "multiply-adds"}
"""Name of each limit of a search's budget, for people."""

_GROUPS = {"cost/": False, "time/": False, "work/": False, "constraint/": False, PROXY: True}
"""Prefixes whose metrics all have one direction, those of a user's own table or proxy too."""


def _listed(words: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", words))


_MORE = _listed(
    """accuracy accuracies acc f1 fbeta auc auroc auprc roc recall precision sensitivity specificity psnr ssim bleu
    rouge meteor cider map ap miou iou dice jaccard kappa mcc r2 likelihood correlation corr spearman pearson kendall
    reward throughput fps tpr tnr ppv npv snr ndcg mrr hypervolume"""
)
_LESS = _listed(
    """mse mae rmse mape smape msle rmsle nll bce ce xent loss losses error errors err perplexity ppl bpc bpd wer cer
    eer fid kid lpips ece brier latency runtime time seconds duration delay params parameters flops macs madds memory
    size bytes energy power joules cost costs regret risk deviance divergence distance violation violations fpr fnr
    miss misses carbon emissions"""
)
_SPREAD = _listed("std stdev var variance sem stderr")
_NEGATED = _listed("neg minus negated inverse inverted inv")


def direction(key: str) -> bool | None:
    """Return whether more of a metric is better: by its prefix, else by the words of the last part of its key.

    Example:
        >>> direction("val/top1_accuracy"), direction("val/mse_std"), direction("val/score")
        (True, False, None)

    Returns:
        True to maximise, False to minimise; None where the name does not say it, or says both.
    """
    if key in METRICS:
        return METRICS[key].maximise
    for prefix, maximise in _GROUPS.items():
        if key.startswith(prefix):
            return maximise
    return _deciding(key)[1]


def column_direction(column: str) -> bool | None:
    """Return `direction` of a table's column, as its options name it: `val_mse{epochs}`, `curves[12]`."""
    return _deciding(_plain_column(column))[1]


def metric_of_column(column: str) -> str | None:
    """Return the metric of a column that is minimised by its name: `val/mse` of `valid_mse`; else None."""
    word, maximise = _deciding(_plain_column(column))
    return f"val/{word}" if maximise is False else None


def ask_for_direction(metric: str, what: str = "objective", *, key: str | None = None) -> ConfigError:
    """Return the error for a metric whose name does not tell its direction.

    Args:
        metric: its name.
        what: where it stands, for the message.
        key: key of the error; None: the metric.
    """
    last = metric.rpartition("/")[2]
    near = difflib.get_close_matches(last, {known.rpartition("/")[2] for known in METRICS} | _MORE | _LESS, n=1)
    hint = f" (did you mean '{metric.removesuffix(last)}{near[0]}'?)" if near else ""
    return ConfigError(
        f"{what} '{metric}'{hint}: its direction is unknown. Write max:{metric} or min:{metric}",
        kind="missing",
        key=key or metric,
    )


def better(maximise: bool) -> str:
    """Return `max` or `min`."""
    return "max" if maximise else "min"


def title_of(key: str) -> str:
    """Return a metric's name for an axis: `test F1 (macro)` of `test/f1_macro`."""
    if key in METRICS:
        return METRICS[key].title
    validated = f"val/{key.removeprefix('test/')}"
    if key.startswith("test/") and validated in METRICS:
        return METRICS[validated].title.replace("validation", "test")
    return key


def short_name(key: str) -> str:
    """Return a metric's name in sentences, without its split: `macro F1` of `test/f1_macro` and of `f1_macro`."""
    name = key.partition("/")[2] or key
    known = METRICS.get(key) or METRICS.get(f"val/{name}")
    return known.short if known is not None and known.short else name.replace("_", " ")


def form_of(key: str) -> str:
    """Return the format of a metric's values: `number`, `count` or `seconds`."""
    if key in METRICS:
        return METRICS[key].form
    return "seconds" if key.startswith("time/") else "number"


def _plain_column(column: str) -> str:
    """Return a column's name without its pattern and its place in an array."""
    return re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", column)


def _deciding(key: str) -> tuple[str, bool | None]:
    """Return the word that decides the direction, and the direction; None if no word does, or two contradict."""
    words = list(_words(key.rstrip("/ ").rpartition("/")[2]))
    if not words:
        return "", None
    if "likelihood" in words and {"neg", "negative"} & {*words}:
        return "nll", False
    known = {word: False for word in words if word in _LESS or word.endswith(("loss", "error"))}
    known |= {word: True for word in words if word in _MORE}
    if "false" in words:
        known |= {"false": False}
    elif "true" in words and {"positive", "negative", "positives", "negatives"} & {*words}:
        known |= {"true": True}
    elif {*words} & (_NEGATED | {"negative"}) or (words[0] in ("1", "one") and known):
        return "", None
    if {"cross", "entropy"} <= {*words} or "crossentropy" in words:
        known |= {"cross_entropy": False}
    spread = [word for word in words if word in _SPREAD]
    if spread:
        return spread[-1], False
    if len(set(known.values())) != 1:
        return "", None
    return next(reversed(known.items()))


def _words(text: str) -> Iterable[str]:
    """Return the words of a name in lower case without trailing numbers: `ap` of `AP50`, `mse` of `valMSE`."""
    for token in re.findall(r"[A-Za-z0-9]+", text):
        lower = token.lower()
        if lower in _MORE or lower in _LESS or lower.isdecimal():
            yield lower
        elif (bare := lower.rstrip("0123456789")) in _MORE or bare in _LESS:
            yield bare
        else:
            parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", token)
            yield from (part.lower() for part in parts)
