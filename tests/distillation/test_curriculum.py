from __future__ import annotations

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.distillation.curriculum import LambdaCurriculum


def test_is_the_published_schedule(golden: pathlib.Path) -> None:
    rows = json.loads((golden / "tables.json").read_text())["lambda_schedule"]["rows"]
    for step, total, warmup, initial, final, expected in rows:
        curriculum = LambdaCurriculum(initial=initial, final=final, warmup_ratio=warmup)
        assert float(curriculum(step, total)) == pytest.approx(expected, abs=1e-6)


def test_is_constant_then_falls_to_the_end() -> None:
    curriculum = LambdaCurriculum(initial=0.8, final=0.2, warmup_ratio=0.2)
    values = np.asarray(curriculum(jnp.arange(101), 100))
    np.testing.assert_allclose(values[:21], 0.8, rtol=1e-6)
    assert (np.diff(values[20:]) < 0).all()
    assert values[60] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0.2)
    assert float(curriculum(150, 100)) == pytest.approx(0.2)


def test_a_run_of_one_step_has_a_lambda() -> None:
    assert float(LambdaCurriculum()(0, 1)) == pytest.approx(0.9)
