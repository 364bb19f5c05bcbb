from __future__ import annotations

import dataclasses

import jax
import pytest

import cd4lm_jax as cd
from cd4lm_jax.settings.config import config_from_json, config_to_json
from tests.tiny import TINY


def test_a_placement_has_a_json_form_and_a_label() -> None:
    placement = cd.Placement(dtype="bfloat16", mesh=cd.MeshConfig(data=4, tensor=2))
    assert config_from_json(cd.Placement, config_to_json(placement)) == placement
    assert placement.label == "bfloat16 data=4 tensor=2"
    assert cd.Placement().label == ""
    with pytest.raises(ValueError, match=r"dtype='bf16' is no dtype of a model; did you mean"):
        cd.Placement(dtype="bf16")


def test_weights_stay_as_they_are_stored_but_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert cd.Placement().resolved_dtype("bfloat16") == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert cd.Placement().resolved_dtype("bfloat16") == "bfloat16"
    assert cd.Placement(dtype="float32").resolved_dtype("bfloat16") == "float32"


def test_deep_models_scan_their_layers_unless_asked_otherwise() -> None:
    deep = dataclasses.replace(TINY, num_layers=9)
    assert not cd.Placement().execution(TINY, "float32").scan_layers
    assert cd.Placement().execution(deep, "float32").scan_layers
    assert not cd.Placement(scan_layers=False).execution(deep, "float32").scan_layers
    assert not cd.Placement().execution(deep, "float32", platform="tpu").scan_layers
    assert cd.Placement(scan_layers=True).execution(deep, "float32", platform="tpu").scan_layers


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"tensor": 4}, "mesh.tensor=4 does not divide the model's num_kv_heads=2"),
        ({"fsdp": 3}, "mesh.fsdp=3 does not divide the model's embed_dim=32"),
        ({"data": 3, "tensor": -1}, "8 devices cannot be divided by 3"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused(
    mesh: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cd.Placement(mesh=cd.MeshConfig(**mesh)).check(TINY, 8)
    cd.Placement(mesh=cd.MeshConfig(data=-1, tensor=2)).check(TINY, 8)


def test_a_single_device_needs_no_mesh() -> None:
    assert cd.Placement().make_mesh(TINY) is None
