from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.models.axes import logical_axes
from cd4lm_jax.models.config import Alignment, ModelConfig
from cd4lm_jax.models.transformer import Execution, Remat, Transformer
from cd4lm_jax.models.window import Window
from cd4lm_jax.runtime.sharding import spec
from cd4lm_jax.runtime.trees import named_leaves
from tests.models import reference
from tests.tiny import TINY, forward, model_of, parameters, tiny_model

LENGTH = 20
UNROLLED = Execution(scan_layers=False)

rng = np.random.default_rng(0)
TEXT = rng.integers(0, TINY.vocab_size, 12)


def padded(text: np.ndarray, left: list[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """A row for each amount of padding on the left, the rest on the right; junk in both."""
    tokens = rng.integers(0, TINY.vocab_size, (len(left), length))
    valid = np.zeros(tokens.shape, bool)
    for row, start in enumerate(left):
        tokens[row, start : start + len(text)] = text
        valid[row, start : start + len(text)] = True
    return tokens.astype(np.int32), valid


VARIANTS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one key/value head": {"num_kv_heads": 1},
    "biased": {"qkv_bias": True, "num_kv_heads": 4},
    "tied": {"tie_head": True},
    "shifted": {"alignment": "shifted"},
    "groups of three heads": {"num_heads": 6, "head_dim": 10, "qk_norm": True, "tie_head": True},
    "half rotated": {"rotary_dim": 4, "qk_norm": True, "qkv_bias": True},
    "causal": {"attention": "causal", "mask_id": -1},
    "causal, shifted": {"attention": "causal", "alignment": "shifted"},
    "blocks": {"attention": "block", "block_length": 4, "blocks": "sequence"},
    "blocks, shifted": {
        "attention": "block",
        "block_length": 5,
        "blocks": "sequence",
        "alignment": "shifted",
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_computes_the_reference_however_it_is_padded(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(TINY, **changes)
    model = tiny_model(config)
    expected = reference.forward(config, parameters(model), TEXT)
    left = [0, 3, 8]
    logits = forward(model, *padded(TEXT, left, LENGTH))
    for row, start in enumerate(left):
        # Dream's first position is predicted by what stands before it, were that padding.
        skip = 1 if config.alignment == "shifted" else 0
        ours = logits[row, start + skip : start + len(TEXT)]
        np.testing.assert_allclose(ours, expected[skip:], atol=2e-4)


def test_more_padding_changes_nothing() -> None:
    model = tiny_model()
    less, more = padded(TEXT, [0, 3, 8], LENGTH), padded(TEXT, [0, 9, 21], 33)
    one, other = forward(model, *less), forward(model, *more)
    np.testing.assert_allclose(one[less[1]], other[more[1]], atol=2e-5)


def test_unrolled_layers_compute_what_scanned_ones_do() -> None:
    batch = padded(TEXT, [0, 3, 8], LENGTH)
    scanned, unrolled = tiny_model(), tiny_model(execution=UNROLLED)
    np.testing.assert_allclose(forward(scanned, *batch), forward(unrolled, *batch), atol=2e-5)


@jax.jit
def window_of_five(
    model: Transformer, tokens: jax.Array, valid: jax.Array, start: jax.Array
) -> jax.Array:
    return model(tokens, valid, Window(start=start, length=5))


@pytest.mark.parametrize("alignment", ["same", "shifted"])
@pytest.mark.parametrize("execution", [Execution(), UNROLLED], ids=["scanned", "unrolled"])
def test_a_window_is_a_slice_of_the_whole(alignment: Alignment, execution: Execution) -> None:
    model = tiny_model(dataclasses.replace(TINY, alignment=alignment), execution)
    tokens, valid = padded(TEXT, [0, 3, 8], LENGTH)
    whole = np.asarray(forward(model, tokens, valid))
    for starts in (np.array([1, 7, 15], np.int32), np.array([0, 0, 15], np.int32)):
        part = window_of_five(model, tokens, valid, starts)
        expected = [row[start : start + 5] for row, start in zip(whole, starts, strict=True)]
        np.testing.assert_allclose(part, expected, atol=2e-5)


def test_grouped_heads_are_repeated_key_value_heads() -> None:
    grouped = tiny_model()
    repeated = dataclasses.replace(TINY, num_kv_heads=TINY.num_heads)
    leaves = parameters(grouped)
    for name in ("blocks.key", "blocks.value"):
        heads = leaves[name].reshape(TINY.num_layers, TINY.embed_dim, TINY.num_kv_heads, -1)
        leaves[name] = np.repeat(heads, 2, axis=2).reshape(TINY.num_layers, TINY.embed_dim, -1)
    batch = padded(TEXT, [0, 3, 8], LENGTH)
    np.testing.assert_allclose(
        forward(grouped, *batch), forward(model_of(repeated, leaves), *batch), atol=2e-5
    )


def test_a_tied_head_is_no_parameter() -> None:
    model = tiny_model(dataclasses.replace(TINY, tie_head=True))
    assert "head" not in parameters(model)
    np.testing.assert_array_equal(model.head_kernel, parameters(model)["embedding"].T)


def test_bfloat16_computes_in_bfloat16_and_gives_float32_logits() -> None:
    batch = padded(TEXT, [0, 3, 8], LENGTH)
    half = tiny_model(execution=Execution(dtype="bfloat16"))
    hidden = jax.eval_shape(half.hidden, *map(jnp.asarray, batch))
    logits, exact = forward(half, *batch), forward(tiny_model(), *batch)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    error = np.abs(logits - exact)[batch[1]]
    assert 1e-4 < error.max() < 0.2


@pytest.mark.slow
def test_what_is_recomputed_does_not_change_the_gradient() -> None:
    batch = padded(TEXT, [0, 3], LENGTH)
    cotangent = rng.standard_normal((2, LENGTH, TINY.vocab_size), np.float32)

    @jax.jit
    def gradient(model: Transformer) -> Transformer:
        return jax.grad(lambda model: jnp.vdot(model(*batch), cotangent))(model)

    policies: list[Remat] = ["none", "dots", "full"]
    none, *others = (
        parameters(gradient(tiny_model(execution=Execution(remat=policy)))) for policy in policies
    )
    assert all(np.abs(leaf).max() > 0 for leaf in none.values())
    for other in others:
        for name, leaf in none.items():
            np.testing.assert_allclose(other[name], leaf, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, qkv_bias=True)])
def test_every_parameter_has_a_name_for_each_axis(config: ModelConfig) -> None:
    for name, leaf in named_leaves(abstract_model(config)).items():
        axes = logical_axes(name)
        assert len(axes) == leaf.ndim, name
        spec(axes)  # every name is in the table
    assert logical_axes("optimizer.count") == ()
