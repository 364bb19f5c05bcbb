from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cd4lm_jax.data.sources import SourceError, open_source


def _line(question: object = "q", answer: object = "a") -> str:
    return json.dumps({"question": question, "answer": answer, "more": 1})


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{_line('one', '1')}\n\n{_line('two', '2')}\n", encoding="utf-8")
    source = open_source(str(path), "any")
    assert len(source) == 2
    assert source[1] == {"question": "two", "answer": "2"}
    assert source.__getitems__([1, 0]) == [source[1], source[0]]


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f"[{_line('one', '1')}, {_line('two', '2')}]")
    assert open_source(str(path), "")[0] == {"question": "one", "answer": "1"}


def test_line_separators_within_a_text_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a\u2028b", "answer": "c"}', encoding="utf-8")
    assert open_source(str(path), "")[0]["question"] == "a\u2028b"


@pytest.mark.parametrize(
    ("split", "want"),
    [
        ("train", range(41)),
        ("train[:95%]", range(39)),  # 38.95, rounded as TFDS does
        ("train[95%:]", range(39, 41)),
        ("[10:12]", range(10, 12)),
        ("any[30:]", range(30, 41)),
    ],
)
def test_slices_of_a_file(tmp_path: Path, split: str, want: range) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(_line(str(number)) for number in range(41)))
    source = open_source(str(path), split)
    assert [source[n]["question"] for n in range(len(source))] == [str(number) for number in want]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[", r"no split 'train\['"),
        ("train[5]", "or a slice such as"),
        ("train[1:]", "has 1 examples"),
    ],
)
def test_slices_that_a_file_lacks(tmp_path: Path, split: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(_line())
    with pytest.raises(SourceError, match=message):
        open_source(str(path), split)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", "", "rows.jsonl is empty"),
        ("rows.jsonl", "\n \n", "rows.jsonl is empty"),
        ("rows.json", "", "rows.json is empty"),
        ("rows.json", "[]", "rows.json is empty"),
        ("rows.jsonl", f"{_line()}\n{{oops\n", "rows.jsonl, line 2: not JSON"),
        ("rows.jsonl", f"{_line()}\n\n[1]\n", "rows.jsonl, line 3: expected an object"),
        ("rows.jsonl", '{"question": "q"}', 'line 1: expected a text field "answer"'),
        ("rows.jsonl", _line(answer=None), 'line 1: "answer" is null; expected a text'),
        ("rows.jsonl", _line(answer=["4"]), 'line 1: "answer" is a list; expected a text'),
        ("rows.jsonl", _line(answer=True), 'line 1: "answer" is true; expected a text'),
        ("rows.json", _line(), "rows.json: expected a JSON list"),
        ("rows.json", f"[{_line()}, 3]", "rows.json, entry 2: expected an object"),
        ("rows.json", "[", "rows.json: not JSON"),
    ],
)
def test_faulty_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SourceError) as raised:
        open_source(str(path), "train")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("faulty", ["{oops", "[1]", '{"question": "q"}', '{"answer": 3}'])
def test_malformed_records_are_skipped_up_to_a_limit(
    faulty: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{_line('one')}\n{faulty}\n\n{_line('two')}\n{faulty}\n{_line('three')}\n")
    source = open_source(str(path), "train", max_malformed=2)
    assert [source[place]["question"] for place in range(len(source))] == ["one", "two", "three"]
    (record,) = caplog.records
    assert f"{path}: 2 malformed records skipped, the first at {path}, line 2:" in record.message
    message = r"rows\.jsonl, line 5: .*it is malformed record 2 .* max_malformed is 1: correct"
    with pytest.raises(SourceError, match=message):
        open_source(str(path), "train", max_malformed=1)


def test_a_file_of_nothing_but_malformed_records_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[1, 2]")
    with pytest.raises(SourceError, match=r"rows\.json is empty"):
        open_source(str(path), "train", max_malformed=5)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*none\.jsonl"):
        open_source(str(tmp_path / "none.jsonl"), "train")
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"latin\.jsonl is not UTF-8 text"):
        open_source(str(path), "train")


@pytest.mark.parametrize("name", ["gsm_maxi", "gsm8k/main", "rows.csv", ""])
def test_unknown_source_lists_what_there_is(name: str) -> None:
    expected = re.escape(f"no data source {name!r}: expected gsm_mini/full")
    with pytest.raises(SourceError, match=expected):
        open_source(name, "train")


def test_unknown_config_and_split(data_dir: str) -> None:
    with pytest.raises(SourceError, match="gsm_mini/half': expected gsm_mini/full or"):
        open_source("gsm_mini/half", "test", data_dir)
    with pytest.raises(SourceError, match="no split 'pretrain': expected one of"):
        open_source("gsm_mini/distill", "pretrain", data_dir)


@pytest.mark.parametrize("index", [1000, -1001])
def test_index_beyond_the_split(data_dir: str, index: int) -> None:
    with pytest.raises(IndexError):
        open_source("gsm_mini/distill", "test", data_dir)[index]


def test_gsm8k_is_read_but_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k

    def no_network(*arguments: object) -> dict[str, Path]:
        raise AssertionError("a download was tried")

    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", no_network)
    with pytest.raises(SourceError, match=r"gsm8k is not in .*download_and_prepare"):
        open_source("gsm8k", "train", tmp_path)

    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps({"question": "How many?", "answer": "One.\n#### 1"}) + "\n")
    monkeypatch.setattr(manager, "download_and_extract", lambda *_: {"train": raw, "test": raw})
    Gsm8k(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = open_source("gsm8k", "train", tmp_path)
    assert [source[0]] == [{"question": "How many?", "answer": "One.\n#### 1"}]
