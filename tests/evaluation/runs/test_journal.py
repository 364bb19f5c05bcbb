from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.data.benchmarks import Problem
from cd4lm_jax.decoding.trajectory import POSITION_TYPES, Trajectory
from cd4lm_jax.evaluation.runs import journal
from cd4lm_jax.evaluation.runs.journal import Answers, Journal
from tests.disk import full_beyond

PROBLEMS = [
    Problem(id=str(n), question=f"How many is {n}?\u2028", answer=f"#### {n}", target=f"#### {n}")
    for n in range(10)
]
SETTINGS: dict[str, Any] = {"commit": "confidence:0.9", "gen_length": 4}
HERE = {"commit": "1234567", "device": "1 x cpu"}


def answers(numbers: Sequence[int]) -> Answers:
    """What is recorded of these problems; every third is right."""
    rows = np.array(numbers)
    shape = (len(rows), 4)
    rng = [np.random.default_rng(n) for n in numbers]
    return Answers(
        outputs=[f"so\n#### {n}" for n in numbers],
        correct=rows % 3 == 0,
        trajectory=Trajectory(
            tokens=np.broadcast_to(rows[:, None], shape),
            committed_at=np.ones(shape, np.int32),
            confidence=np.stack([draw.random(4, np.float32) for draw in rng]),
            reason=np.ones(shape, np.int32),
            nfe=rows + 1,
            length=np.full(len(rows), 2),
        ),
    )


def write(folder: pathlib.Path, numbers: Sequence[int], *, chunk: int = 4) -> Journal:
    """Goes on with the run of these problems to its end."""
    opened = Journal(folder, SETTINGS, total=len(numbers), chunk=chunk, environment=HERE)
    for start in range(opened.count, len(numbers), chunk):
        part = numbers[start : start + chunk]
        opened.append([PROBLEMS[n] for n in part], answers(part))
    opened.timed({"seconds": 1.0, "process": "this"})
    return opened


def test_a_line_holds_what_is_known_of_a_problem(tmp_path: pathlib.Path) -> None:
    write(tmp_path, range(10))
    lines = (tmp_path / "problems.jsonl").read_text().splitlines()
    assert len(lines) == 10
    line = json.loads(lines[3])
    trajectory = line.pop("trajectory")
    assert line == {
        "id": "3",
        "prompt": "How many is 3?\u2028",
        "reference": "#### 3",
        "output": "so\n#### 3",
        "correct": True,
        "nfe": 4,
        "length": 2,
    }
    assert list(trajectory) == ["tokens", "committed_at", "confidence", "reason"]
    assert trajectory["tokens"] == [3] * 4
    # Every bit of what was measured comes back.
    found, expected = journal.answers_of(journal.read(tmp_path)), answers(range(10))
    assert found.outputs == expected.outputs
    np.testing.assert_array_equal(found.correct, expected.correct)
    np.testing.assert_array_equal(found.trajectory.confidence, expected.trajectory.confidence)
    np.testing.assert_array_equal(found.trajectory.nfe, expected.trajectory.nfe)


@pytest.mark.parametrize("left", [0, 1, 5, 150, 0.5, 0.999])
def test_whatever_a_kill_leaves_ends_in_the_same_bytes(tmp_path: pathlib.Path, left: float) -> None:
    write(tmp_path / "whole", range(10))
    expected = (tmp_path / "whole" / "problems.jsonl").read_bytes()
    killed = tmp_path / "killed"
    opened = Journal(killed, SETTINGS, total=10, chunk=4, environment=HERE)
    opened.append(PROBLEMS[:4], answers(range(4)))
    file = killed / "problems.jsonl"
    size = int(left * len(expected)) if isinstance(left, float) else left
    file.write_bytes(expected[:size])
    count = Journal(killed, SETTINGS, total=10, chunk=4, environment=HERE).count
    assert count == min(expected[:size].count(b"\n"), 9) // 4 * 4
    assert file.read_bytes().count(b"\n") == count
    write(killed, range(10))
    assert file.read_bytes() == expected


def test_the_time_is_that_of_one_process(tmp_path: pathlib.Path) -> None:
    assert write(tmp_path, range(10)).time == {"seconds": 1.0, "process": "this"}
    again = Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE)
    assert again.time == {"seconds": 1.0, "process": "this"}
    assert Journal(tmp_path / "other", SETTINGS, total=10, chunk=4, environment=HERE).time is None


def test_another_run_is_refused_by_what_differs(tmp_path: pathlib.Path) -> None:
    write(tmp_path, range(10))
    before = (tmp_path / "problems.jsonl").read_bytes()
    with pytest.raises(journal.JournalError, match=r"\(gen_length, problems differ\); give anoth"):
        Journal(tmp_path, SETTINGS | {"gen_length": 8}, total=9, chunk=4, environment=HERE)
    with pytest.raises(journal.JournalError, match=r"\(chunk differ\)"):
        Journal(tmp_path, SETTINGS, total=10, chunk=5, environment=HERE)
    assert (tmp_path / "problems.jsonl").read_bytes() == before


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: pathlib.Path) -> None:
    opened = Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE)
    opened.append(PROBLEMS[:4], answers(range(4)))
    size = (tmp_path / "problems.jsonl").stat().st_size
    with full_beyond(size + 100), pytest.raises(OSError, match="File too large") as raised:
        opened.append(PROBLEMS[4:8], answers(range(4, 8)))
    assert raised.value.filename == str(tmp_path / "problems.jsonl")
    assert Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE).count == 4


