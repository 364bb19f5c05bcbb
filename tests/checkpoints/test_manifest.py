from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from cd4lm_jax.checkpoints import loading, manifest
from cd4lm_jax.checkpoints.array_trees import DamagedError
from cd4lm_jax.checkpoints.conversion import convert
from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.models.fingerprint import fingerprint
from tests.checkpoints import published
from tests.tiny import TINY, tiny_model

RNG = np.random.default_rng(0)


def flip(file: pathlib.Path) -> None:
    """Changes one bit, drawn at random."""
    data = bytearray(file.read_bytes())
    data[RNG.integers(len(data))] ^= 1 << int(RNG.integers(8))
    file.write_bytes(data)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A folder as training exports it, and conversions of one to each layout."""
    path = tmp_path_factory.mktemp("folders")
    write_model(path / "exported", tiny_model(TINY))
    convert(path / "exported", path / "published", shard_bytes=20_000)
    convert(path / "published", path / "converted")
    return {name: path / name for name in ("exported", "published", "converted")}


@pytest.mark.parametrize("name", ["exported", "converted", "published"])
def test_every_flipped_bit_of_the_weights_is_found(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, name: str
) -> None:
    folder = tmp_path / name
    shutil.copytree(folders[name], folder)
    pattern = "*.safetensors" if name == "published" else "params/**/*"
    whole = sorted(file for file in folder.glob(pattern) if file.is_file())
    whole = [file for file in whole if file.stat().st_size]
    loading.load_model(folder)
    weights = np.array([file.stat().st_size for file in whole])
    # Most by size, where most flips happen, and each small file once.
    chosen = [*whole, *RNG.choice(len(whole), 40, p=weights / weights.sum())]
    found = 0
    for each in chosen:
        file = each if isinstance(each, pathlib.Path) else whole[int(each)]
        data = file.read_bytes()
        flip(file)
        with pytest.raises(ValueError, match=r"\S") as raised:
            loading.load_model(folder)
        assert "\n" not in str(raised.value)
        file.write_bytes(data)
        found += 1
    assert found == len(chosen) >= 40
    loading.load_model(folder)


def test_random_bytes_are_an_error_in_one_line(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["exported"], folder)
    largest = max((folder / "params").rglob("*"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[500:1500] = RNG.bytes(1000)
    largest.write_bytes(data)
    message = f"{largest} is damaged: its SHA-256 is not the one in checksums.json; copy it again"
    with pytest.raises(DamagedError) as raised:
        loading.load_model(folder)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    with pytest.raises(DamagedError):  # a conversion would pass the damage on
        convert(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"algorithm": "md5", "files": {}}', '{"files": 3}'])
def test_checksums_that_cannot_be_read_are_named(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, text: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["exported"], folder)
    (folder / "params" / manifest.FILE).write_text(text)
    with pytest.raises(DamagedError, match=r"checksums\.json is damaged; copy the folder again"):
        loading.load_model(folder)


def test_a_missing_file_is_named(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["exported"], folder)
    (folder / "params" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(DamagedError, match=r"_CHECKPOINT_METADATA is missing, checksums.json list"):
        loading.load_model(folder)


def test_verification_can_be_left_out_and_older_folders_have_none(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    expected = fingerprint(loading.load_model(folders["exported"]))
    folder = tmp_path / "model"
    shutil.copytree(folders["exported"], folder)
    listed = folder / "params" / manifest.FILE
    data = json.loads(listed.read_text())
    data["files"] = dict.fromkeys(data["files"], "0" * 64)
    listed.write_text(json.dumps(data))
    with pytest.raises(DamagedError):
        loading.load_model(folder)
    assert fingerprint(loading.load_model(folder, verify=False)) == expected
    listed.unlink()
    assert fingerprint(loading.load_model(folder)) == expected


def test_the_bundled_teacher_has_checksums() -> None:
    repository = pathlib.Path(__file__).parents[2]
    params = repository / "experiments" / "checkpoints" / "gsm_mini_teacher" / "params"
    assert (params / manifest.FILE).is_file()
    manifest.check(params)


def test_the_hubs_cache_names_files_by_their_sum(tmp_path: pathlib.Path) -> None:
    """Its snapshots are links to files that have their SHA-256 as names."""
    snapshot, blobs = tmp_path / "snapshots" / "0a1b", tmp_path / "blobs"
    published.write(snapshot, "llada", shards=2)
    blobs.mkdir()
    for name, digest in manifest.digests(
        snapshot, [file.name for file in snapshot.glob("*.safetensors")]
    ).items():
        (snapshot / name).rename(blobs / digest)
        (snapshot / name).symlink_to(blobs / digest)
    loading.load_model(snapshot)
    blob = max(blobs.iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-5] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is not the one in the hub's cac"):
        loading.load_model(snapshot)
    loading.load_model(snapshot, verify=False)
