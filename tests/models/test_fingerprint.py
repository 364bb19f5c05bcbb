from __future__ import annotations

import dataclasses
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.checkpoints.model_folder import read_model, write_model
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime import checksums
from tests.tiny import TINY, model_of, parameters, tiny_model


def test_one_bit_or_one_field_makes_another_fingerprint() -> None:
    model, leaves = tiny_model(), parameters(tiny_model())
    flipped = leaves["blocks.up"].copy()
    flipped.view(np.uint32)[1, 2, 3] ^= 1
    others: dict[str, Any] = {"rope_theta": 101.0, "norm_eps": 1e-6, "end_ids": (TINY.eos_id,)}
    found = [
        fingerprint(model),
        fingerprint(model_of(TINY, leaves | {"blocks.up": flipped})),
        # Two arrays with their values exchanged.
        fingerprint(
            model_of(
                TINY,
                leaves | {"blocks.gate": leaves["blocks.up"], "blocks.up": leaves["blocks.gate"]},
            )
        ),
        *(
            fingerprint(model_of(dataclasses.replace(TINY, **{name: value}), leaves))
            for name, value in others.items()
        ),
    ]
    assert len(set(found)) == len(found)
    assert all(len(each) == 64 for each in found)
    assert fingerprint(tiny_model(execution=Execution(scan_layers=False))) == found[0]


def test_large_arrays_are_hashed_in_parts_to_the_same_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fingerprint(tiny_model())
    monkeypatch.setattr(checksums, "_CHUNK_BYTES", 1000)
    assert fingerprint(tiny_model()) == expected


def test_fields_of_later_versions_leave_it() -> None:
    """The sum of this model as it was before blocks, patterns and norms of heads were fields."""
    assert fingerprint(tiny_model()).startswith("e6d7761211ead9e1")
    other = dataclasses.replace(TINY, attention="block", block_length=4, blocks="sequence")
    blocks = model_of(other, parameters(tiny_model()))
    assert fingerprint(blocks) != fingerprint(tiny_model())


@pytest.mark.slow
def test_it_is_the_same_on_any_mesh(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write_model(tmp_path, tiny_model())
    done = run_python("-c", _ON_A_MESH, str(tmp_path), devices=8)
    assert done.stdout.split() == [fingerprint(read_model(tmp_path))], done.stderr


_ON_A_MESH = """
import sys
from cd4lm_jax.checkpoints.model_folder import read_model
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
print(fingerprint(read_model(sys.argv[1], mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))))
"""
