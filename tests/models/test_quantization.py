"""Kernels in 8 and 4 bits: how far they are off, and that they compute what they stand for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cd4lm_jax.decoding import batching
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.models import lora, quantization
from cd4lm_jax.models.axes import logical_axes
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.quantization import Mode, QuantizedKernel, quantize, quantize_kernel
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.trees import named_leaves
from tests.models import quantized_on_mesh
from tests.tiny import TINY, forward, parameters, tiny_model

MODES: tuple[Mode, ...] = ("int8", "int4", "fp8")
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 37, (2, 9)))
VALID = jnp.ones(TOKENS.shape, bool)


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@given(st.sampled_from(MODES), st.sampled_from([2, 32, 48, 96]), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_weight_is_off_by_half_a_step_at_most(mode: Mode, fan_in: int, seed: int) -> None:
    kernel = np.asarray(drawn(fan_in, 5, seed=seed))
    found = quantize_kernel(jnp.asarray(kernel), mode)
    back = np.asarray(found.dequantized(jnp.float32))
    assert found.shape == back.shape == kernel.shape
    groups = found.scales.shape[0]
    assert groups == (fan_in // quantization.group_of(fan_in) if mode == "int4" else 1)
    grouped = kernel.reshape(groups, -1, 5)
    greatest = np.abs(grouped).max(axis=1, keepdims=True)
    error = np.abs(back.reshape(grouped.shape) - grouped)
    if mode == "fp8":  # three bits of fraction, and the least step near zero
        bound = np.maximum(np.abs(grouped) / 16, greatest / 448 * 2**-10)
    else:
        bound = greatest / (127 if mode == "int8" else 7) / 2
        if mode == "int4":
            bound = bound + greatest / 256  # scales are in bfloat16
    assert (error <= 1.001 * bound).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scan_layers", [True, False])
def test_computes_what_the_dequantised_model_does(mode: Mode, scan_layers: bool) -> None:
    model = quantize(tiny_model(execution=Execution(scan_layers=scan_layers)), mode)
    expected = forward(quantization.dequantize(model), TOKENS, VALID)
    np.testing.assert_allclose(forward(model, TOKENS, VALID), expected, rtol=1e-4, atol=1e-5)
    # Only kernels have changed; a loop over passes takes its layers out before it starts.
    dense, found = parameters(tiny_model()), parameters(quantization.dequantize(model))
    changed = {name for name, leaf in found.items() if not np.array_equal(leaf, dense[name])}
    assert changed == {name for name in dense if quantization.is_quantized(name)}
    split = forward(model.by_layer(), TOKENS, VALID)
    np.testing.assert_allclose(split, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_product_in_tiles_is_the_product(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = drawn(3, 64), quantize_kernel(drawn(64, 256), mode)
    dense = kernel.dequantized(jnp.float32)
    monkeypatch.setattr(quantization, "_TILE_ELEMENTS", 64 * 64)
    assert quantization._tile(kernel) == 64
    product = jax.jit(lambda x, kernel: x @ kernel)
    np.testing.assert_allclose(product(x, kernel), x @ dense, rtol=1e-5, atol=1e-5)
    y = drawn(3, 256, seed=1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(y * (x @ kernel))))(x)
    np.testing.assert_allclose(gradient, y @ dense.T, rtol=1e-5, atol=1e-4)


def test_in_bfloat16_sums_are_in_float32() -> None:
    x, kernel = drawn(3, 512).astype(jnp.bfloat16), quantize_kernel(drawn(512, 8), "int8")
    expected = x.astype(jnp.float32) @ kernel.dequantized(jnp.float32)
    found = x @ kernel
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=2**-8, atol=1e-3)


def test_a_loop_over_passes_holds_no_copy_of_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """XLA's CPU compiler would cast all kernels to float32 before the loop."""
    monkeypatch.setattr(quantization, "_TILE_ELEMENTS", 1 << 14)
    kernels = [quantize_kernel(drawn(512, 512, seed=seed), "int8") for seed in range(4)]

    def passes(x: jax.Array, kernels: list[QuantizedKernel]) -> jax.Array:
        def one(_: Any, x: jax.Array) -> jax.Array:
            for kernel in kernels:
                x = jnp.tanh(x @ kernel)
            return x

        return jax.lax.fori_loop(0, x.shape[0] * 2, one, x)

    compiled = jax.jit(passes).lower(drawn(2, 512), kernels).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 512 * 512 * 4  # one of the four


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_decodes_as_the_dequantised_model_does(cache: Any) -> None:
    model = quantize(tiny_model(sharpness=4.0), "int8")
    config = DecodeConfig(
        gen_length=16, block_length=8, cache=cache, rule=ConfidenceAdaptive(threshold=0.6)
    )
    prompts = [[3, 4, 5], [6, 7]]
    found, _ = batching.decode(model, prompts, config)
    expected, _ = batching.decode(quantization.dequantize(model), prompts, config)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.nfe, expected.nfe)


@pytest.mark.slow
def test_adapters_go_on_a_quantised_base() -> None:
    config = LoraConfig(rank=2)
    base = quantize(tiny_model(), "int4")
    fresh = lora.create(config, base, jax.random.key(0))
    factors = jax.tree.map(lambda leaf: 0.1 * drawn(*leaf.shape), fresh)
    on = forward(lora.attach(config, base, factors), TOKENS, VALID)
    merged = lora.merge(config, base, factors)
    np.testing.assert_allclose(on, forward(merged, TOKENS, VALID), rtol=1e-3, atol=1e-4)
    assert np.abs(on - forward(base, TOKENS, VALID)).max() > 0.1


def test_names_axes_and_fingerprints() -> None:
    model = quantize(tiny_model(), "int4")
    leaves = named_leaves(model)
    assert leaves["blocks.value.values"].shape == (2, 16, 16)  # two inputs in a byte
    assert leaves["blocks.value.scales"].shape == (2, 1, 16)
    assert leaves["head.values"].dtype == jnp.int8
    assert leaves["embedding"].dtype == jnp.float32
    assert logical_axes("blocks.down.values") == ("layers", "mlp", "embed")
    assert logical_axes("blocks.down.scales") == ("layers", None, "embed")
    assert logical_axes("head.scales") == (None, "vocab")
    prints = {fingerprint(quantize(tiny_model(), mode)) for mode in ("none", *MODES)}
    assert len(prints) == 4


@pytest.mark.slow
def test_sharded_it_computes_the_same(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-m", "tests.models.quantized_on_mesh", devices=8)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for mode in MODES:
        expected = quantized_on_mesh.logits(quantize(tiny_model(), mode))
        for mesh, logits in found[mode].items():
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4, err_msg=mesh)


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match="no mode 'int5'; did you mean"):
        quantize(tiny_model(TINY), "int5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int4 stores inputs in pairs, and a kernel here has 3"):
        quantize_kernel(drawn(3, 4), "int4")
