"""Consent to run code that a stored text names: `module:attribute` in a network folder or a journal.

`admit` alone decides. Where the text comes from is set by the entry point that reads the file:

* `from_user()`: the user's own settings. Naming a module in them is consent, which is remembered.
* `foreign(folder)`: a file that may be somebody else's. A module needs consent: remembered, or `trust=True`.
* `view()`: somebody only looks. No module is imported at all.
* nothing of these: Python code of the user's calls us with texts of its own.

Consent is remembered in files outside every runs folder, one for each pair of text and module file. A record holds
the hash of the file, so a changed module, or a copy in another folder, needs consent again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasforge.core.errors import TrustError
from nasforge.core.say import Say, silent

STATE_DIR = "NASFORGE_STATE_DIR"
"""Environment variable: the folder that holds the records of consent."""

OURS = frozenset(
    {
        "nasforge.models.darts_genotype:derive",
        "nasforge.models.darts_genotype:genotype",
        "nasforge.models.ensemble:build",
        "nasforge.models.nasbench201_cells:canonical",
        "nasforge.models.nasbench201_cells:text",
        "nasforge.models.reference:build",
        "nasforge.models.textbook:build",
        "nasforge.runners.ray_tune.trainings:side_by_side",
    }
)
"""Texts that this package itself writes or uses, in addition to registered names."""


@dataclass(frozen=True)
class _Source:
    """Source of the texts that are being read.

    Attributes:
        kind: `user`, `foreign` or `view`.
        folders: what is loaded; no module below one of them runs.
        trust: the user has agreed for this call.
        say: takes a sentence for the user.
        admitted: texts that were admitted in this block.
    """

    kind: str
    folders: tuple[Path, ...] = ()
    trust: bool = False
    say: Say = silent
    admitted: set[str] = field(default_factory=set)


_SOURCE: ContextVar[_Source | None] = ContextVar("source", default=None)


@contextmanager
def _source(source: _Source) -> Iterator[None]:
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)


@contextmanager
def from_user(say: Say = silent) -> Iterator[None]:
    """Read the user's own settings, which may name code; inside `foreign` or `view` those rules stay in force."""
    with _source(_SOURCE.get() or _Source("user", say=say)):
        yield


@contextmanager
def typed() -> Iterator[None]:
    """Read texts that the user typed for this very call, whatever file is being read around them."""
    with _source(_Source("user")):
        yield


@contextmanager
def foreign(folder: Path | str, *, trust: bool = False) -> Iterator[None]:
    """Read a file below `folder` that names code; `trust` is the user's consent, also for nested files."""
    around = _SOURCE.get()
    if around is not None and around.kind == "view":
        yield
        return
    loaded = Path(folder).expanduser().resolve()
    if around is not None and around.kind == "foreign":
        loading = _Source("foreign", (*around.folders, loaded), trust or around.trust)
    else:
        loading = _Source("foreign", (loaded,), trust)
    with _source(loading):
        yield


@contextmanager
def view() -> Iterator[None]:
    """Read files only to show them: only registered names are imported."""
    with _source(_Source("view")):
        yield


def admit(reference: str, what: str, files: Sequence[Path] = (), *, changed: bool = False) -> None:
    """Decide whether the code that a text names may run.

    Args:
        reference: `module:attribute`, or any other text that can make code run, such as the address of a Ray cluster.
        what: how a message calls it: `builder 'mine:build'`.
        files: the files that importing the module would run.
        changed: only an earlier consent leads to the files, and they have changed since then.

    Raises:
        TrustError: the text comes from a file, and the user has not agreed to it.
    """
    source = _SOURCE.get()
    if changed and (source is None or source.kind == "user"):
        raise TrustError(
            f"{what}: {_changed(files)}. Read it; then type the command in that folder, or add the folder to "
            "PYTHONPATH",
            kind="untrusted",
            key=plugin_kind(what),
        )
    if source is None or reference in OURS or reference in source.admitted:
        return
    if source.kind == "view":
        raise TrustError(
            f"{what} is code outside NASForge, and a view never imports code. Use a command that runs it",
            kind="untrusted",
            key=plugin_kind(what),
        )
    resolved = [file.resolve() for file in files]
    if source.kind == "foreign" and not _is_remembered(reference, resolved):
        _refuse_below(source.folders, resolved, what)
        if not source.trust and resolved and _is_known(reference, resolved):
            raise TrustError(
                f"{what}: {_changed(resolved)}. Read it; then add --trust to the command (in Python: trust=True)",
                kind="untrusted",
                key=plugin_kind(what),
            )
        if not source.trust:
            where = f" ({resolved[-1]})" if resolved else ""
            raise TrustError(
                f"{what}{where} is named by a file in {source.folders[-1]}, and you have not agreed to run it on this "
                "machine. Read that code first; then add --trust to the command (in Python: trust=True)",
                kind="untrusted",
                key=plugin_kind(what),
            )
    _consented(source, reference, resolved, what)


