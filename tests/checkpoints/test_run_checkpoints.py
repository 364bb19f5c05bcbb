from __future__ import annotations

import errno
import functools
import logging
import math
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cd4lm_jax.checkpoints.array_trees import CheckpointError, DamagedError, load_tree, save_tree
from cd4lm_jax.checkpoints.run_checkpoints import RunCheckpoints
from tests.disk import full_beyond

TREE = {
    "a": {"w": np.arange(12.0, dtype=np.float32).reshape(3, 4)},
    "b": np.array([1, 2], np.int32),
}
Shape = jax.ShapeDtypeStruct


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: Shape(leaf.shape, leaf.dtype), tree)


def assert_equal(got: Any, want: Any) -> None:
    def check(ours: Any, theirs: Any) -> None:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))

    jax.tree.map(check, got, want)


def train_state(seed: int, width: int = 16) -> Any:
    params = {"w": jax.random.normal(jax.random.key(seed), (width, 8)), "b": jnp.ones(8)}
    return {"params": params, "opt": optax.adamw(1e-3).init(params), "step": jnp.int32(seed)}


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tree_round_trip_and_replacement(tmp_path: pathlib.Path) -> None:
    save_tree(tmp_path / "m", jax.tree.map(jnp.zeros_like, TREE))
    save_tree(tmp_path / "m", TREE)
    assert_equal(load_tree(tmp_path / "m", abstract(TREE)), jax.tree.map(jnp.asarray, TREE))
    assert names(tmp_path) == ["m"]


def test_tree_loads_in_the_dtype_asked_for(tmp_path: pathlib.Path) -> None:
    save_tree(tmp_path / "m", {"w": jnp.full((2,), 1 / 3)})
    got = load_tree(tmp_path / "m", {"w": Shape((2,), jnp.bfloat16)})
    assert_equal(got, {"w": jnp.full((2,), 1 / 3).astype(jnp.bfloat16)})


def test_relative_paths_work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tree("m", TREE)
    assert_equal(load_tree("m", abstract(TREE)), jax.tree.map(jnp.asarray, TREE))
    with RunCheckpoints("run") as run:
        run.save(1, TREE)
        assert_equal(run.restore(1, abstract(TREE)).state, jax.tree.map(jnp.asarray, TREE))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"a": {"w": Shape((3, 5), jnp.float32)}, "b": Shape((2,), jnp.int32)},
            r"'a/w' has shape \(3, 4\) there, expected \(3, 5\)",
        ),
        (
            {"a": {"w": Shape((3, 4), jnp.float32), "x": Shape((), jnp.int32)}},
            r"it has no 'a/x', expected one of shape \(\)",
        ),
        (
            {"a": {"w": Shape((3, 4), jnp.float32)}},
            r"it has 'b' of shape \(2,\), which is not expected",
        ),
    ],
)
def test_another_shape_is_named(tmp_path: pathlib.Path, expected: Any, message: str) -> None:
    save_tree(tmp_path / "m", TREE)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_tree(tmp_path / "m", expected)
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "m") in str(raised.value)


