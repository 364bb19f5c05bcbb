"""A prepared gsm_mini and its tokenizer, made once for all tests of the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cd4lm_jax.data.gsm_mini import builder, vocabulary
from cd4lm_jax.data.tokenizer import Tokenizer

JsonLines = Callable[..., str]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return vocabulary.load()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tfds")
    builder.prepare("distill", folder)
    return str(folder)


@pytest.fixture
def json_lines(tmp_path: Path) -> JsonLines:
    """Writes a .jsonl file of examples and gives its path."""

    def write(*examples: tuple[str, str]) -> str:
        path = tmp_path / "examples.jsonl"
        rows = [json.dumps({"question": asked, "answer": answer}) for asked, answer in examples]
        path.write_text("\n".join(rows) + "\n")
        return str(path)

    return write
