"""What `portfolio.py` compares: changes of the default point of `photos`, of its layout and of its recipe."""

from __future__ import annotations

from typing import Any

FOUR = {"stem_stride": 2, "strides": [1, 2, 2, 2]}
THREE = {"stem_stride": 2, "strides": [1, 2, 2]}
ONE = {"stem_stride": 1, "strides": [1, 2, 2]}
BARE = {"ema_decay": 0.0, "keep_last_batch": False}
KEPT = {"ema_decay": 0.0, "keep_last_batch": True}


def adamw(rate: float, decay: float = 0.05, **others: Any) -> dict[str, Any]:
    return {
        "optimizer": "adamw",
        "optimizer.adamw.learning_rate": rate,
        "optimizer.adamw.weight_decay": decay,
        "label_smoothing": 0.0,
        "flip": False,
        "random_erasing": 0.0,
        "batch_size": 32,
        **others,
    }


def sgd(rate: float, **others: Any) -> dict[str, Any]:
    return {"optimizer": "sgd", "optimizer.sgd.learning_rate": rate, "batch_size": 32, **others}


def blocks(first: str, second: str = "identity", **others: Any) -> dict[str, Any]:
    """Return the decisions of four stages with these blocks; numbers of others are widths."""
    values: dict[str, Any] = {}
    for stage in range(4):
        values |= {f"model.stage{stage}.layer0.block": first, f"model.stage{stage}.layer1.block": second}
    return {**values, **others}


def widths(*channels: int) -> dict[str, Any]:
    return {f"model.stage{stage}.width": width for stage, width in enumerate(channels)}


NARROW, WIDE = widths(16, 32, 64, 128), widths(32, 64, 128, 256)


def entry(
    layout: dict[str, Any] = FOUR,
    train: dict[str, Any] | None = None,
    fixed: dict[str, Any] = BARE,
    model: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"layout": layout, "train": train or adamw(0.003), "fixed": fixed, "model": {**NARROW, **(model or {})}}


ENTRIES: dict[str, dict[str, Any]] = {
    "plain": entry(),
    "photos": {},
    "photos, four stages": {"layout": FOUR, "model": {"model.stage3.width": 128}},
    "photos, no average": {"fixed": {"ema_decay": 0.0}},
    "three stages": entry(THREE),
    "stem 1": entry(ONE),
    "average, all batches": entry(fixed={"ema_decay": 0.99, "keep_last_batch": True}),
    "rate .01": entry(train=adamw(0.01)),
    "wide": entry(model=WIDE),
    "batch 16": entry(train=adamw(0.003, batch_size=16)),
    "flip": entry(train=adamw(0.003, flip=True)),
    "deep": entry(model=blocks("residual", "residual")),
    "mobilenet": entry(model=blocks("inverted_3_se", "inverted_3_se", **{"model.activation": "hardswish"})),
    "sgd .05": entry(train=sgd(0.05)),
    "smoothing, erasing": entry(train=adamw(0.003, label_smoothing=0.1, random_erasing=0.25)),
    "rate .001": entry(train=adamw(0.001)),
    "inception": entry(model=blocks("inception", "inception")),
    "pair": entry(model=blocks("pair")),
    "separable": entry(model=blocks("separable_3_se", "separable_3_se")),
    "preactivation": entry(model=blocks("preactivation", "preactivation")),
    "batch 64": entry(train=adamw(0.003, batch_size=64)),
    "all batches": entry(fixed=KEPT),
    "average": entry(fixed={"ema_decay": 0.99, "keep_last_batch": False}),
    "smoothing": entry(train=adamw(0.003, label_smoothing=0.1)),
    "rate .02": entry(train=adamw(0.02)),
    "rate .006": entry(train=adamw(0.006)),
}
