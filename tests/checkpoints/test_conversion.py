from __future__ import annotations

import errno
import json
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cd4lm_jax.checkpoints import (
    array_trees,
    huggingface,
    loading,
    model_folder,
    published_tensors,
    weight_files,
)
from cd4lm_jax.checkpoints.array_trees import CheckpointError
from cd4lm_jax.checkpoints.chunks import TreeWriter
from cd4lm_jax.checkpoints.conversion import ConversionError, convert
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.models.transformer import Execution
from tests import disk
from tests.checkpoints import published
from tests.tiny import TINY, parameters, tiny_model

RunPython = Callable[..., subprocess.CompletedProcess[str]]

FILES = {
    "tokenizer.json": "{}",
    "vocab.json": '{"a": 0}',
    "merges.txt": "a b",
    "generation_config.json": '{"eos_token_id": 38}',
    "modeling_llada.py": "print()",
    "configuration_llada.py": "print()",
    "modeling_dream.py": "print()",
    "configuration_dream.py": "print()",
    "generation_utils.py": "print()",  # imported by the others, named nowhere
    "tokenizer.model": "",
    "chat_template.jinja": "{{ messages }}",
    "LICENSE": "MIT",
    "README.md": "# A model",
    "assets/logo.svg": "<svg/>",
    "code/layers.py": "print()",
}
# Weights in other formats, and what tools leave behind.
LEFT_OUT = ("pytorch_model.bin.index.json", "flax_model.msgpack", ".gitattributes", "onnx/m.onnx")


