"""The shapes in the signatures of the kernels are those of the arrays that pass through them."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from cd4lm_jax.models import attention, block, layers, lora, transformer, window
from cd4lm_jax.models.window import Window
from tests.tiny import TINY, tiny_model

LENGTH, SIZE = 12, 4
TOKENS = jax.ShapeDtypeStruct((2, LENGTH), jnp.int32)
VALID = jax.ShapeDtypeStruct((2, LENGTH), jnp.bool_)
GROUPS = jax.ShapeDtypeStruct((2, LENGTH), jnp.int32)
START = jax.ShapeDtypeStruct((2,), jnp.int32)

FUNCTIONS: list[tuple[types.ModuleType, list[str]]] = [
    (layers, ["linear", "rms_norm", "rotary_angles", "rotate"]),
    (
        attention,
        ["attention", "block_causal_mask", "heads_first", "positions_of", "attention_groups"],
    ),
]
METHODS: list[tuple[types.ModuleType, type, list[str]]] = [
    (window, Window, ["of"]),
    (block, block.Block, ["__call__", "_project", "_normed"]),
    (
        transformer,
        transformer.Transformer,
        ["__call__", "hidden", "prefill", "cached_forward", "logits"],
    ),
    (lora, lora.AdaptedKernel, ["__rmatmul__"]),
]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    return jaxtyping.jaxtyped(typechecker=beartype.beartype)(function)


@pytest.fixture
def shapes_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel checks the arrays it is given and returns; the library imports no checker."""
    modules = {*(module for module, _ in FUNCTIONS), *(module for module, _, _ in METHODS)}
    for module in modules:
        for name in ("Bool", "Float", "Int", "Shaped"):
            monkeypatch.setattr(module, name, getattr(jaxtyping, name), raising=False)
    wrapped = {
        getattr(module, name): checked(getattr(module, name))
        for module, names in FUNCTIONS
        for name in names
    }
    for module in modules:  # wherever one is imported
        for name, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType) and value in wrapped:
                monkeypatch.setattr(module, name, wrapped[value])
    for _, owner, names in METHODS:
        for name in names:
            monkeypatch.setattr(owner, name, checked(vars(owner)[name]))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"qkv_bias": True, "alignment": "shifted"},
    {"tie_head": True},
    {"qk_norm": True, "rotary_dim": 4, "attention": "causal"},
]


@pytest.mark.usefixtures("shapes_checked")
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("changes", VARIANTS, ids=["plain", "Dream", "tied", "heads normalised"])
def test_every_forward_pass_keeps_to_them(changes: dict[str, Any], scan_layers: bool) -> None:
    config = dataclasses.replace(TINY, **changes)
    model = tiny_model(config, transformer.Execution(dtype="bfloat16", scan_layers=scan_layers))

    def passes(tokens: Any, valid: Any, groups: Any, start: Any) -> Any:
        part = Window(start=start, length=SIZE)
        hidden, cache = model.prefill(tokens, valid, part, groups)
        again = functools.partial(model.cached_forward, tokens, valid, part, cache, groups=groups)
        return model(tokens, valid), model(tokens, valid, part), hidden, again(), again(suffix=8)

    whole, windowed, *states = jax.eval_shape(passes, TOKENS, VALID, GROUPS, START)
    assert whole.shape == (2, LENGTH, config.vocab_size)
    assert windowed.shape == (2, SIZE, config.vocab_size)
    assert {state.shape for state in states} == {(2, SIZE, config.embed_dim)}


@pytest.mark.usefixtures("shapes_checked")
def test_adapted_kernels_keep_to_them() -> None:
    model = tiny_model()
    settings = lora.LoraConfig(rank=2)

    def adapted(tokens: Any, valid: Any) -> Any:
        return lora.attach(settings, model, lora.create(settings, model, jax.random.key(0)))(
            tokens, valid
        )

    assert jax.eval_shape(adapted, TOKENS, VALID).shape == (2, LENGTH, TINY.vocab_size)


@pytest.mark.usefixtures("shapes_checked")
def test_another_shape_is_refused() -> None:
    heads = jnp.ones((2, LENGTH, 4, 8))
    with pytest.raises(jaxtyping.TypeCheckError):
        attention.attention(heads, heads, heads[0], jnp.ones((2, LENGTH), bool))
    with pytest.raises(jaxtyping.TypeCheckError):
        layers.rotate(heads, *layers.rotary_angles(jnp.ones((3, LENGTH), jnp.int32), 8, 100.0))
