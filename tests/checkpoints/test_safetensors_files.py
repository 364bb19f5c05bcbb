from __future__ import annotations

import pathlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cd4lm_jax.checkpoints.safetensors_files import DTYPES, TensorFileError, read_header, write_file

RNG = np.random.default_rng(0)


def tensors(dtype: str) -> dict[str, np.ndarray]:
    shapes = {"b.weight": (5, 3), "a.bias": (7,), "cube": (2, 3, 4)}
    return {name: RNG.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [str(dtype) for dtype in DTYPES.values()])
def test_the_library_reads_what_is_written_and_the_other_way_about(
    tmp_path: pathlib.Path, dtype: str
) -> None:
    expected = tensors(dtype)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    chunks = [part for tensor in expected.values() for part in (tensor[:1], tensor[1:])]
    write_file(tmp_path / "ours", shapes, np.dtype(dtype), chunks)
    save_file(expected, tmp_path / "theirs", metadata={"format": "pt"})
    read = load_file(tmp_path / "ours")
    for file in ("ours", "theirs"):
        header = read_header(tmp_path / file)
        assert header.keys() == expected.keys() == read.keys()
        for name, tensor in expected.items():
            assert header[name].dtype == read[name].dtype == np.dtype(dtype)
            assert header[name].shape == tensor.shape
            np.testing.assert_array_equal(header[name].rows(1, 2), tensor[1:2])
            np.testing.assert_array_equal(header[name].rows(0, len(tensor)), read[name])


def test_a_type_of_others_is_named_not_refused(tmp_path: pathlib.Path) -> None:
    save_file({"ids": np.arange(3)}, tmp_path / "file")
    assert read_header(tmp_path / "file")["ids"].kind == "I64"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is no safetensors file, or cut off"),
        (lambda data: data[:20], "is no safetensors file, or cut off"),
        (lambda data: data[:-1], r"has \d+ bytes, by its header \d+; fetch it again"),
        (lambda data: data + b"!", r"has \d+ bytes, by its header \d+; fetch it again"),
        (lambda data: data.replace(b'"shape"', b'"shade"'), "its header is damaged"),
        (lambda data: data.replace(b"{", b"[", 1), "its header is damaged"),
        (lambda data: data.replace(b"[5,3]", b"[5,4]"), "'b.weight' takes 30 bytes, by its shape"),
    ],
)
def test_says_what_is_wrong_with_a_file(
    tmp_path: pathlib.Path, damage: object, message: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(tensors("float16"), file)
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(TensorFileError, match=message) as raised:
        read_header(file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bfloat16_is_the_dtype_of_jax() -> None:
    assert DTYPES["BF16"] == ml_dtypes.bfloat16
