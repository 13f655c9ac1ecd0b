"""A campaign over several sittings: the journals of finished searches stay beside the figures, runs folders do not."""

from __future__ import annotations

import gzip
from pathlib import Path

from nasforge.core.layout import JOURNAL
from nasforge.experiment.state import load_state


class Journals:
    """Kept as `<result without .json>/<search>.jsonl.gz`; a search whose folder is gone gets its journal back.

    The same command then finds it finished: nothing of it is trained again, only its weights are lost.

    Args:
        result: the campaign's result file; another `--out` has other journals.
        runs_dir: where the campaign's experiments live.
    """

    def __init__(self, result: Path, runs_dir: Path) -> None:
        self._kept, self._runs_dir = result.with_suffix(""), runs_dir
        for kept in sorted(self._kept.glob("*.jsonl.gz")):
            journal = runs_dir / kept.name.removesuffix(".jsonl.gz") / JOURNAL
            if not journal.exists():
                journal.parent.mkdir(parents=True, exist_ok=True)
                journal.write_bytes(gzip.decompress(kept.read_bytes()))

    def keep(self, name: str) -> None:
        """Keep the journal of a search whose budget is spent; a stopped one lasts as long as its folder."""
        folder = self._runs_dir / name
        state = load_state(folder)
        if state.spent and not state.open_trials:
            kept = self._kept / f"{name}.jsonl.gz"
            kept.parent.mkdir(parents=True, exist_ok=True)
            draft = kept.with_suffix(".tmp")
            draft.write_bytes(gzip.compress((folder / JOURNAL).read_bytes(), mtime=0))
            draft.rename(kept)
