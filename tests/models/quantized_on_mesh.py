"""Logits of quantised models split over virtual devices; run in a process that has eight."""

from __future__ import annotations

import json
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from cd4lm_jax.checkpoints.model_folder import read_model, write_model
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from tests.tiny import forward, tiny_model

MESHES = {
    "tensor=2": MeshConfig(data=1, tensor=2),
    "fsdp=2, tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
}


def logits(model: Transformer) -> np.ndarray:
    """Of two rows."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 37, (2, 9)))
    return np.asarray(forward(model, tokens, jnp.ones(tokens.shape, bool)))


def main() -> None:
    """Prints them as JSON, by mode and mesh; models are quantised while they are read."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, tiny_model())
        for mode in ("int8", "int4", "fp8"):
            found[mode] = {}
            for name, sizes in MESHES.items():
                needed = sizes.data * sizes.fsdp * sizes.tensor
                mesh = make_mesh(sizes, jax.devices()[:needed])
                with jax.set_mesh(mesh):
                    model = read_model(folder, mesh=mesh, quantize=mode)
                    found[mode][name] = logits(model).tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
