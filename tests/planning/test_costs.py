from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from cd4lm_jax.planning import costs

SIDE = 16
PRODUCT = 2.0 * SIDE**3


def cost_of(function, *arguments, trips=(1.0,)):  # type: ignore[no-untyped-def]
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return costs.cost(text, trips=trips)


@pytest.fixture(scope="module")
def square() -> jax.Array:
    return jnp.ones((SIDE, SIDE))


def test_a_loop_counts_as_often_as_it_runs(square: jax.Array) -> None:
    def layers(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ x), None), x, length=5)[0]

    assert cost_of(layers, square).flops == 5 * PRODUCT


def test_the_caller_says_how_often_what_depends_on_data_runs(square: jax.Array) -> None:
    def outer(x: jax.Array, n: jax.Array) -> jax.Array:
        def inner(_: jax.Array, y: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, n, lambda _, z: jnp.tanh(z @ x), jnp.tanh(y @ x))

        return jax.lax.fori_loop(0, n + 1, inner, x)

    for trips, products in (((1.0,), 2), ((3.0,), 12), ((2.0, 0.0), 2), ((2.0, 5.0), 12)):
        assert cost_of(outer, square, jnp.int32(4), trips=trips).flops == products * PRODUCT

    text = jax.jit(lambda x, n: outer(x @ x, n)).lower(square, jnp.int32(4)).compile().as_text()
    assert text is not None
    assert costs.cost(text, trips=(3.0, 2.0)).flops == 10 * PRODUCT
    assert costs.pass_cost(text, trips=(2.0,)).flops == 3 * PRODUCT


def test_of_branches_the_costliest_counts(square: jax.Array) -> None:
    def choose(x: jax.Array, which: jax.Array) -> jax.Array:
        return jax.lax.switch(which, [lambda y: y, lambda y: y @ y @ y, lambda y: y @ y], x)

    assert cost_of(choose, square, jnp.int32(1)).flops == 2 * PRODUCT


# As the TPU compiler writes: products of 3 matrices [4,5] x [5,6] as one convolution over the
# batch as a dilated space, in a loop from 2 by 2 to 8; a gather that is split over two kernels.
TPU = """\
%piece.1 (p.1: bf16[8,16]) -> bf16[32,16] {
  %p.1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[32,16]{1,0} all-gather(%p.1), channel_id=7, replica_groups=[2,4]<=[8]
}

%piece.2 (p.2: bf16[8,16]) -> bf16[32,16] {
  %p.2 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[32,16]{1,0} all-gather(%p.2), channel_id=7, replica_groups=[2,4]<=[8]
}

%kernel (l: bf16[3,4,5], r: bf16[3,5,6]) -> bf16[3,4,6] {
  %l = bf16[3,4,5]{2,1,0:T(8,128)(2,1)} parameter(0)
  %r = bf16[3,5,6]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[3,4,6]{2,1,0} convolution(%l, %r), window={size=3 stride=2 lhs_dilate=3}, \
dim_labels=0bf_0io->0bf
}

%body (t: (bf16[3,4,5], bf16[3,5,6], u32[])) -> (bf16[3,4,5], bf16[3,5,6], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %t = (bf16[3,4,5]{2,1,0}, bf16[3,5,6]{2,1,0}, u32[]{:T(128)}) parameter(0)
  %a = bf16[3,4,5]{2,1,0} get-tuple-element(%t), index=0
  %b = bf16[3,5,6]{2,1,0} get-tuple-element(%t), index=1
  %i = u32[]{:T(128)} get-tuple-element(%t), index=2
  %next = u32[]{:T(128)} add(%i, %two)
  %made = bf16[3,4,6]{2,1,0} fusion(%a, %b), kind=kOutput, calls=%kernel, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %out = (bf16[3,4,5]{2,1,0}, bf16[3,5,6]{2,1,0}, u32[]{:T(128)}) tuple(%a, %b, %next)
}

%condition (t.1: (bf16[3,4,5], bf16[3,5,6], u32[])) -> pred[] {
  %last = u32[]{:T(128)} constant(8)
  %t.1 = (bf16[3,4,5]{2,1,0}, bf16[3,5,6]{2,1,0}, u32[]{:T(128)}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%t.1), index=2
  ROOT %less = pred[]{:T(512)} compare(%i.1, %last), direction=LT
}

ENTRY %main (x: bf16[3,4,5], y: bf16[3,5,6], z: bf16[8,16]) -> bf16[32,16] {
  %first = u32[]{:T(128)} constant(2)
  %x = bf16[3,4,5]{2,1,0} parameter(0)
  %y = bf16[3,5,6]{2,1,0} parameter(1)
  %z = bf16[8,16]{1,0} parameter(2)
  %copied = u32[]{:T(128)} copy(%first)
  %start = (bf16[3,4,5]{2,1,0}, bf16[3,5,6]{2,1,0}, u32[]{:T(128)}) tuple(%x, %y, %copied)
  %loop = (bf16[3,4,5]{2,1,0}, bf16[3,5,6]{2,1,0}, u32[]{:T(128)}) while(%start), \
condition=%condition, body=%body
  %one = bf16[32,16]{1,0} fusion(%z), kind=kLoop, calls=%piece.1
  ROOT %two.1 = bf16[32,16]{1,0} fusion(%z), kind=kLoop, calls=%piece.2
}
"""


def test_reads_what_the_tpu_compiler_writes() -> None:
    cost = costs.cost(TPU)
    trips = 3  # 2, 4, 6
    assert cost.flops == trips * 3 * 2 * 4 * 5 * 6
    assert cost.cycles == trips * 1000
    # Each of 4 devices passes on its own [8, 16] and two others'; both pieces are one gather.
    assert cost.sent == {"all-gather": 3 * 8 * 16 * 2}
    assert [each.shapes for each in cost.collectives] == [((8, 16), (32, 16))]


def test_knows_the_three_ways_to_write_groups() -> None:
    assert costs.group_size("{{0,1,2},{3,4,5}}, use_global_device_ids=true") == 3
    assert costs.group_size("[2,4]<=[8]") == 4
    assert costs.group_size("mesh['a'=2,'b'=4] {'b'}, x={1}") == 4
    with pytest.raises(ValueError, match="unknown replica groups"):
        costs.group_size("?")
