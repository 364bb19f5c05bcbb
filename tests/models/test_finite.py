from __future__ import annotations

import pathlib

import numpy as np
import pytest

from cd4lm_jax.checkpoints import loading
from cd4lm_jax.checkpoints.model_folder import write_model
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
