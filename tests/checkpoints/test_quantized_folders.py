"""Folders of quantised models: however they are made, they hold the same numbers."""

from __future__ import annotations

import pathlib

import pytest

from cd4lm_jax.checkpoints import published_tensors
from cd4lm_jax.checkpoints.array_trees import CheckpointError
from cd4lm_jax.checkpoints.conversion import ConversionError, convert
from cd4lm_jax.checkpoints.loading import load_model, stored_mode
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.models.quantization import Mode, quantize

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PUBLISHED = GOLDEN / "llada_tiny"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4", "fp8"])
def test_converted_loaded_and_written_are_the_same(
    mode: Mode, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fingerprint(quantize(load_model(PUBLISHED), mode))
    assert fingerprint(load_model(PUBLISHED, quantize=mode)) == expected
    own, straight, over = (tmp_path / name for name in ("own", "straight", "over"))
    convert(PUBLISHED, own)
    monkeypatch.setattr(published_tensors, "CHUNK_ELEMENTS", 3000)  # several chunks a tensor
    convert(PUBLISHED, straight, quantize=mode)
    convert(own, over, quantize=mode)
    write_model(tmp_path / "written", load_model(own, quantize=mode))
    for folder in (straight, over, tmp_path / "written"):
        assert stored_mode(folder) == mode
        assert fingerprint(load_model(folder)) == expected
        assert fingerprint(load_model(folder, quantize=mode)) == expected
    assert stored_mode(own) == stored_mode(PUBLISHED) == "none"


def test_nothing_undoes_it(tmp_path: pathlib.Path) -> None:
    convert(PUBLISHED, tmp_path / "small", quantize="int8")
    with pytest.raises(ConversionError, match="quantised in int8, which no published layout holds"):
        convert(tmp_path / "small", tmp_path / "back")
    with pytest.raises(CheckpointError, match="quantised in int8 already; give quantize=int8, or"):
        load_model(tmp_path / "small", quantize="int4")
    assert not (tmp_path / "back").exists()


def test_another_conversion_is_not_continued(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cd4lm_jax.checkpoints.chunks.TreeWriter.close", _killed)
    with pytest.raises(KeyboardInterrupt):
        convert(PUBLISHED, tmp_path / "small", quantize="int8")
    with pytest.raises(ConversionError, match="was begun from another source or with other settin"):
        convert(PUBLISHED, tmp_path / "small", quantize="int4")
    monkeypatch.undo()
    convert(PUBLISHED, tmp_path / "small", quantize="int8")
    expected = fingerprint(load_model(PUBLISHED, quantize="int8"))
    assert fingerprint(load_model(tmp_path / "small")) == expected


def _killed(_: object) -> None:
    raise KeyboardInterrupt
