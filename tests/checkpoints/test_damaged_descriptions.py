"""Descriptions with wrong values and flipped bytes: accepted, or refused in one line."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cd4lm_jax.checkpoints import huggingface, model_folder, weight_files
from cd4lm_jax.settings.config import config_to_json
from tests.checkpoints import published
from tests.checkpoints.test_families import DREAM_CONFIG, LLADA_CONFIG
from tests.tiny import TINY

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), 0.5),
    *("", "llada", "4096", "\ud800", [], [1], ["a"], [[1]], {}, {"rope_theta": 1}),
]
OTHERS = ("rope_parameters", "head_dim", "end_token_ids", "auto_map", "num_experts", "extra")


def changed(data: dict[str, Any], draw: random.Random) -> bytes:
    """A description with some fields lost or of another value, or with another byte."""
    data = dict(data)
    for _ in range(draw.randint(1, 3)):
        key = draw.choice([*data, *OTHERS])
        if draw.random() < 0.15:
            data.pop(key, None)
        else:
            data[key] = draw.choice(VALUES)
    text = bytearray(json.dumps(data).encode())
    if draw.random() < 0.2:
        text[draw.randrange(len(text))] = draw.randrange(256)
    return bytes(text)


def refusals(files: Iterator[None], read: Callable[[], object]) -> int:
    """How many are refused; any error but a one-line ValueError or OSError ends the test."""
    messages = []
    for _ in files:
        try:
            read()
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert not [message for message in messages if "\n" in message]
    return len(messages)


@pytest.mark.parametrize("layout", ["published", "own"])
def test_any_config(tmp_path: pathlib.Path, layout: str) -> None:
    draw = random.Random(1)
    own = json.loads(config_to_json(TINY))
    reader = huggingface if layout == "published" else model_folder

    def files() -> Iterator[None]:
        for _ in range(400):
            data = own if layout == "own" else draw.choice([DREAM_CONFIG, LLADA_CONFIG])
            (tmp_path / "config.json").write_bytes(changed(data, draw))
            yield

    assert 200 < refusals(files(), lambda: reader.read_config(tmp_path)) < 400


def test_any_safetensors_header(tmp_path: pathlib.Path) -> None:
    draw = random.Random(2)
    published.write(tmp_path, "llada")
    file = tmp_path / "model-00001-of-00001.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")

    def files() -> Iterator[None]:
        for _ in range(100):
            header = json.loads(whole[8 : 8 + length])
            tensor = draw.choice([name for name in header if name != "__metadata__"])
            header[tensor][draw.choice(list(header[tensor]))] = draw.choice(VALUES)
            text = bytearray(json.dumps(header).encode())
            data = bytearray(len(text).to_bytes(8, "little") + text + whole[8 + length :])
            if draw.random() < 0.5:
                data = bytearray(whole)
                data[draw.randrange(8 + length)] ^= 1 << draw.randrange(8)
            if draw.random() < 0.1:
                data = data[: draw.randrange(len(data))]
            file.write_bytes(data)
            yield

    assert refusals(files(), lambda: huggingface.Checkpoint.open(tmp_path)) > 90


def test_any_index(tmp_path: pathlib.Path) -> None:
    draw = random.Random(3)
    published.write(tmp_path, "llada")
    index = tmp_path / weight_files.INDEX_FILE
    whole = index.read_text()

    def files() -> Iterator[None]:
        for _ in range(200):
            data = json.loads(whole)
            place = data if draw.random() < 0.5 else data["weight_map"]
            place[draw.choice(list(place))] = draw.choice(VALUES)
            index.write_text(json.dumps(data))
            yield

    assert refusals(files(), lambda: weight_files.read_headers(tmp_path)) > 100
