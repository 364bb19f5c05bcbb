from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.models import layers

rng = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_linear_maps_the_last_axis(leading: tuple[int, ...]) -> None:
    x, kernel, bias = normal(*leading, 4), normal(4, 6), normal(6)
    y = jax.jit(layers.linear)(x, kernel, bias)
    np.testing.assert_allclose(y, x @ kernel + bias, atol=1e-5)


def test_rms_norm_scales_to_unit_root_mean_square() -> None:
    x, scale = 100 * normal(3, 16), normal(16)
    y = jax.jit(layers.rms_norm)(x, scale, 1e-5)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True)) * scale
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_rms_norm_of_bfloat16_is_taken_in_float32() -> None:
    # 1 + 1/16 squared and summed 256 times: a bfloat16 sum would stop growing on the way.
    x = jnp.full((1, 4096), 1.0625, jnp.bfloat16)
    y = jax.jit(layers.rms_norm)(x, np.ones(4096, np.float32), 0.0)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), 1.0)


def test_rotary_scores_depend_on_distance_alone() -> None:
    def scores(positions: jax.Array) -> jax.Array:
        angles = layers.rotary_angles(positions[None], 8, 100.0)
        turned = layers.rotate(x, *angles)[0, :, 0]
        return turned @ turned.T

    x = normal(1, 6, 1, 8)
    compiled = jax.jit(scores)
    np.testing.assert_allclose(compiled(jnp.arange(6)), compiled(jnp.arange(6) + 1000), atol=1e-3)


def test_rotary_turns_dimension_i_with_dimension_i_plus_half() -> None:
    x = normal(1, 1, 1, 4)
    turned = layers.rotate(x, *layers.rotary_angles(jnp.array([[3]]), 4, 100.0))[0, 0, 0]
    a, b, c, d = x[0, 0, 0]
    fast, slow = np.exp(3j), np.exp(3j / 10)
    pairs = [(a + 1j * c) * fast, (b + 1j * d) * slow]
    np.testing.assert_allclose(turned, [z.real for z in pairs] + [z.imag for z in pairs], atol=1e-5)


def test_rotary_angles_stay_float32_for_a_bfloat16_model() -> None:
    # bfloat16 rounds position 257 to 256.
    cos, sin = layers.rotary_angles(jnp.array([[256, 257]]), 4, 100.0)
    assert cos.dtype == sin.dtype == jnp.float32
    np.testing.assert_allclose(cos[0, :, 0], np.cos([256.0, 257.0]), atol=1e-4)
    assert layers.rotate(jnp.ones((1, 2, 1, 4), jnp.bfloat16), cos, sin).dtype == jnp.bfloat16
