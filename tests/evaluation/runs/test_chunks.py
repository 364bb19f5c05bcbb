from __future__ import annotations

import pathlib

from cd4lm_jax.evaluation.runs.chunks import ChunkedLines, differences


def lines(number: int, count: int = 3) -> list[str]:
    return [f'{{"chunk": {number}, "line": {line}}}' for line in range(count)]


def test_chunks_that_come_early_wait_in_parts_for_those_before(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lines.jsonl"
    opened = ChunkedLines(path, total=10, chunk=3)
    assert opened.missing() == [0, 1, 2, 3]
    opened.append(2, lines(2))
    opened.append(0, lines(0))
    assert (opened.count, opened.scattered) == (3, False)

    # Another start, which a kill left half a chunk.
    path.write_bytes(path.read_bytes() + b'{"chunk": 1, "line": 0}\n{"chu')
    again = ChunkedLines(path, total=10, chunk=3)
    assert (again.count, again.scattered, again.missing()) == (3, True, [1, 3])
    again.append(1, lines(1))
    again.append(3, lines(3, count=1))
    again.gather()
    expected = [*lines(0), *lines(1), *lines(2), *lines(3, count=1)]
    assert path.read_text().splitlines() == expected
    assert [file.name for file in tmp_path.iterdir()] == ["lines.jsonl"]
    assert ChunkedLines(path, total=10, chunk=3).missing() == []


def test_settings_that_differ_are_named() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]
