from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cd4lm_jax.checkpoints import loading
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.models import finite
from cd4lm_jax.models.transformer import Transformer
from tests.tiny import TINY, model_of, parameters, tiny_model


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_found_when_they_are_loaded(
    tmp_path: pathlib.Path, value: float
) -> None:
    leaves = parameters(tiny_model())
    leaves["blocks.gate"] = leaves["blocks.gate"].copy()
    leaves["blocks.gate"][1, 3, 5:7] = value
    write_model(tmp_path, model_of(TINY, leaves))
    for dtype in ("float32", "bfloat16"):
        message = rf"blocks.gate has 2 numbers that are not finite in {dtype}; the model is damaged"
        with pytest.raises(ValueError, match=message):
            loading.load_model(tmp_path, dtype=dtype)


def test_a_dtype_too_narrow_for_the_weights_is_found(tmp_path: pathlib.Path) -> None:
    leaves = parameters(tiny_model())
    write_model(tmp_path, model_of(TINY, leaves | {"norm": 1e5 * leaves["norm"]}))
    loading.load_model(tmp_path, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"norm has \d+ numbers .* in float16; .* too narrow"):
        loading.load_model(tmp_path, dtype="float16")


def test_a_large_parameter_is_checked_a_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program holds copies of what it is given; a model that fills the memory has no room."""
    shapes: list[tuple[int, ...]] = []
    largest = finite._largest
    monkeypatch.setattr(finite, "_LARGE_BYTES", 100)

    def noted(leaf: jax.Array) -> jax.Array:
        shapes.append(leaf.shape)
        return largest(leaf)

    monkeypatch.setattr(finite, "_largest", noted)
    leaves = parameters(tiny_model())
    finite.check_finite(model_of(TINY, leaves), "here")
    assert leaves["blocks.up"].shape[1:] in shapes
    assert leaves["embedding"].shape in shapes
    assert not any(len(shape) > 2 for shape in shapes)
    leaves["blocks.up"] = leaves["blocks.up"].copy()
    leaves["blocks.up"][1, 0, 0] = -np.inf
    with pytest.raises(ValueError, match=r"here: blocks.up has 1 numbers"):
        finite.check_finite(model_of(TINY, leaves), "here")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_infinity_and_nan_are_known_by_their_bits(dtype: str) -> None:
    largest = jnp.finfo(dtype).max
    for value in (0.0, 1.0, -1.0, largest, -largest, jnp.finfo(dtype).tiny):
        finite.check_finite(model_with(value, dtype), "here")
    infinite = [] if dtype == "float8_e4m3fn" else [jnp.inf, -jnp.inf]
    for value in (jnp.nan, -jnp.nan, *infinite):
        with pytest.raises(ValueError, match=r"norm has 1 numbers"):
            finite.check_finite(model_with(value, dtype), "here")


def model_with(value: Any, dtype: str) -> Transformer:
    """A model with this number in its norm."""
    model = tiny_model()
    norm = model.norm[...].astype(dtype).at[3].set(jnp.asarray(value, dtype))
    model.norm = nnx.Param(norm)
    return model
