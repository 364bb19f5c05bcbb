from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cd4lm_jax.runtime.mesh import AXES, MeshConfig, abstract_mesh, make_mesh
from cd4lm_jax.runtime.sharding import RULES, HostRows, constrain, dividing, shardings, spec

ON_EIGHT = """
import jax, jax.numpy as jnp
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import constrain, shardings

mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
where = shardings(mesh, {"up": ("embed", "mlp"), "scale": ("norm",)})
make = jax.jit(lambda: {"up": jnp.ones((8, 12)), "scale": jnp.ones(8)}, out_shardings=where)
params = make()
assert params["up"].sharding.shard_shape((8, 12)) == (4, 6), params["up"].sharding
assert params["scale"].sharding.shard_shape((8,)) == (8,)
with jax.set_mesh(mesh):
    hidden = jax.jit(lambda x: constrain(x, ("batch", "length", None)))(jnp.ones((8, 3, 5)))
assert hidden.sharding.shard_shape((8, 3, 5)) == (2, 3, 5), hidden.sharding
print("split as asked")
"""


@pytest.mark.slow
def test_arrays_are_split_as_the_table_says(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-c", ON_EIGHT, devices=8)
    assert done.stdout == "split as asked\n", done.stderr


def test_spec_follows_the_table() -> None:
    assert spec(("batch", "length")) == P(("data", "fsdp"), None)
    assert spec(("layers", "embed", "heads", None)) == P(None, "fsdp", "tensor", None)
    replicated = dataclasses.replace(RULES, embed=None)
    assert spec(("embed", "mlp"), replicated) == P(None, "tensor")


def test_what_does_not_divide_is_not_split() -> None:
    mesh = abstract_mesh(MeshConfig(data=2, fsdp=2, tensor=2), 8)
    assert dividing(P("tensor", "fsdp"), (211, 48), mesh) == P(None, "fsdp")
    assert dividing(P(("data", "fsdp"), None), (6, 5), mesh) == P(None, None)
    assert dividing(P(None, "fsdp", "tensor"), (3, 4, 8), mesh) == P(None, "fsdp", "tensor")


def test_unknown_axis_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no logical axis 'embd'.* did you mean 'embed'"):
        spec(("embd",))


def test_one_mesh_axis_cannot_split_two_dimensions() -> None:
    with pytest.raises(ValueError, match="over mesh axis 'fsdp'"):
        spec(("batch", "embed"))


def test_shardings_keep_the_tree() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    got = shardings(mesh, {"a": {"b": ("vocab", "embed")}, "c": ()})
    assert got == {
        "a": {"b": NamedSharding(mesh, P("tensor", "fsdp"))},
        "c": NamedSharding(mesh, P()),
    }


def test_constrain_without_a_mesh_changes_nothing() -> None:
    got = jax.jit(lambda x: constrain(x, ("batch", "length")))(jnp.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(got, np.arange(6.0).reshape(2, 3))


def test_one_host_holds_all_rows() -> None:
    rows = HostRows(make_mesh(MeshConfig(), jax.devices()[:1]), 4)
    np.testing.assert_array_equal(rows.places, [0, 1, 2, 3])
    array = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(rows.place(array), array)


def test_a_batch_that_the_mesh_cannot_split_is_named() -> None:
    mesh = jax.sharding.AbstractMesh((2, 2, 1), AXES)
    message = (
        r"batch_size 6 cannot be split over the 4 parts .*\(data x fsdp\); give a multiple of 4"
    )
    with pytest.raises(ValueError, match=message):
        HostRows(mesh, 6)  # type: ignore[arg-type]