def test_missing_and_damaged_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*/m: no such folder"):
        load_tree(tmp_path / "m", abstract(TREE))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty is incomplete or damaged"):
        load_tree(tmp_path / "empty", abstract(TREE))
    save_tree(tmp_path / "m", {"w": np.random.default_rng(0).normal(size=(100, 100))})
    largest = max((tmp_path / "m").rglob("*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    for verify, message in ((False, "m is incomplete or damaged"), (True, "is damaged: its SHA-2")):
        with pytest.raises(CheckpointError, match=message) as raised:
            load_tree(tmp_path / "m", {"w": Shape((100, 100), jnp.float32)}, verify=verify)
        assert "\n" not in str(raised.value)


def test_full_disk_leaves_the_earlier_tree(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_tree(tmp_path / "m", TREE)
    with full_beyond(20_000), pytest.raises(OSError, match=r"/m'") as raised:
        save_tree(tmp_path / "m", {"w": np.random.default_rng(0).normal(size=(200, 200))})
    assert raised.value.errno == errno.EFBIG
    assert names(tmp_path) == ["m"]
    assert_equal(load_tree(tmp_path / "m", abstract(TREE)), jax.tree.map(jnp.asarray, TREE))
    assert "Traceback" not in caplog.text


def test_run_restores_state_data_position_and_metadata(tmp_path: pathlib.Path) -> None:
    state, metadata = train_state(3), {"config": {"steps": 5, "name": None}, "best": 0.5}
    with RunCheckpoints(tmp_path / "run") as run:
        run.save(3, state, data_state=b"\x00\xff", metadata=metadata)
        run.save(4, train_state(4), data_state={"next": 7, "nested": {"x": [1, None]}})
    with RunCheckpoints(tmp_path / "run") as run:
        assert run.steps() == [3, 4]
        assert run.latest() == 4
        third = run.restore(3, abstract(state))
        assert_equal(third.state, state)
        assert (third.data_state, third.metadata) == (b"\x00\xff", metadata)
        assert run.metadata(3) == metadata
        assert run.restore(4, state).data_state == {"next": 7, "nested": {"x": [1, None]}}


def test_donated_state_is_saved_as_it_was(tmp_path: pathlib.Path) -> None:
    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"w": state["w"] + 1}

    state = update({"w": jnp.zeros((1000, 1000))})
    with RunCheckpoints(tmp_path) as run:
        run.save(1, state)
        for _ in range(5):
            state = update(state)
        jax.block_until_ready(state)
        assert_equal(run.restore(1, abstract(state)).state, {"w": jnp.ones((1000, 1000))})


def test_latest_and_best_are_kept(tmp_path: pathlib.Path) -> None:
    with RunCheckpoints(tmp_path, keep_latest=2) as run:
        assert run.latest() is None
        assert run.best() is None
        for step, score in enumerate([0.1, 0.9, 0.2, math.nan, None, 0.3], start=1):
            run.save(step, TREE, score=score)
        assert run.steps() == [2, 5, 6]
        assert (run.latest(), run.best()) == (6, 2)
    with RunCheckpoints(tmp_path, keep_latest=1) as run:
        assert run.best() == 2
        run.save(7, TREE, score=0.9)
        assert run.best() == 7
        run.save(8, TREE)
        assert run.steps() == [7, 8]


def test_latest_alone_is_kept(tmp_path: pathlib.Path) -> None:
    with RunCheckpoints(tmp_path, keep_latest=1, keep_best=False) as run:
        for step, score in enumerate([0.9, 0.1], start=1):
            run.save(step, TREE, score=score)
        assert run.steps() == [2]
    with pytest.raises(ValueError, match="keep_latest=0"):
        RunCheckpoints(tmp_path, keep_latest=0)


def test_saving_a_step_again_leaves_it_alone(tmp_path: pathlib.Path) -> None:
    with RunCheckpoints(tmp_path) as run:
        run.save(1, TREE, metadata={"first": True})
        run.save(1, TREE, metadata={"first": False})
        assert run.metadata(1) == {"first": True}


def test_half_written_checkpoint_is_passed_over(tmp_path: pathlib.Path) -> None:
    with RunCheckpoints(tmp_path) as run:
        run.save(1, TREE)
    # What a killed run leaves: orbax renames this to "2" when everything is in it.
    half = tmp_path / "2.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state" / "_METADATA").write_text("{")
    with RunCheckpoints(tmp_path) as run:
        assert run.latest() == 1
        run.save(2, TREE)
        assert run.steps() == [1, 2]
        assert_equal(run.restore(2, abstract(TREE)).state, jax.tree.map(jnp.asarray, TREE))


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "state/_METADATA"])
def test_a_removal_that_was_cut_short_is_finished(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2):
            run.save(step, TREE)
    (tmp_path / "1" / file).unlink()
    with RunCheckpoints(tmp_path) as run:
        assert run.steps() == [2]
    assert not caplog.messages
    assert [path.name for path in tmp_path.iterdir()] == ["2"]
    # The newest is not removed for any other: it is damaged, and kept for people to look at.
    (tmp_path / "2" / file).unlink()
    with RunCheckpoints(tmp_path) as run:
        assert run.steps() == []
    assert "2 is damaged" in caplog.text
    assert (tmp_path / "damaged-2").is_dir()


