"""Tables in JSON, labels in every format, and one sentence for files that are no tables."""

import gzip
import json
import pickle
import zipfile

import numpy as np
import pytest
from made_tables import FLAT, flat, looked_up, space, table, written

from nasforge.core.errors import ConfigError, DataError
from nasforge.core.space import Choice, Decision

RECORDS = [
    {"width": width, "rate": rate, "accuracy": width / 100 + rate / 10} for width in (8, 16) for rate in (0.1, 1.0)
]


def accuracy_of(found, width, rate):
    return looked_up(found, **{"model.width": width, "train.rate": rate}).metrics["val/accuracy"]


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
    found = table(flat(), written(tmp_path, content, name))
    for record in RECORDS:
        assert accuracy_of(found, record["width"], record["rate"]) == pytest.approx(record["accuracy"])


def test_the_keys_of_a_json_file_name_the_points(tmp_path):
    content = {f"{record['width']}:{record['rate']}": {"accuracy": record["accuracy"]} for record in RECORDS}
    path = written(tmp_path, json.dumps(content), "keyed.json")
    found = table(flat(), path, key_form="{width}:{rate}")
    assert accuracy_of(found, 16, 0.1) == pytest.approx(0.17)


def test_a_line_longer_than_a_csv_cell_may_be(tmp_path):
    path = written(tmp_path, json.dumps([{**record, "note": "x" * 200_000} for record in RECORDS]), "long.json")
    assert accuracy_of(table(flat(), path), 8, 1.0) == pytest.approx(0.18)
    with pytest.raises(DataError, match=r"A table is a text file .* JSON file .* NPZ"):
        _ = table(flat(), written(tmp_path, f"width,rate,accuracy\n8,0.1,{'9' * 200_000}\n")).metrics


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("t.pkl", pickle.dumps(RECORDS), "a pickle, which may run any code"),
        ("t.csv.gz", gzip.compress(FLAT.encode(), mtime=0), "compressed by gzip.*gunzip"),
        ("t.csv", gzip.compress(FLAT.encode(), mtime=0), "compressed by gzip"),
        ("t.parquet", b"PAR1" + bytes(40), "a Parquet file.*read_parquet"),
        ("t.db", b"SQLite format 3\x00" + bytes(40), "an SQLite database"),
        ("t.npy", b"\x93NUMPY" + bytes(40), "one array without a name"),
        ("t.json", b"{nonsense", "cannot be read as JSON"),
        ("t.json", b"[]", "not rows with named columns"),
        ("t.json", b"[1, 2]", "not rows with named columns"),
        ("t.json", b'{"a": 1, "a": 2}', "'a' is there twice"),
        ("t.json", b'{"width": [8, 16], "rate": [0.1]}', "differ in length"),
        ("t.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_other_files_are_one_sentence_with_the_formats(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as raised:
        _ = table(flat(), str(tmp_path / name)).metrics
    assert "differ in length" in str(raised.value) or "A table is a text file" in str(raised.value)


def test_an_excel_file_is_told_from_an_npz(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DataError, match=r"an Excel file.*read_excel"):
        _ = table(flat(), str(tmp_path / "t.xlsx")).metrics
    np.savez(tmp_path / "t.npz", width=[8], rate=[0.1], accuracy=[0.5])
    (tmp_path / "t.npz").rename(tmp_path / "t.data")
    assert accuracy_of(table(flat(), str(tmp_path / "t.data")), 8, 0.1) == 0.5


def ops():
    return space(
        Decision("model.op", Choice(("none", "conv", "pool"))), Decision("model.act", Choice(("relu", "silu")))
    )


CODES = "op,act,accuracy\n" + "".join(f"{op},{act},{op + act / 10}\n" for op in range(3) for act in range(2))


@pytest.mark.parametrize(
    "labels", [{"op": ["none", "conv", "pool"], "act": ["relu", "silu"]}, {"model.op": ["none", "conv", "pool"]}]
)
def test_labels_of_a_text_table(tmp_path, labels):
    text = CODES
    if len(labels) == 1:
        for number, name in enumerate(("relu", "silu")):
            text = text.replace(f",{number},", f",{name},")
    found = table(ops(), written(tmp_path, text), labels=labels)
    assert looked_up(found, **{"model.op": "pool", "model.act": "silu"}).metrics["val/accuracy"] == pytest.approx(2.1)


def test_one_list_of_labels_serves_all_columns(tmp_path):
    where = space(Decision("model.a", Choice(("x", "y"))), Decision("model.b", Choice(("x", "y"))))
    path = written(tmp_path, "a,b,accuracy\n0,0,1\n0,1,2\n1,0,3\n1,1,4\n")
    found = table(where, path, labels=["x", "y"])
    assert looked_up(found, **{"model.a": "y", "model.b": "x"}).metrics["val/accuracy"] == 3


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"opp": ["none"]}, "labels names 'opp', which is no column of the key; did you mean 'op'"),
        ({"op": ["none", "conv"]}, r"'model.op' has '2', which is no position in labels \(0 to 1\)"),
        (5, "labels must be a list of texts"),
        ([["none"]], "labels must be a list of texts"),
    ],
)
def test_wrong_labels(tmp_path, labels, says):
    with pytest.raises(ConfigError, match=says):
        _ = table(ops(), written(tmp_path, CODES), labels=labels).metrics
