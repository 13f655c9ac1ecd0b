"""Tables in JSON, and one sentence for files that are no tables."""

import gzip
import json
import pickle
import zipfile

import numpy as np
import pytest
from expecting import raises
from made_tables import FLAT, flat, looked_up, space, table, written

from nasforge.core.errors import DataError
from nasforge.core.space import Choice, Decision

RECORDS = [
    {"width": width, "rate": rate, "accuracy": width / 100 + rate / 10} for width in (8, 16) for rate in (0.1, 1.0)
]


def accuracy_of(lookup, width, rate):
    return looked_up(lookup, **{"model.width": width, "train.rate": rate}).metrics["val/accuracy"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("records.json", json.dumps(RECORDS)),
        ("lines.jsonl", "\n".join(map(json.dumps, RECORDS))),
        ("keyed.json", json.dumps({f"net{n}": record for n, record in enumerate(RECORDS)})),
        ("columns.json", json.dumps({name: [record[name] for record in RECORDS] for name in RECORDS[0]})),
        ("split.json", json.dumps({"columns": [*RECORDS[0]], "data": [[*record.values()] for record in RECORDS]})),
        ("no-ending.txt", json.dumps(RECORDS)),
    ],
)
def test_json_is_read(tmp_path, name, content):
    lookup = table(flat(), written(tmp_path, content, name))
    for record in RECORDS:
        assert accuracy_of(lookup, record["width"], record["rate"]) == pytest.approx(record["accuracy"])


def text_of(values):
    return f"w{values['width']}"


def test_the_keys_of_a_json_file_name_the_points(tmp_path):
    path = written(tmp_path, json.dumps({f"w{width}": {"accuracy": width / 100} for width in (8, 16)}), "keyed.json")
    lookup = table(space(Decision("model.width", Choice((8, 16))), text=f"{__name__}:text_of"), path)
    assert looked_up(lookup, model__width=16).metrics["val/accuracy"] == 0.16


def test_a_line_longer_than_a_csv_cell_may_be(tmp_path):
    path = written(tmp_path, json.dumps([{**record, "note": "x" * 200_000} for record in RECORDS]), "long.json")
    assert accuracy_of(table(flat(), path), 8, 1.0) == pytest.approx(0.18)
    with raises(DataError, "unreadable", None, "line 2", "JSON", "NPZ"):
        _ = table(flat(), written(tmp_path, f"width,rate,accuracy\n8,0.1,{'9' * 200_000}\n")).metrics


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.pkl", pickle.dumps(RECORDS), ("unreadable", None, "pickle")),
        ("t.csv.gz", gzip.compress(FLAT.encode(), mtime=0), ("unreadable", None, "gzip", "gunzip")),
        ("t.csv", gzip.compress(FLAT.encode(), mtime=0), ("unreadable", None, "gzip")),
        ("t.parquet", b"PAR1" + bytes(40), ("unreadable", None, "read_parquet")),
        ("t.db", b"SQLite format 3\x00" + bytes(40), ("unreadable", None, "SQLite")),
        ("t.npy", b"\x93NUMPY" + bytes(40), ("unreadable", None, "array", "name")),
        ("t.json", b"{nonsense", ("unreadable", None, "JSON")),
        ("t.json", b"[]", ("unreadable", None, "rows", "columns")),
        ("t.json", b"[1, 2]", ("unreadable", None, "rows", "columns")),
        ("t.json", b'{"a": 1, "a": 2}', ("unreadable", None, "a")),
        ("t.json", b'{"width": [8, 16], "rate": [0.1]}', ("unreadable", None, "width", "rate", "length")),
        ("t.json", b"[" * 100_000, ("unreadable", None, "nested")),
    ],
)
def test_other_files_are_one_sentence_with_the_formats(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with raises(DataError, *expected) as raised:
        _ = table(flat(), str(tmp_path / name)).metrics
    assert "differ in length" in str(raised.value) or "A table is a text file" in str(raised.value)


def test_an_excel_file_is_told_from_an_npz(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with raises(DataError, "unreadable", None, "read_excel"):
        _ = table(flat(), str(tmp_path / "t.xlsx")).metrics
    np.savez(tmp_path / "t.npz", width=[8], rate=[0.1], accuracy=[0.5])
    (tmp_path / "t.npz").rename(tmp_path / "t.data")
    assert accuracy_of(table(flat(), str(tmp_path / "t.data")), 8, 0.1) == 0.5
