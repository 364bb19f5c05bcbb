from __future__ import annotations

import pathlib
import re
import subprocess
from collections.abc import Callable

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest

from cd4lm_jax.checkpoints import array_trees
from cd4lm_jax.checkpoints.array_trees import CheckpointError, DamagedError, load_tree, save_tree
from cd4lm_jax.checkpoints.chunks import Chunked, TreeReader, TreeWriter
from tests import disk

RNG = np.random.default_rng(0)
TREE = {
    "blocks.gate": RNG.standard_normal((3, 4, 10)).astype(ml_dtypes.bfloat16),
    "zeros": np.zeros((6, 2), ml_dtypes.bfloat16),
    "norm": RNG.standard_normal(5).astype(ml_dtypes.bfloat16),
}
# Neither 10 nor 6 is a multiple of a chunk's rows.
CHUNKS = {"blocks.gate": (1, 4, 4), "zeros": (4, 2), "norm": (5,)}
ARRAYS = {
    name: Chunked(shape=leaf.shape, dtype="bfloat16", chunk=CHUNKS[name])
    for name, leaf in TREE.items()
}
PLACES: list[tuple[str, tuple[int | slice, ...]]] = [
    *(
        ("blocks.gate", (layer, slice(0, 4), slice(start, min(start + 4, 10))))
        for layer in range(3)
        for start in (0, 4, 8)
    ),
    ("zeros", (slice(0, 4), slice(0, 2))),
    ("zeros", (slice(4, 6), slice(0, 2))),
    ("norm", (slice(0, 5),)),
]


def abstract() -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in TREE.items()}


def fill(folder: pathlib.Path, places: list[tuple[str, tuple[int | slice, ...]]] = PLACES) -> None:
    writer = TreeWriter(folder, ARRAYS)
    for name, place in places:
        assert not writer.holds(name, place)
        writer.write(name, place, TREE[name][place])
    writer.flush()
    assert all(writer.holds(*place) for place in places)
    if places == PLACES:
        writer.close()


def assert_equal(tree: dict[str, jax.Array]) -> None:
    for name, leaf in TREE.items():
        np.testing.assert_array_equal(np.asarray(tree[name]), leaf, err_msg=name)


def test_orbax_reads_what_was_written_in_pieces(tmp_path: pathlib.Path) -> None:
    fill(tmp_path / "tree")
    array_trees.check_tree(tmp_path / "tree", abstract())
    assert array_trees.saved_dtype(tmp_path / "tree") == "bfloat16"
    assert_equal(load_tree(tmp_path / "tree", abstract()))


def test_what_is_there_is_known_to_the_next_writer(tmp_path: pathlib.Path) -> None:
    first, rest = PLACES[:10], PLACES[10:]
    fill(tmp_path / "tree", first)
    writer = TreeWriter(tmp_path / "tree", ARRAYS)
    assert [writer.holds(*place) for place in PLACES] == [True] * 10 + [False] * 2
    for name, place in rest:
        writer.write(name, place, TREE[name][place])
    writer.close()
    assert_equal(load_tree(tmp_path / "tree", abstract()))


@pytest.mark.parametrize("writer", ["chunks", "save_tree"])
def test_parts_are_read_from_either_kind(tmp_path: pathlib.Path, writer: str) -> None:
    if writer == "chunks":
        fill(tmp_path / "tree")
    else:
        save_tree(tmp_path / "tree", {name: jax.numpy.asarray(leaf) for name, leaf in TREE.items()})
    reader = TreeReader(tmp_path / "tree")
    for name, place in PLACES:
        np.testing.assert_array_equal(reader.read(name, place), TREE[name][place])


