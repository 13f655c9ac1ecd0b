"""Any content as JSON has it: for files and `--json`, which other programs read."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any


def plain(content: Any) -> Any:
    """`content` with nothing in it that JSON does not have, or that no float can hold."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, int) and abs(content) > sys.float_info.max:  # most readers of JSON take it for infinite
        return None
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(item) for item in content]
    if content is None or isinstance(content, (str, int, bool)):
        return content
    return str(content)
