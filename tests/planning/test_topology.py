from __future__ import annotations

import importlib.util

import pytest

from cd4lm_jax.planning.topology import GIB, Topology, TopologyError


def test_a_slice_is_a_kind_and_its_shape() -> None:
    slice_ = Topology.tpu("v5p:2x2x4")
    assert (slice_.count, slice_.chip.name, str(slice_)) == (16, "v5p", "v5p:2x2x4")
    assert 95 * GIB < slice_.chip.memory < 96 * GIB
    assert str(Topology.gpu(8, "h100")) == "8 x h100"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Topology.tpu("v5f:4x4"), "no TPU 'v5f' in 'v5f:4x4'; did you mean 'v5"),
        (lambda: Topology.tpu("v5e"), "has no shape; give chips along each axis, such as v5e:2x4"),
        (lambda: Topology.tpu("v5e:16"), "has no shape"),
        (lambda: Topology.gpu(1, "h10"), "no GPU 'h10'; did you mean 'h100'"),
        (lambda: Topology.gpu(0, "h100"), "0 GPUs; give 1 or more"),
        (lambda: Topology.gpu(4096, "h100").devices(), "device_count=4096"),
    ],
)
def test_what_does_not_exist_is_an_error_that_helps(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TopologyError) as caught:
        make()
    assert said in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed here"
)
def test_without_libtpu_says_what_to_install() -> None:
    with pytest.raises(TopologyError, match=r"needs libtpu.*pip install '\.\[tpu\]'"):
        Topology.tpu("v5e:2x2").devices()