def test_parts_are_read_from_chunks_of_many_layers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models were saved before: an array, a chunk."""
    monkeypatch.setattr(array_trees, "_chunked", ocp.Context)
    save_tree(tmp_path / "tree", {name: jax.numpy.asarray(leaf) for name, leaf in TREE.items()})
    reader = TreeReader(tmp_path / "tree")
    for name, place in [*PLACES, *PLACES[::-1]]:
        np.testing.assert_array_equal(reader.read(name, place), TREE[name][place])


def test_a_saved_model_has_chunks_of_a_layer(tmp_path: pathlib.Path) -> None:
    save_tree(tmp_path / "tree", {"stack": np.ones((3, 4, 5)), "scales": np.ones((3, 4))})
    saved = ocp.metadata(tmp_path / "tree").metadata
    chunks = {name: leaf.storage_metadata.chunk_shape for name, leaf in saved.items()}
    assert chunks == {"stack": (1, 4, 5), "scales": (3, 4)}


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_chunk_is_noticed(tmp_path: pathlib.Path, damage: str) -> None:
    name = "blocks.gate"  # alone: orbax drops reads of other arrays with a warning
    places = [place for array, place in PLACES if array == name]
    writer = TreeWriter(tmp_path / "tree", {name: ARRAYS[name]})
    for place in places:
        writer.write(name, place, TREE[name][place])
    writer.close()
    chunk = tmp_path / "tree" / "state" / name / "c" / "1" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data if damage == "flipped" else data[:-4])
    if damage == "gone":
        chunk.unlink()
    reader = TreeReader(tmp_path / "tree")
    assert reader.read(name, places[0]).shape == (4, 4)
    with pytest.raises(DamagedError, match="is incomplete or damaged"):
        reader.read(name, places[3])
    with pytest.raises(DamagedError, match="is incomplete or damaged"):
        load_tree(tmp_path / "tree", {name: abstract()[name]}, verify=False)
    with pytest.raises(DamagedError, match=r"c/1/0/0 is (damaged|missing)"):
        load_tree(tmp_path / "tree", {name: abstract()[name]})


def test_a_full_disk_keeps_what_is_done(tmp_path: pathlib.Path) -> None:
    arrays = {"w": Chunked(shape=(3, 64), dtype="float32", chunk=(1, 64))}
    values = np.ones((1, 64), np.float32)
    place = [(slice(row, row + 1), slice(0, 64)) for row in range(3)]
    writer = TreeWriter(tmp_path / "tree", arrays)
    writer.write("w", place[0], values)
    writer.flush()
    with disk.full_beyond(100), pytest.raises(OSError, match="too large"):
        writer.write("w", place[1], values)
        writer.flush()
    again = TreeWriter(tmp_path / "tree", arrays)
    assert [again.holds("w", at) for at in place] == [True, False, False]
    again.write("w", place[1], values)
    again.flush()
    assert again.holds("w", place[1])


def test_nothing_private_of_another_library_is_named() -> None:
    """Orbax's own description of a tree is copied, so that it may change with orbax."""
    root = pathlib.Path(array_trees.__file__).parent
    private = re.compile(r"\b(?:orbax|jax|flax|optax|grain|tensorstore)[\w.]*\._\w")
    named = {
        f"{file.name}: {found[0]}"
        for file in root.rglob("*.py")
        for found in private.finditer(file.read_text())
    }
    assert not named


def test_says_that_there_are_no_arrays(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match="no arrays in"):
        TreeReader(tmp_path)


def test_another_type_is_named(tmp_path: pathlib.Path) -> None:
    fill(tmp_path / "tree")
    other = abstract() | {"norm": jax.ShapeDtypeStruct((5,), "float32")}
    with pytest.raises(CheckpointError, match="'norm' is bfloat16 there, expected float32"):
        array_trees.check_tree(tmp_path / "tree", other)


@pytest.mark.slow
def test_each_device_reads_its_part(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    fill(tmp_path / "tree")
    np.save(tmp_path / "gate.npy", TREE["blocks.gate"].astype(np.float32))
    done = run_python("-c", _ON_A_MESH, str(tmp_path), devices=4)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


_ON_A_MESH = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from cd4lm_jax.checkpoints import array_trees
mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"))
parts = {"blocks.gate": PartitionSpec(None, "fsdp", "tensor")}
shapes = {"blocks.gate": (3, 4, 10), "zeros": (6, 2), "norm": (5,)}
tree = array_trees.load_tree(sys.argv[1] + "/tree", {
    name: jax.ShapeDtypeStruct(
        shape, "float32", sharding=NamedSharding(mesh, parts.get(name, PartitionSpec()))
    )
    for name, shape in shapes.items()
})
gate = tree["blocks.gate"]
assert {shard.data.shape for shard in gate.addressable_shards} == {(3, 2, 5)}
np.testing.assert_array_equal(np.asarray(gate), np.load(sys.argv[1] + "/gate.npy"))
"""