def admit_place(reference: str, what: str, refusal: str) -> None:
    """Decide whether data may go to a place that a text names; unlike code, a view may use it after an earlier consent.

    Args:
        reference: the place.
        what: how a message calls it: `tracking_uri 'http://host:5000'`.
        refusal: message for a user who has not agreed: who names the place, and how to agree.

    Raises:
        TrustError: the text comes from a file, and the user has not agreed to it.
    """
    source = _SOURCE.get()
    if source is None or reference in source.admitted:
        return
    if source.kind != "user" and not source.trust and not _is_remembered(reference, []):
        raise TrustError(refusal, kind="untrusted", key=plugin_kind(what))
    _consented(source, reference, [], what)


def _consented(source: _Source, reference: str, files: Sequence[Path], what: str) -> None:
    """Remember a consent; say so where it cannot be stored."""
    source.admitted.add(reference)
    try:
        _remember(reference, files)
    except OSError as error:
        where = f" in {error.filename}" if error.filename else ""
        source.say(
            f"Note: your consent to {what} cannot be stored{where} ({error.strerror or error}), so later "
            f"commands will ask for --trust. Set {STATE_DIR} to a folder that you may write to."
        )


def remembered_folders(reference: str, depth: int, *, changed: bool = False) -> list[Path]:
    """Return folders whose modules the user agreed to under this text, and which have not changed since.

    Args:
        reference: `module:attribute`.
        depth: how many folders the module's file lies below the folder that is searched for it.
        changed: return those that have changed since instead.
    """
    folders = []
    for record in _records(reference):
        files = [Path(file) for file in record["files"]]
        if files and len(files[-1].parents) > depth and _is_remembered(reference, files) != changed:
            folders.append(files[-1].parents[depth + (files[-1].name == "__init__.py")])
    return list(dict.fromkeys(folders))


def state_dir() -> Path:
    """Return the folder of the records.

    It is `$NASFORGE_STATE_DIR`, else `nasforge` in `$XDG_STATE_HOME` or `~/.local/state`.

    Raises:
        OSError: it is in the home folder, and this user has none, as in some containers.
    """
    try:
        if configured := os.environ.get(STATE_DIR):
            return Path(configured).expanduser().absolute()
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").absolute() / "nasforge"
    except RuntimeError:
        raise OSError(errno.ENOENT, "this user has no home folder") from None


def _refuse_below(folders: Sequence[Path], files: Sequence[Path], what: str) -> None:
    for file in files:
        if any(file.is_relative_to(folder) for folder in folders):
            raise TrustError(
                f"{what} is {file}, inside the folder that is loaded. Code that comes with a network or a runs "
                "folder never runs. Read it, and move it to a folder of your own",
                kind="untrusted",
                key=plugin_kind(what),
            )


def plugin_kind(what: str) -> str:
    """Return the kind of a plug-in, the key of errors about it: `builder` of `builder 'mine:build'`."""
    return what.partition(" ")[0]


# --- the records ------------------------------------------------------------------------------------------------------


def _records(reference: str) -> Iterator[dict[str, Any]]:
    """Return the records of one text, the latest first, without damaged ones."""
    paths = []
    with suppress(OSError):
        folder = state_dir() / "trusted"
        paths = sorted(folder.glob(f"{_short(reference)}-*.json"), key=lambda path: -path.stat().st_mtime)
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["reference"] == reference and isinstance(record["files"], list):
                yield record


def _is_remembered(reference: str, files: Sequence[Path]) -> bool:
    known = [str(file) for file in files]
    try:
        return any(
            record["files"] == known and record.get("sha256") == _hash_of(files) for record in _records(reference)
        )
    except OSError:
        return False


def _is_known(reference: str, files: Sequence[Path]) -> bool:
    """Return whether the user agreed to these files under this text, as they were then."""
    return any(record["files"] == [str(file) for file in files] for record in _records(reference))


def _changed(files: Sequence[Path]) -> str:
    around = " or an __init__.py around it" if len(files) > 1 else ""
    return f"{files[-1].name} in {files[-1].parent}{around} has changed since you agreed to run it"


def _remember(reference: str, files: Sequence[Path]) -> None:
    if _is_remembered(reference, files):
        return
    folder = state_dir() / "trusted"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = [str(file) for file in files]
    text = json.dumps({"reference": reference, "files": names, "sha256": _hash_of(files)}, indent=1)
    path = folder / f"{_short(reference)}-{_short(chr(0).join(names))}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def _hash_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
