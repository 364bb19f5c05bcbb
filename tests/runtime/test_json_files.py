from __future__ import annotations

import codecs
import gzip
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.runtime import json_files
from cd4lm_jax.runtime.json_files import JsonFileError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=8,
)


@given(values=st.lists(JSON, max_size=4), ascii_=st.booleans(), mark=st.booleans())
def test_what_was_written_is_read(
    values: list[object], ascii_: bool, mark: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("json")
    start = codecs.BOM_UTF8 if mark else b""
    lines = folder / "rows.jsonl"
    text = "".join(json.dumps(value, ensure_ascii=ascii_) + "\n" for value in values)
    lines.write_bytes(start + text.encode())
    assert [record.get() for record in json_files.records(lines)] == values
    packed = folder / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(start + text.encode()))
    assert [record.get() for record in json_files.records(packed)] == values
    whole = folder / "rows.json"
    whole.write_bytes(start + json.dumps(values, ensure_ascii=ascii_).encode())
    assert [record.get() for record in json_files.records(whole)] == values
    assert json_files.read_json(whole) == values


@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_one_line(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("rows.jsonl", "rows.json", "rows.jsonl.gz"):
        path = folder / name
        path.write_bytes(data)
        messages = []
        try:
            messages = [str(record.fault) for record in json_files.records(path) if record.fault]
        except JsonFileError as error:
            messages = [str(error)]
        assert all(str(path) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": "x \\ud83d y"}', r"line 2: holds \\ud83d, half of a character"),
        ('{"a \\uDC00": 1}', r"line 2: holds \\udc00, half of a character"),
        ("[" * 100_000, "line 2: not JSON"),
        ("9" * 5000, "line 2: not JSON"),
    ],
)
def test_faults_are_named_by_line(line: str, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": "\\ud83d\\ude00"}}\n{line}\n[3]\n')
    first, second, third = json_files.records(path)
    assert first.get() == {"a": "😀"}
    assert third.get() == [3]
    with pytest.raises(JsonFileError, match=message):
        second.get()


def test_an_unfinished_line_can_be_left_out(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    assert [record.get() for record in json_files.records(path, unfinished=False)] == [{"a": 1}]
    *_, last = json_files.records(path)
    assert last.fault is not None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (5, "the number 5"),
        ("a", "a text"),
        ([], "a list"),
        ({}, "an object"),
    ],
)
def test_kinds_in_words(value: object, words: str) -> None:
    assert json_files.kind(value) == words
