from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from cd4lm_jax.runtime.metrics import JsonlWriter, Writers, read_jsonl
from tests.disk import full_beyond


def test_lines_are_complete_at_once_and_appended(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    first = JsonlWriter(path)
    first.write(1, {"loss/kl": 0.5, "tokens": 3})
    assert path.read_text() == '{"step": 1, "loss/kl": 0.5, "tokens": 3.0}\n'
    first.close()
    second = JsonlWriter(path)
    second.write(2, {"loss/kl": np.float32(0.25), "rate": jnp.float32(2)})
    second.close()
    assert read_jsonl(path) == [
        {"step": 1, "loss/kl": 0.5, "tokens": 3.0},
        {"step": 2, "loss/kl": 0.25, "rate": 2.0},
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_strict_json(tmp_path: pathlib.Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write(1, {"loss": value})
    writer.close()
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert math.isnan(read_jsonl(path)[0]["loss"])


def test_line_torn_by_a_kill_is_passed_over_then_removed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_jsonl(path) == [{"step": 1}]
    writer = JsonlWriter(path)
    writer.write(2, {"loss": 1})
    writer.close()
    assert read_jsonl(path) == [{"step": 1}, {"step": 2, "loss": 1.0}]


@pytest.mark.parametrize(
    ("after", "kept"),
    [(0, []), (2, [1, 2, 2]), (9, [1, 2, 2, 3, 4]), (None, [1, 2, 2, 3, 4])],
)
def test_steps_that_will_be_written_again_are_removed(
    tmp_path: pathlib.Path, after: int | None, kept: list[int]
) -> None:
    with Writers(tmp_path) as writers:
        for step in (1, 2, 2, 3, 4):
            writers.write(step, {"loss": step})
    with Writers(tmp_path, after=after) as writers:
        writers.write(10, {"loss": 0.5})
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [*kept, 10]
    *_, newest = sorted((tmp_path / "tensorboard").iterdir())
    starts = [event.step for event in events(newest) if event.HasField("session_log")]
    assert starts == ([] if after is None else [after + 1])


@pytest.mark.parametrize("line", ["nonsense", "[1]"])
def test_broken_line_is_named(tmp_path: pathlib.Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: "):
        read_jsonl(path)


def test_full_disk_is_an_error_that_names_the_file(tmp_path: pathlib.Path) -> None:
    with Writers(tmp_path) as writers:
        writers.write(1, {"loss": 1})
        with full_beyond(200), pytest.raises(OSError, match=r"metrics\.jsonl"):
            writers.write(2, {"x" * 1000: 2})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]


def test_every_writer_has_an_event_file_of_its_own(tmp_path: pathlib.Path) -> None:
    for step in (1, 2):
        with Writers(tmp_path) as writers:
            writers.write(step, {"loss": math.nan})
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert [[step for _, step, _ in scalars(file)] for file in files] == [[1], [2]]


def test_writers_write_both(tmp_path: pathlib.Path) -> None:
    with Writers(tmp_path) as writers:
        writers.write(7, {"loss/kl": 0.5})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 7, "loss/kl": 0.5}]
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert scalars(file) == [("loss/kl", 7, 0.5)]


def scalars(file: pathlib.Path) -> list[tuple[str, int, float]]:
    found = events(file)
    return [(v.tag, event.step, v.simple_value) for event in found for v in event.summary.value]


def events(file: pathlib.Path) -> list[Any]:
    """Reads an event file: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    found, data = [], file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found
