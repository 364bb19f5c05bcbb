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
    message = r"blocks.gate has 2 numbers that are not finite; the model is damaged, or its train"
    with pytest.raises(ValueError, match=message):
        loading.load_model(tmp_path)
    with pytest.raises(ValueError, match=message):  # too large for the dtype asked for, likewise
        loading.load_model(tmp_path, dtype="bfloat16")
    write_model(tmp_path, tiny_model())
    loading.load_model(tmp_path)
