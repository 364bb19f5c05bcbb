from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.prompts import PromptRecord
from cd4lm_jax.evaluation.runs import decodes
from cd4lm_jax.runtime.files import InUseError
from tests.tiny import TINY_TALKER, tiny_model

MODEL = cd.LanguageModel(tiny_model(TINY_TALKER), None)
ROWS = [PromptRecord(id=f"row {n}", prompt=[n, 3, 2]) for n in range(5)]
CONFIG = cd.DecodeConfig(gen_length=16, block_length=8, batch_size=2, temperature=0.5)


def write(target: pathlib.Path, config: cd.DecodeConfig = CONFIG) -> cd.Decoded:
    with decodes.journal_of(target) as folder:
        return decodes.decode_file(
            MODEL, ROWS, config, target, folder, chunk=2, report=lambda _: None
        )


def test_an_interrupted_decode_goes_on_where_it_was(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "whole.jsonl")
    expected = (tmp_path / "whole.jsonl").read_bytes()
    # As one decode of all prompts gives it, draws included.
    alone = cd.decode(MODEL, [row.prompt for row in ROWS], CONFIG).trajectory
    assert whole.trajectory.tokens.tolist() == alone.tokens.tolist()
    assert whole.trajectory.length.tolist() == alone.length.tolist()
    assert [json.loads(line)["id"] for line in expected.splitlines()] == [row.id for row in ROWS]

    started: list[int] = []

    def interrupted(*args: Any, first: int, **kwargs: Any) -> cd.Decoded:
        started.append(first)
        if started == [0, 2]:
            raise KeyboardInterrupt
        return cd.decode(*args, first=first, **kwargs)

    monkeypatch.setattr(decodes, "decode", interrupted)
    target = tmp_path / "again.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(target)
    assert not target.exists()
    other = cd.DecodeConfig(gen_length=16, block_length=8, batch_size=2, seed=3, temperature=0.5)
    with pytest.raises(ValueError, match=r"holds a decode of other settings \(seed, "):
        write(target, other)
    write(target)
    assert started == [0, 2, 2, 4]
    assert target.read_bytes() == expected
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.jsonl", "whole.jsonl"]


def test_an_output_that_is_taken_is_refused_before_anything_is_loaded(
    tmp_path: pathlib.Path,
) -> None:
    target = tmp_path / "out.jsonl"
    with decodes.journal_of(target), pytest.raises(InUseError), decodes.journal_of(target):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was decoded, nothing is left
    with (
        pytest.raises(IsADirectoryError, match="give --output a file"),
        decodes.journal_of(tmp_path),
    ):
        pass