def test_unknown_step_and_other_state_are_named(tmp_path: pathlib.Path) -> None:
    with RunCheckpoints(tmp_path) as run:
        run.save(1, train_state(1))
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 2 in .*; there: \[1\]"):
            run.restore(2, abstract(train_state(1)))
        with pytest.raises(CheckpointError, match=r"'opt/0/mu/w' has shape \(16, 8\) there"):
            run.restore(1, abstract(train_state(1, width=12)))


def test_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunCheckpoints(tmp_path, keep_latest=1) as run:
        run.save(1, TREE)
        run.wait()
        with full_beyond(20_000), pytest.raises(OSError, match=str(tmp_path)) as raised:
            run.save(2, train_state(0, width=1000))
            run.wait()
        assert raised.value.errno == errno.EFBIG
        assert names(tmp_path) == ["1"]
        assert "Traceback" not in caplog.text
        # There is room again: the run goes on.
        run.save(3, TREE)
        assert run.steps() == [3]
        assert names(tmp_path) == ["3"]
        assert_equal(run.restore(3, abstract(TREE)).state, jax.tree.map(jnp.asarray, TREE))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


# Orbax leaves futures and event loops behind where reading fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [flipped, halved])
def test_any_damaged_file_is_noticed_or_does_no_harm(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    state = {"w": jax.random.normal(jax.random.key(0), (100, 40)), "done": jnp.array([True])}
    with RunCheckpoints(tmp_path) as run:
        run.save(1, state)
        run.save(2, state, data_state=b"x", metadata={"best": 0.5}, score=1.0)
    noticed = 0
    whole = {path: path.read_bytes() for path in (tmp_path / "2").rglob("*") if path.is_file()}
    for path, data in whole.items():
        path.write_bytes(damage(data))
        caplog.clear()
        with RunCheckpoints(tmp_path) as run:
            try:
                if run.latest() == 2:
                    restored = run.restore(2, abstract(state))
                    assert_equal(restored.state, state)
                    assert (restored.data_state, restored.metadata) == (b"x", {"best": 0.5})
                    continue
            except DamagedError:
                run.set_aside(2)
            assert run.latest() == 1
            assert_equal(run.restore(1, abstract(state)).state, state)
        assert f"checkpoint {tmp_path / '2'} is damaged; it is kept as damaged-2" in caplog.text
        noticed += 1
        (tmp_path / "damaged-2").rename(tmp_path / "2")
        path.write_bytes(data)
    assert noticed >= 6  # the notes, the score, and most of what the array store wrote


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
        lambda file: file.write_text('{"score": 0.95}'),
        lambda file: file.write_text('{"loss": 1}'),
        lambda file: file.write_text("[]"),
    ],
    ids=["emptied", "gone", "another", "no score", "a list"],
)
def test_a_lost_score_makes_the_next_best_the_best(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, damage: Callable[[pathlib.Path], Any]
) -> None:
    """The best, not the latest: nothing else is to be exported under its score."""
    with RunCheckpoints(tmp_path) as run:
        for step, score in enumerate([0.9, 0.2, 0.3], start=1):
            run.save(step, TREE, metadata={"loss": 1 - score}, score=score)
    damage(tmp_path / "1" / "metrics" / "metrics")
    with RunCheckpoints(tmp_path) as run:
        assert (run.steps(), run.best()) == ([2, 3], 3)
        assert run.metadata(3) == {"loss": 0.7}
    assert "1 is damaged; it is kept as damaged-1 and another one is used" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_best_is_set_aside_for_the_next_best(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {"w": jax.random.normal(jax.random.key(0), (100, 40))}
    with RunCheckpoints(tmp_path) as run:
        for step, score in enumerate([0.9, 0.2, 0.3], start=1):
            run.save(step, state, score=score)
    largest = max((tmp_path / "1").rglob("*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(flipped(largest.read_bytes()))
    with RunCheckpoints(tmp_path) as run:
        assert run.best() == 1  # nobody has read it
        with pytest.raises(DamagedError):
            run.restore(1, abstract(state))
        run.set_aside(1)
        assert (run.best(), run.latest()) == (3, 3)
        assert_equal(run.restore(3, abstract(state)).state, state)


def test_what_is_no_checkpoint_is_left_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2):
            run.save(step, TREE, score=0.1 * step)
    strays = {"notes.txt": "mine", "backup/1": "x", "2 (copy)/state": "x", "3": "x", ".nfs01": "x"}
    strays |= {"damaged-3/old": "x", "9.orbax-checkpoint-tmp": "x", "ckpt_7/state/a": "x"}
    for name, text in strays.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    for copy in ("12", "01"):  # under another step's name, or no step's
        shutil.copytree(tmp_path / "2", tmp_path / copy)
    with RunCheckpoints(tmp_path) as run:
        assert (run.steps(), run.latest(), run.best()) == ([1, 2], 2, 2)
        run.save(3, TREE, score=0.3)
        assert run.steps() == [2, 3]
    message = (
        f"{tmp_path} has files that are no checkpoints (01, 2 (copy), backup and 2 more); they"
    )
    assert caplog.text.count(message) == 1
    assert "12 is damaged; it is kept as damaged-12" in caplog.text
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "damaged-3").read_text() == "x"  # the latest of that name is kept


def test_what_has_the_name_of_an_older_step_is_kept(tmp_path: pathlib.Path) -> None:
    """A file, a link and a folder of others, where a killed removal leaves parts of its own."""
    with RunCheckpoints(tmp_path) as run:
        run.save(9, TREE)
    (tmp_path / "1").write_text("mine")
    (tmp_path / "2").symlink_to("nowhere")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "notes.txt").write_text("mine")
    (tmp_path / "4" / "state").mkdir(parents=True)
    with RunCheckpoints(tmp_path) as run:
        assert run.steps() == [9]
    assert names(tmp_path) == ["9", "damaged-1", "damaged-2", "damaged-3"]
    assert (tmp_path / "damaged-3" / "notes.txt").read_text() == "mine"


