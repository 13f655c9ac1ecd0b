"""URIs of servers and databases: the same URI without its secrets, and the URI of an SQLite file. Knows no library."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

from nasforge.core.paths import whole_path

SQLITE = "sqlite"
_SERVERS = ("http", "https")
_FORM = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*):(?P<slashes>/*)(?P<rest>.*)", re.DOTALL)
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential|signature|api_?key|access_?key|^(?:sig|key|auth)$", re.I)
_SECRET_VALUE = re.compile(r"(?:pass\w*|pwd|secret|token)\s*=", re.I)
_USER_INFO_IN_TEXT = re.compile(r"(?<=://)[^\s/@'\"]+@")
_SETTING_IN_TEXT = re.compile(r"((?:passw\w*|pwd|secret|token)(?:=|%3D))[^\s;&%'\"]+", re.I)
_MASK = "***"
_SHORTEST_REPLACED = 3


def without_password(uri: str) -> str:
    """Return the URI for display: without user name, password and query."""
    scheme, _, rest = _split(uri)
    return scheme + re.split(r"[?#]", rest, maxsplit=1)[0] if scheme else uri


def without_secrets(uri: str) -> str:
    """Return the URI for storage: without password and secret settings, and as usable as that allows.

    A database keeps its user name, since drivers ask a file or the environment for the password. A server does not,
    since its user name may be a token.
    """
    scheme, user_info, rest = _split(uri)
    place, mark, query = rest.partition("?")
    kept = [part for part in query.split("&") if not _is_secret(part)]
    if not scheme or (not user_info and kept == query.split("&")):
        return uri
    user = "" if scheme.startswith(_SERVERS) else user_info.partition(":")[0]
    return f"{scheme}{user}{'@' if user else ''}{place}{mark if kept else ''}{'&'.join(kept)}"


def hide_secrets(text: str, uri: str = "") -> str:
    """Mask the secrets of `uri` in a message, and everything else in the place of a URI's password."""
    _, user_info, rest = _split(uri)
    user, _, password = user_info.partition(":")
    values = [part.partition("=")[2] for part in rest.partition("?")[2].split("&") if _is_secret(part)]
    for secret in (user_info, password or user, *values):
        for form in {secret, unquote(secret), unquote_plus(secret), quote(secret, safe="")}:
            if len(form) >= _SHORTEST_REPLACED:
                text = text.replace(form, _MASK)
    return _SETTING_IN_TEXT.sub(rf"\1{_MASK}", _USER_INFO_IN_TEXT.sub(f"{_MASK}@", text))


def sqlite_uri(file: Path, scheme: str = SQLITE, settings: str = "") -> str:
    """Return the URI of an SQLite file. SQLAlchemy decodes its path, and reads settings after a `?`."""
    path = str(file).replace("%", "%25").replace("?", "%3F")
    return f"{scheme}:///{path}{'?' if settings else ''}{settings}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None for every other URI and for a database in memory."""
    scheme, separator, rest = uri.partition(":///")
    path = rest.partition("?")[0]
    if not separator or scheme.partition("+")[0] != SQLITE or not path or path.startswith(":memory:"):
        return None
    return Path(unquote(path))


def with_absolute_file(uri: str) -> str:
    """Return an SQLite URI that means the same file in every working folder; other URIs unchanged.

    `~` at its beginning is the home folder.
    """
    file = sqlite_file(uri)
    if file is None:
        return uri
    return sqlite_uri(whole_path(file), uri.partition(":")[0], uri.partition("?")[2])


def _split(uri: str) -> tuple[str, str, str]:
    """Split a URI: scheme with slashes, user and password, the rest; no scheme if it can hold no secret."""
    form = _FORM.fullmatch(uri)
    if form is None or (form["scheme"].partition("+")[0] in (SQLITE, "file") and len(form["slashes"]) != 2):
        return "", "", uri
    scheme, rest = f"{form['scheme']}:{form['slashes']}", form["rest"]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = host.rfind("@")
    if end < 0 and ":" in host and not (form["scheme"] in _SERVERS and re.search(r":\d*$", host)):
        # A password may hold the characters that end a host: then no number is where the port should be. SQLAlchemy
        # reads a password up to an @ wherever that is.
        before_settings = rest.partition("?")[0].rfind("@")
        end = rest.rfind("@") if before_settings < 0 else before_settings
    return scheme, rest[: max(end, 0)], rest[end + 1 :]


def _is_secret(setting: str) -> bool:
    name, _, value = setting.partition("=")
    return bool(_SECRET_NAME.search(unquote_plus(name)) or _SECRET_VALUE.search(unquote_plus(value)))
