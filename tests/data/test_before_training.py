"""What a run says of its data before the first update."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from cd4lm_jax.data.checks import DataError
from cd4lm_jax.data.sources import SourceError
from cd4lm_jax.distillation.trainer import train
from tests import pens


def _rows(path: pathlib.Path, *answers: str) -> str:
    lines = [json.dumps({"question": f"q {n}", "answer": it}) for n, it in enumerate(answers)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("split", ["data", "validation"])
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ("1" * 40, DataError, "rows.jsonl, line 5: its answer has 40 tokens, expected at most 15"),
        ("\ud83d", SourceError, r"rows.jsonl, line 5: holds \ud83d, half of a character"),
    ],
)
def test_faulty_rows_are_named_before_the_first_update(
    split: str, answer: str, error: type[Exception], message: str, tmp_path: pathlib.Path
) -> None:
    config = pens.config(tmp_path)
    source = _rows(tmp_path / "rows.jsonl", *["#### 1"] * 4, answer)
    faulty = dataclasses.replace(getattr(config, split), source=source)
    with pytest.raises(error) as raised:
        train(dataclasses.replace(config, **{split: faulty}))
    assert message in str(raised.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
