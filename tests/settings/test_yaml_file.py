"""YAML as people write it: merge keys, anchors, encodings; limits; values of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.settings.space_file import load_space
from nasforge.settings.yaml_file import Document, parse_value, read_yaml


def read(tmp_path: Path, content: str | bytes) -> Document:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml(path)


def refused(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    return str(caught.value).removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a: {<<: &r {log: true}, float: [0, 1]}", {"a": {"log": True, "float": [0, 1]}}),
        ("a: {log: false, <<: {log: true, x: 1}}", {"a": {"log": False, "x": 1}}),
        ("r: &r {x: 1}\na: {<<: [*r, {x: 2, y: 3}]}", {"r": {"x": 1}, "a": {"x": 1, "y": 3}}),
        (
            "r: &r {x: 1}\ns: &s {<<: *r, y: 2}\na: {<<: *s}",
            {"r": {"x": 1}, "s": {"x": 1, "y": 2}, "a": {"x": 1, "y": 2}},
        ),
        ('"<<": 1', {"<<": 1}),
        ("a: &v [1, 2]\nb: *v", {"a": [1, 2], "b": [1, 2]}),
        ("a: 2020-01-01\nb: =\nc: on\nd: TRUE", {"a": "2020-01-01", "b": "=", "c": "on", "d": True}),
        ("", None),
        ("# nothing\n", None),
    ],
)
def test_files_are_read_as_meant(tmp_path: Path, text: str, content: Any) -> None:
    assert read(tmp_path, text).content == content


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_encodings(tmp_path: Path, line_end: str, encoding: str) -> None:
    document = read(tmp_path, line_end.join(["name: häuser", "b:", "  c: 1"]).encode(encoding))
    assert document.content == {"name": "häuser", "b": {"c": 1}}
    assert document.lines["b", "c"] == 3


def test_a_merged_key_has_the_line_where_it_stands(tmp_path: Path) -> None:
    document = read(tmp_path, "base: &r\n  log: 5\na:\n  <<: *r\n  float: [0.1, 1]\n")
    assert document.lines["a", "log"] == 2
    assert document.lines["a", "float"] == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: {<<: 5}", "file.yaml:1: a.<<: needs a mapping or a list of mappings"),
        ("a: {<<: [{x: 1}, 2]}", "needs a mapping or a list of mappings"),
        ("a: {<<: {x: 1}, <<: {y: 1}}", "given twice; write <<: [*one, *other]"),
        ("a:\n  b: 1\n  b: 2", "file.yaml:3: a.b: given twice"),
        ("a: &a {<<: *a}", "an alias that contains itself"),
        ("a: &a [*a]", "an alias that contains itself"),
        ("[" * 300 + "]" * 300, "nested more than 100 levels deep"),
        ("a:\n\tb: 1", "file.yaml:2: not valid YAML"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: *b", "undefined alias 'b'"),
        ("a: 1\nb: \0", "file.yaml:2: not valid YAML: the character U+0000"),
        ("a: 1\nb: é".encode("latin-1"), "file.yaml:2: cannot be read as text: byte 0xe9 is not UTF-8"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ('a: 1\nb: "\\U00FFFFFF"', "file.yaml:2: not valid YAML: a number in it is too large"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "file.yaml:1: not valid YAML: a number in it is too large"),
        ("a: !mine {x: 1}", "unknown tag !mine"),
        ("a: !!python/name:os.system x", "unknown tag"),
        ("a: !!int x", "got 'x', which cannot be read as int"),
        ("? [a, b]\n: 1", "a key must be a word or a number"),
        (b"a: " + b"x" * 10_000_001, "larger than 10 MB"),
    ],
)
def test_one_sentence_says_what_is_wrong(tmp_path: Path, content: str | bytes, words: str) -> None:
    message = refused(tmp_path, content)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        ("name: x\ndecisions: {model: {a: [1]}}\nname: y", {("duplicate", "name")}),
        ("name: x\ndecisions: !mine {model: {a: [1]}}", {("unsupported", "decisions")}),
        ("data: digits\nspace: tiny", {("type", "space")}),
        ("decisions: {model: {a: [1]}}", {("missing", "name")}),
        (
            "name: x y\nbuild: z\nbuilder: 3\ndecisions: {model: {a: [], b: [1, 1]}, net: {}}",
            {
                ("invalid", "name"),
                ("unknown", "build"),
                ("type", "builder"),
                ("empty", "decisions.model.a"),
                ("duplicate", "decisions.model.b"),
                ("unknown", "decisions.net"),
            },
        ),
        (
            "name: x\ndecisions: {model: {a: [1, 2], 'b{2..1}': [1], c: {int: [5, 1]}}}\ndefaults: {model: {d: 3}}",
            {("range", "decisions.model.b{2..1}"), ("range", "decisions.model.c")},
        ),
        (
            "name: x\ndecisions: {model: {a: [1, 2]}}\ndefaults: {model: {a: 3, d: 3}}",
            {("unknown", "defaults.model.a"), ("unknown", "defaults.model.d")},
        ),
    ],
)
def test_each_mistake_of_a_space_has_its_kind_and_key(
    tmp_path: Path, content: str, kinds: set[tuple[str, str]]
) -> None:
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_space(tmp_path / "space.yaml")
    assert {(problem.kind, problem.key) for problem in caught.value.problems} == kinds


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_of_aliases_end_early(tmp_path: Path, form: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + form.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 9)]
    assert "more than 100,000 values" in refused(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    ("entries", "kind", "limit"),
    [
        ("\n".join(f"    k{i}.l{{0..9999}}: [1, 2]" for i in range(3)), "range", "20,000"),
        ("    k{0..99999}: [1]", "range", "10,000"),
        ("    k{0..99999999999999999999}: [1]", "invalid", "stage{0..2}.width"),
    ],
)
def test_a_space_has_a_limit_of_decisions(tmp_path: Path, entries: str, kind: str, limit: str) -> None:
    (tmp_path / "space.yaml").write_text(f"name: x\ndecisions:\n  model:\n{entries}\n")
    with raises(ConfigError, kind, None, limit):
        load_space(tmp_path / "space.yaml")


def test_a_space_takes_merged_settings(tmp_path: Path) -> None:
    rates = "    a: {<<: &r {log: true}, float: [0.01, 0.1]}\n    b: {<<: *r, float: [0.1, 1]}\n"
    (tmp_path / "space.yaml").write_text(f"name: x\ndecisions:\n  train:\n{rates}")
    domains = load_space(tmp_path / "space.yaml").domains
    assert [domains["train.a"].to_json()["log"], domains["train.b"].to_json()["log"]] == [True, True]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((".1", 0.1), ("5.", 5.0), ("+3", 3), ("1e-3", 0.001), ("1_000", 1000), ("0x10", 16)),
        *(("True", True), ("FALSE", False), ("null", None), ("None", "None"), ("on", "on")),
        *(("[relu, .1]", ["relu", 0.1]), ("{a: True}", {"a": True}), ('["a"]', ["a"]), ("[a", "[a")),
        *(("1,5", "1,5"), ("08", "08"), ("v1.0", "v1.0"), ("[a: b: c]", "[a: b: c]"), ("[" * 3000, "[" * 3000)),
    ],
)
def test_values_of_the_command_line_are_read_as_in_yaml(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)
