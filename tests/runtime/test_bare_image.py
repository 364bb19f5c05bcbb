from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

# What an accelerator image with jax, flax, optax and orbax does not have (flax brings rich).
ABSENT = (
    "grain",
    "tensorflow_datasets",
    "array_record",
    "tokenizers",
    "jinja2",
    "matplotlib",
    "tensorboardX",
    "ml_collections",
    "hypothesis",
    "safetensors",
)
MODULES = (
    "bundled",
    "checkpoints.run_checkpoints",
    "checkpoints.conversion",
    "commands.common",
    "commands.convert",
    "replay.page",
    "runtime.cluster",
    "runtime.files",
    "runtime.mesh",
    "runtime.metrics",
    "runtime.progress",
    "runtime.sharding",
    "settings.config",
)


@pytest.mark.slow
def test_runtime_imports_without_what_a_bare_image_lacks(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))",  # None: importing it fails
        *(f"import cd4lm_jax.{module}" for module in MODULES),
        "print('imported')",
    ]
    done = run_python("-c", "\n".join(code))
    assert done.stdout == "imported\n", done.stderr
