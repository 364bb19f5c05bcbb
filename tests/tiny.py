"""Models so small that a test compiles them in a second or two."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime.trees import named_leaves, with_leaves

TINY = ModelConfig(
    vocab_size=40,
    embed_dim=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=48,
    max_length=64,
    rope_theta=100.0,
    mask_id=39,
    eos_id=38,
    end_ids=(38, 37),
)

# Few tokens, so that random models often predict an end.
TINY_TALKER = dataclasses.replace(TINY, vocab_size=12, mask_id=4, eos_id=11, end_ids=(11, 10))

forward = jax.jit(Transformer.__call__)


@functools.cache
def _abstract(config: ModelConfig, execution: Execution) -> Transformer:
    return abstract_model(config, execution)


def tiny_model(
    config: ModelConfig = TINY,
    execution: Execution = Execution(),
    *,
    seed: int = 0,
    sharpness: float = 1.0,
) -> Transformer:
    """A random model; drawn by NumPy, since jax.random would have to be compiled.

    Args:
        config: the architecture.
        execution: how it runs; the parameters do not depend on it.
        seed: of the parameters.
        sharpness: about the standard deviation of the logits.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = rng.standard_normal(shape, np.float32)
        if name.endswith("norm"):
            return 1 + 0.1 * noise
        if name.endswith("bias"):
            return 0.5 * noise
        if name == "embedding":
            return noise
        gain = sharpness if name == "head" else 1.0
        return noise * np.float32(gain * shape[-2] ** -0.5)

    shapes = named_leaves(_abstract(config, execution))
    return model_of(
        config, {name: draw(name, leaf.shape) for name, leaf in shapes.items()}, execution
    )


def model_of(
    config: ModelConfig, leaves: Mapping[str, np.ndarray], execution: Execution = Execution()
) -> Transformer:
    """The model of these parameters."""
    arrays = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    return with_leaves(_abstract(config, execution), arrays)


def parameters(model: Transformer) -> dict[str, np.ndarray]:
    """The parameters by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(model).items()}
