"""Models of a process as folders, and what comes back from them."""

from __future__ import annotations

import pathlib

import pytest

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.checkpoints.loading import layout
from tests.checkpoints.test_peft import ADAPTERS

QUESTION = "Amy has 5 pens. She buys 3. How many pens now?"


@pytest.mark.parametrize("form", ["own", "huggingface"])
def test_what_is_saved_is_the_model_that_is_loaded(tmp_path: pathlib.Path, form: str) -> None:
    model = cd.load(bundled.teacher())
    model.save(tmp_path / "new" / "model", form)  # type: ignore[arg-type]
    again = cd.load(tmp_path / "new" / "model")
    assert again.fingerprint == model.fingerprint
    assert layout(tmp_path / "new" / "model") == {"own": "own"}.get(form, "Hugging Face")
    assert again.prompt_ids(QUESTION) == model.prompt_ids(QUESTION)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model"]


def test_adapters_are_saved_as_the_model_that_they_make(tmp_path: pathlib.Path) -> None:
    model = cd.load(ADAPTERS, quantize="int4")
    model.save(tmp_path / "merged")
    assert cd.load(tmp_path / "merged").fingerprint == model.fingerprint
    with pytest.raises(ValueError, match="int4"):
        model.save(tmp_path / "published", "huggingface")
    assert not (tmp_path / "published").exists()


def test_nothing_is_overwritten_and_a_layout_is_one_of_two(tmp_path: pathlib.Path) -> None:
    model = cd.load(ADAPTERS)
    model.save(tmp_path / "kept")
    with pytest.raises(ValueError, match="kept is not empty"):
        model.save(tmp_path / "kept")
    with pytest.raises(ValueError, match="no layout 'hf'"):
        model.save(tmp_path / "other", "hf")  # type: ignore[arg-type]