@pytest.mark.parametrize("kind", ["llada", "Dream"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_again_is_bit_exact(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    monkeypatch.setattr(published_tensors, "CHUNK_ELEMENTS", 300)  # several chunks a tensor, uneven
    first, middle, last = (tmp_path / name for name in ("first", "middle", "last"))
    tensors = published.write(first, kind, dtype=dtype, shards=4)
    for name in (*FILES, *LEFT_OUT):
        (first / name).parent.mkdir(exist_ok=True)
        (first / name).write_text(FILES.get(name, "weights"))
    assert convert(first, middle) == published.CONFIGS[kind]
    assert (loading.layout(middle), loading.layout(last)) == ("own", "own")
    assert model_folder.stored_dtype(middle) == dtype
    convert(middle, last)
    assert loading.layout(last) == "Hugging Face"
    published.assert_same(published.read(last), tensors)
    described, before = (json.loads((f / "config.json").read_text()) for f in (last, first))
    assert described == before
    for copy in (middle, last):
        assert {name: (copy / name).read_text() for name in FILES} == FILES
        assert not any((copy / name).exists() for name in LEFT_OUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "last", "middle"]
    assert not {".lock", "conversion.json"} & {path.name for path in middle.iterdir()}


def test_the_published_checkpoint_goes_there_and_back(
    golden: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, middle, last = golden / "llada_tiny", tmp_path / "middle", tmp_path / "last"
    convert(source, middle)
    convert(middle, last)
    tensors = published.read(source)
    published.assert_same(published.read(last), tensors)
    before = json.loads((source / "config.json").read_text())
    after = json.loads((last / "config.json").read_text())
    assert before.keys() - after.keys() == {"transformers_version"}
    differ = {key for key, value in before.items() if after.get(key, value) != value}
    assert differ <= {"bias_for_layer_norm"}  # None there, False in LLaDA-8B's own
    index = json.loads((last / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())


def test_code_that_the_source_lacks_is_not_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers fails on a folder whose `auto_map` names files that are not there."""
    model_folder.write_model(tmp_path / "own", tiny_model(TINY))
    convert(tmp_path / "own", tmp_path / "without")
    assert "auto_map" not in json.loads((tmp_path / "without" / "config.json").read_text())
    assert "has no modelling code (configuration_llada.py, modeling_llada.py)" in caplog.text
    for name in ("configuration_llada.py", "modeling_llada.py"):
        (tmp_path / "own" / name).write_text("print()")
    convert(tmp_path / "own", tmp_path / "with")
    described = json.loads((tmp_path / "with" / "config.json").read_text())
    assert described["auto_map"]["AutoConfig"] == "configuration_llada.LLaDAConfig"


@pytest.mark.parametrize("dtype", ["float8", "int8", "f4", "bf16"])
def test_a_dtype_that_no_model_has_is_refused(tmp_path: pathlib.Path, dtype: str) -> None:
    model_folder.write_model(tmp_path / "own", tiny_model(TINY))
    message = f"dtype='{dtype}' is no dtype of a model; "
    for attempt in (
        lambda: convert(tmp_path / "own", tmp_path / "new", dtype=dtype),
        lambda: loading.load_model(tmp_path / "own", dtype=dtype),
        lambda: loading.load_model(published_folder(tmp_path), dtype=dtype),
        lambda: Execution(dtype=dtype),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert not (tmp_path / "new").exists()


def published_folder(path: pathlib.Path) -> pathlib.Path:
    published.write(path / "published", "llada")
    return path / "published"


def test_shards_hold_no_more_than_asked_and_the_index_finds_all(tmp_path: pathlib.Path) -> None:
    model = tiny_model(TINY)
    model_folder.write_model(tmp_path / "own", model)
    convert(tmp_path / "own", tmp_path / "theirs", shard_bytes=10_000)
    shards = sorted((tmp_path / "theirs").glob("*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    placed = json.loads((tmp_path / "theirs" / weight_files.INDEX_FILE).read_text())["weight_map"]
    for shard in shards:
        tensors = load_file(shard)
        assert tensors.keys() == {name for name, file in placed.items() if file == shard.name}
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 10_000
    loaded = huggingface.read_model(tmp_path / "theirs")
    assert loaded.config == TINY  # the end tokens, which LLaDA's config has no field for, too
    for name, leaf in parameters(model).items():
        np.testing.assert_array_equal(parameters(loaded)[name], leaf, err_msg=name)
    written = json.loads((tmp_path / "theirs" / "generation_config.json").read_text())
    assert written["eos_token_id"] == TINY.eos_id


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_types_that_differ_are_stored_as_asked(tmp_path: pathlib.Path, dtype: str | None) -> None:
    tensors = published.write(tmp_path / "first", "llada", dtype="bfloat16")
    name = "model.transformer.ln_f.weight"
    tensors[name] = tensors[name].astype(np.float32) * 1.001
    save_file(tensors, tmp_path / "first" / "model-00001-of-00001.safetensors")
    if dtype is None:
        message = f"{name} is of type F32, .* of BF16; give the dtype"
        with pytest.raises(HuggingFaceError, match=message):
            convert(tmp_path / "first", tmp_path / "new")
        assert not (tmp_path / "new.unfinished").exists()
    else:
        convert(tmp_path / "first", tmp_path / "new", dtype=dtype)
        leaves = parameters(model_folder.read_model(tmp_path / "new"))
        np.testing.assert_array_equal(leaves["norm"], tensors[name])


def test_everything_is_checked_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    """In the last of many shards, or in what training saved."""
    source = tmp_path / "source"
    published.write(source, "llada", shards=8)
    shard = source / "model-00008-of-00008.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"00008-of-00008.safetensors has .* bytes, by its header"):
        convert(source, tmp_path / "new")
    own = tmp_path / "own"
    model_folder.write_model(own, tiny_model(TINY))
    described = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(described | {"mlp_dim": 50}))
    with pytest.raises(CheckpointError, match=r"'blocks.*' has shape .* there, expected"):
        convert(own, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "source"]


def test_types_that_no_checkpoint_has_are_refused(tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own"
    model_folder.write_model(own, tiny_model(TINY))
    leaves = {name: leaf.astype("f8") for name, leaf in parameters(tiny_model(TINY)).items()}
    array_trees.save_tree(own / "params", leaves)
    with pytest.raises(ConversionError, match="parameters are float64; expected one of F32, BF16"):
        convert(own, tmp_path / "new")
    convert(own, tmp_path / "new", dtype="float32")
    assert huggingface.read_model(tmp_path / "new").config == TINY


def test_keeps_off_a_folder_in_use(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(ConversionError, match="target is not empty; give a folder that is, or "):
        convert(tmp_path, target)
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        convert(tmp_path, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


def state(unfinished: pathlib.Path) -> dict[str, tuple[int, int]]:
    """The files that are complete, and when they were written."""
    return {
        str(file.relative_to(unfinished)): (file.stat().st_ino, file.stat().st_mtime_ns)
        for pattern in ("params/state/*/c/**/*", "*.safetensors")
        for file in unfinished.glob(pattern)
        if file.is_file() and not file.name.startswith(".tmp-") and "__lock" not in file.name
    }


# Converts, and is killed when a number of chunks were read.
_KILLED = """
import os, signal, sys
from cd4lm_jax.checkpoints import conversion, published_tensors
from cd4lm_jax.checkpoints.published_tensors import Tensor
published_tensors.CHUNK_ELEMENTS, turned, left = 300, Tensor.turned, int(sys.argv[3])
def counted(self, chunk, dtype):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return turned(self, chunk, dtype)
Tensor.turned = counted
conversion.convert(sys.argv[1], sys.argv[2], shard_bytes=8_000)
"""


@pytest.mark.slow
def test_a_killed_conversion_goes_on_and_repeats_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, run_python: RunPython
) -> None:
    """SIGKILL in the middle of either direction, then the same call."""
    monkeypatch.setattr(published_tensors, "CHUNK_ELEMENTS", 300)
    source, whole = tmp_path / "first", tmp_path / "whole"
    tensors = published.write(source, "llada", shards=16)
    convert(source, whole)
    for origin, target in ((source, tmp_path / "own"), (whole, tmp_path / "theirs")):
        killed = run_python("-c", _KILLED, str(origin), str(target), "70")
        assert killed.returncode == -9, killed.stderr
        assert not target.exists()
        unfinished = target.with_name(f"{target.name}.unfinished")
        before = state(unfinished)
        with pytest.raises(ConversionError, match="was begun from another source or with other"):
            convert(origin, target, dtype="bfloat16")
        convert(origin, target, shard_bytes=8_000)
        after = state(target)
        assert len(before) > 3
        assert before.items() < after.items()
        assert not unfinished.exists()
        assert not [*target.rglob(".tmp-*"), *target.rglob("*__lock*")]
    for name, leaf in parameters(model_folder.read_model(whole)).items():
        found = parameters(model_folder.read_model(tmp_path / "own"))[name]
        np.testing.assert_array_equal(found, leaf, err_msg=name)
    published.assert_same(published.read(tmp_path / "theirs"), tensors)


def test_another_source_is_not_mixed_in(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    published.write(source, "llada", shards=2)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as patched:
        patched.setattr(TreeWriter, "close", fail)
        with pytest.raises(OSError, match="broken"):
            convert(source, target)
    shard = source / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes())  # another file, if of the same size
    with pytest.raises(ConversionError, match=r"target\.unfinished was begun from another source"):
        convert(source, target)
    (tmp_path / "target.unfinished" / "conversion.json").unlink()
    with pytest.raises(ConversionError, match=r"target\.unfinished was begun from another source"):
        convert(source, target)
    shutil.rmtree(tmp_path / "target.unfinished")
    convert(source, target)


@pytest.mark.parametrize("direction", ["to ours", "to theirs"])
def test_a_full_disk_leaves_no_target_and_can_be_mended(
    tmp_path: pathlib.Path, direction: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    tensors = published.write(source, "llada")
    if direction == "to theirs":
        convert(source, tmp_path / "own")
        source = tmp_path / "own"
    # What says what the conversion is fits, and many a chunk, but no table and no whole file.
    with disk.full_beyond(4_500), pytest.raises(OSError, match="too large") as raised:
        convert(source, target)
    assert "\n" not in str(raised.value)
    assert not target.exists()
    convert(source, target)
    if direction == "to theirs":
        published.assert_same(published.read(target), tensors)
    else:
        expected = parameters(huggingface.read_model(source))
        for name, leaf in parameters(model_folder.read_model(target)).items():
            np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: pathlib.Path, run_python: RunPython) -> None:
    """128 MiB there and back, in chunks of 4 MiB."""
    done = run_python("-c", _MEASURED, str(tmp_path))
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown["MiB"] < 64, grown


_MEASURED = """
import dataclasses, json, pathlib, re, sys
import numpy as np
from cd4lm_jax.checkpoints import conversion, published_tensors
from cd4lm_jax.checkpoints.families import LLADA
from cd4lm_jax.checkpoints.safetensors_files import write_file
from tests.tiny import TINY

def source(folder, config):
    found = published_tensors.all_tensors(LLADA, config)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLADA.describe(config, "float32")))
    shapes = {tensor.name: tensor.shape for tensor in found}
    ones = (
        np.ones((rows.stop - rows.start, *tensor.shape[1:]), np.float32)
        for tensor in found
        for rows in tensor.chunks()
    )
    write_file(folder / "model.safetensors", shapes, np.dtype("float32"), ones)
    return folder

def peak():
    # Not getrusage: its maximum counts the process that started this one.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) / 1024

def there_and_back(name, config):
    folder = pathlib.Path(sys.argv[1])
    conversion.convert(source(folder / name, config), folder / f"{name}1")
    conversion.convert(folder / f"{name}1", folder / f"{name}2")

published_tensors.CHUNK_ELEMENTS = 1 << 20
there_and_back("small", TINY)
before = peak()
there_and_back("large", dataclasses.replace(
    TINY, vocab_size=1 << 14, embed_dim=512, num_heads=64, num_kv_heads=64, mlp_dim=2048,
    num_layers=4,
))
print(json.dumps({"MiB": peak() - before}))
"""
