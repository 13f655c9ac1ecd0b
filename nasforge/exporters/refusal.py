"""Reason for which torch refuses to export a network: one sentence and the line."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from nasforge.core.errors import one_line

_LOGGERS = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")
_TORCH = str(Path(torch.__file__).parent)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch prints, logs and warns about an export away from our output."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """Return why an export was refused: the first paragraph of the innermost cause, and the line that led to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    paragraph = str(error).strip().partition("\n\n")[0]
    reason = one_line(paragraph) or type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_TORCH)]
    calls = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent]
    return f"{reason} ({calls[-1].filename}, line {calls[-1].lineno})" if calls else reason
