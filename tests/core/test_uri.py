"""No password in what is shown and stored, whatever the URI looks like; files of every name as URIs."""

from __future__ import annotations

import pytest

from nasforge.core.uri import hide_secrets, without_password, without_secrets

WITH_SECRETS = [
    "http://me:s3cr3t@host:5000/x",
    "https://s3cr3t@host",
    "https://me:a@s3cr3t@host",
    "https://me:a/s3cr3t@host/path",
    "https://me:a#s3cr3t@host",
    "https://me:a?s3cr3t@host",
    "http:/me:s3cr3t@host",
    "htpp://me:s3cr3t@host",
    "postgresql://me:s3cr3t@host/db",
    "postgresql+psycopg2://me:s3cr3t@host:5432/db?sslmode=require",
    "postgresql://me:1/s3cr3t@host/db",
    "mysql://me:s3cr3t@host/db?charset=utf8mb4",
    "mysql://host/db?user=me&password=s3cr3t",
    "http://host:5000/?token=s3cr3t",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3DSQL%3BUID%3Dme%3BPWD%3Ds3cr3t",
    "sqlite+pysqlcipher://:s3cr3t@/file.db",
]


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_no_form_of_a_secret_is_shown_or_stored(uri: str) -> None:
    assert "s3cr3t" not in without_password(uri)
    assert "s3cr3t" not in without_secrets(uri)
    assert without_secrets(without_secrets(uri)) == without_secrets(uri)
    shown = hide_secrets(f"request to {uri} failed", uri)
    assert "s3cr3t" not in shown
    assert shown.startswith("request to ") and shown.endswith(" failed")


def test_a_password_is_masked_in_both_of_its_spellings() -> None:
    shown = hide_secrets("p@ss word, p%40ss%20word", "http://me:p%40ss%20word@host")
    assert shown == "***, ***"
    assert hide_secrets("access denied: s3cr3t", "http://me:s3cr3t@host") == "access denied: ***"
    assert hide_secrets("see http://you:other@host/x") == "see http://***@host/x"


def test_what_is_shown() -> None:
    assert without_password("https://me:secret@host:5000/x?token=1") == "https://host:5000/x"
    assert without_password("postgresql://me:secret@host/db") == "postgresql://host/db"
    assert without_password("databricks://profile") == "databricks://profile"
    assert without_password("databricks") == "databricks"


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000/a@b",
        "http://[::1]:5000/a@b",
        "postgresql://me@host/db?sslmode=require&options=-csearch_path%3Dmine",
        "sqlite:////data/me@host:1/what#x/mlflow.db?timeout=60",
        "file:///data/a:b@c",
        "strategy.population=20",
        "flops<=40M",
        "C:b@c",
    ],
)
def test_a_uri_without_secrets_stays_as_it_is(uri: str) -> None:
    assert without_secrets(uri) == uri


def test_what_is_stored_stays_usable() -> None:
    assert without_secrets("postgresql://me:secret@host:5432/db?sslmode=require") == (
        "postgresql://me@host:5432/db?sslmode=require"
    )
    assert without_secrets("mysql://host/db?charset=utf8mb4&password=secret") == "mysql://host/db?charset=utf8mb4"
    assert without_secrets("https://me:secret@host:5000/x") == "https://host:5000/x"