def test_a_log_filter_lasts_no_longer_than_the_run(tmp_path: pathlib.Path) -> None:
    logger = logging.getLogger("absl")
    before = list(logger.filters)
    with RunCheckpoints(tmp_path) as run:
        run.save(1, TREE)
        assert len(logger.filters) == len(before) + 1
    save_tree(tmp_path / "m", TREE)
    load_tree(tmp_path / "m", abstract(TREE))
    assert logger.filters == before


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from cd4lm_jax.checkpoints.run_checkpoints import RunCheckpoints
from cd4lm_jax.checkpoints.array_trees import load_tree, save_tree
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.sharding import shardings

def on(config):
    return shardings(make_mesh(config), {"w": ("embed", "mlp"), "b": ("norm",)})

def arrays():
    return {"w": jnp.arange(16.0 * 32).reshape(16, 32), "b": jnp.arange(8)}

def restored(where, read):
    shapes = jax.eval_shape(arrays)
    target = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, where)
    got = read(target)
    for name, want in arrays().items():
        assert got[name].sharding.is_equivalent_to(where[name], want.ndim), got[name].sharding
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(want))

first = on(MeshConfig(fsdp=4, tensor=2))
state = jax.jit(arrays, out_shardings=first)()
with RunCheckpoints(sys.argv[1] + "/run") as run:
    run.save(5, state)
    for config in (MeshConfig(fsdp=4, tensor=2), MeshConfig(data=2, tensor=4), MeshConfig()):
        restored(on(config), lambda target: run.restore(5, target).state)
save_tree(sys.argv[1] + "/model", state)
restored(on(MeshConfig(fsdp=2)), lambda target: load_tree(sys.argv[1] + "/model", target))
print("restored")
"""


@pytest.mark.slow
def test_restore_onto_other_shardings_and_fewer_devices(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python("-c", SHARDED, str(tmp_path), devices=8)
    assert done.stdout == "restored\n", done.stderr
    # Saved on eight devices, read where there is one.
    want = {"w": jnp.arange(16.0 * 32).reshape(16, 32), "b": jnp.arange(8)}
    assert_equal(load_tree(tmp_path / "model", abstract(want)), want)