def test_only_a_whole_run_is_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(journal.JournalError, match=r"no run in .*run\.json is missing; give a"):
        journal.read(tmp_path)
    opened = Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE)
    opened.append(PROBLEMS[:4], answers(range(4)))
    with pytest.raises(journal.JournalError, match=r"has 4 of 10 problems; let `cd4lm evaluate`"):
        journal.read(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(journal.JournalError, match=r"run\.json is of no run of `cd4lm evaluate`"):
        journal.read(tmp_path)


def test_it_is_known_where_the_lines_were_decoded(tmp_path: pathlib.Path) -> None:
    there = {"commit": "89abcde", "device": "1 x gpu"}
    first = Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE)
    first.append(PROBLEMS[:4], answers(range(4)))
    second = Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=there)
    assert second.environments == [HERE, there]
    write(tmp_path, range(10))
    after = Journal(tmp_path, SETTINGS, total=10, chunk=4, environment={"commit": "later"})
    assert after.environments == [HERE, there]  # nothing was left to decode


def test_a_damaged_line_is_named_by_file_and_number(tmp_path: pathlib.Path) -> None:
    write(tmp_path, range(10))
    file = tmp_path / "problems.jsonl"
    lines = file.read_bytes().split(b"\n")
    cut = json.loads(lines[2])
    damages = {
        b"{": "Expecting property name",
        b"\xff\xfe": "can't decode byte 0xff",
        b"7": "int",
        b"[" * 100_000: "recursion",
        b'{"id": 1}': "it lacks prompt, reference",
        json.dumps(
            cut | {"trajectory": cut["trajectory"] | {"reason": [1]}}
        ).encode(): "one length",
        json.dumps(cut | {"trajectory": None}).encode(): "trajectory is None",
        json.dumps(cut | {"correct": []}).encode(): r"correct is \[\]",
        json.dumps(cut | {"nfe": -1}).encode(): "nfe is -1",
    }
    for damage, what in damages.items():
        file.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
        for reading in (
            lambda: journal.read(tmp_path),
            lambda: Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE),
        ):
            with pytest.raises(journal.JournalError, match=what) as raised:
                reading()
            assert str(raised.value).startswith(f"{file}, line 3 holds no problem of an evaluation")
            assert "remove that line and all after it" in str(raised.value)
    file.write_bytes(b"\n".join(lines[:2]) + b"\n")  # what it advises is so
    write(tmp_path, range(10))
    assert file.read_bytes() == b"\n".join(lines)


def test_lone_surrogates_and_a_byte_order_mark_are_read(tmp_path: pathlib.Path) -> None:
    """A model writes half a character; an editor puts a mark before the first line."""
    odd = dataclasses.replace(answers([0]), outputs=["half \ud83d of one"])
    opened = Journal(tmp_path, SETTINGS, total=1, chunk=4, environment=HERE)
    opened.append(PROBLEMS[:1], odd)
    for name in ("problems.jsonl", "run.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert journal.read(tmp_path)[0]["output"] == odd.outputs[0]
    again = Journal(tmp_path, SETTINGS, total=1, chunk=4, environment=HERE)
    earlier = again.earlier()
    assert earlier is not None
    assert earlier.outputs == odd.outputs


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"settings": 1}',
        '{"settings": {"problems": "many"}, "environments": []}',
        '{"settings": {"problems": 10}, "environments": 1}',
        "\x00",
        "[" * 100_000,
    ],
)
def test_a_damaged_run_json_is_named(text: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path, range(10))
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(journal.JournalError, match=r"run\.json is of no run of `cd4lm evaluate`"):
        journal.read(tmp_path)
    with pytest.raises(journal.JournalError, match=r"run\.json is of no run of `cd4lm evaluate`"):
        Journal(tmp_path, SETTINGS, total=10, chunk=4, environment=HERE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
LINE = {
    "id": "0",
    "prompt": "?",
    "reference": "#### 1",
    "output": "#### 1",
    "correct": True,
    "nfe": 1,
    "length": 1,
    "trajectory": {"tokens": [1], "committed_at": [1], "confidence": [0.5], "reason": [1]},
}


@given(
    line=st.binary(max_size=20)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from([*LINE]), JSON).map(
        lambda pair: json.dumps(LINE | dict([pair])).encode()
    )
    | st.tuples(st.sampled_from([*POSITION_TYPES]), JSON).map(
        lambda pair: json.dumps(
            LINE | {"trajectory": LINE["trajectory"] | dict([pair])}  # type: ignore[operator]
        ).encode()
    )
)
def test_any_line_is_read_or_refused_by_its_number(
    line: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "problems.jsonl"
    file.write_bytes(json.dumps(LINE).encode() + b"\n" + line.replace(b"\n", b" ") + b"\n")
    try:
        found = [record for _, record in journal.records(file)]
    except journal.JournalError as refused:
        message = str(refused)
    else:
        message = ""
        assert len(journal.answers_of(found).outputs) == 2
    assert not message or message.startswith(f"{file}, line 2 holds no problem")
