"""Plans of a small model: for virtual devices, and where libtpu is, for a TPU slice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cd4lm_jax.planning.costs import Collective, Cost
from cd4lm_jax.planning.plan import Plan, _needed
from cd4lm_jax.planning.topology import GIB, Topology
from cd4lm_jax.planning.training import ranked
from cd4lm_jax.runtime.mesh import MeshConfig
from tests.planning.on_chips import CONFIG, DECODES, MODEL

pytestmark = pytest.mark.slow

TOKENS = CONFIG.data.batch_size * CONFIG.data.max_length


@pytest.fixture(scope="module")
def plans(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    done = run_python("-m", "tests.planning.on_chips", "gpus", devices=4)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def products(tokens: int) -> float:
    """FLOPs of one forward pass through the blocks, all chips, without the scores."""
    blocks = MODEL.num_parameters - 2 * MODEL.vocab_size * MODEL.embed_dim
    return 2.0 * tokens * blocks


def test_bytes_of_a_full_fine_tune_are_those_of_its_arrays(plans: dict[str, Any]) -> None:
    held, vectors = plans["full"]["bytes"], (2 * MODEL.num_layers + 1) * MODEL.embed_dim
    split = (MODEL.num_parameters - vectors) / 4 + vectors  # norms are on every chip
    assert held["parameters"] == held["gradients"] == 4 * split
    assert held["teacher"] == 2 * split
    assert held["optimizer"] == pytest.approx(8 * split, abs=100)  # and counters
    assert plans["full"]["temporaries_by"] == "the CPU's compiler"
    assert plans["full"]["fits"]


def test_flops_count_every_layer_of_student_teacher_and_remat(plans: dict[str, Any]) -> None:
    # Student forward, again in the backward pass, and twice that for gradients; the teacher once.
    least = 5 * products(TOKENS) / 4
    assert least < plans["full"]["flops_per_step"] < 1.6 * least


def test_lora_holds_the_weights_of_both_models_once(plans: dict[str, Any]) -> None:
    held = plans["lora"]["bytes"]
    assert held["teacher"] == plans["full"]["bytes"]["teacher"]
    assert held["parameters"] + held["optimizer"] < 0.25 * plans["full"]["bytes"]["parameters"]
    # What the compiler reserves besides is less than a second copy would be.
    assert held["temporaries"] < plans["full"]["bytes"]["temporaries"] + held["teacher"]


@pytest.mark.parametrize("name", DECODES)
def test_a_pass_moves_nothing_of_vocabulary_size(name: str, plans: dict[str, Any]) -> None:
    assert plans[name]["collectives"]["all-reduce"] >= 2 * MODEL.num_layers  # it does talk
    assert plans[name]["vocabulary"] == 0
    # The same search finds what it looks for where the vocabulary is ranked.
    assert plans["sorted"] > 0


def test_within_a_block_a_cache_saves_work(plans: dict[str, Any]) -> None:
    assert plans["dual"]["flops_per_step"] < 0.5 * plans["none"]["flops_per_step"]
    assert "seconds_per_refresh_estimate" in plans["dual"]
    assert "seconds_per_refresh_estimate" not in plans["none"]


def test_a_block_may_begin_in_the_prompt(plans: dict[str, Any]) -> None:
    assert plans["blocks"]["fits"]
    # The exact cache leaves a pass the work of a block, as the dual one does.
    assert plans["blocks"]["flops_per_step"] < 1.2 * plans["dual"]["flops_per_step"]


def test_a_mesh_or_a_batch_that_does_not_fit_is_an_error_that_helps(plans: dict[str, Any]) -> None:
    assert "uses 2 of the 4 chips of 4 x h100; give sizes" in plans["wrong mesh"]
    assert "batch_size 7 cannot be split over the 2 parts" in plans["wrong batch"]


def test_candidates_are_meshes_rows_and_policies(plans: dict[str, Any]) -> None:
    found = plans["candidates"]
    assert len({tuple(each) for each in found}) == len(found)
    meshes = {each[0] for each in found}
    assert {"data=1 x fsdp=4 x tensor=1", "data=2 x fsdp=1 x tensor=2"} < meshes
    assert {each[2] for each in found} == {"none", "dots", "full"}


def a_plan(gib: float, cost: Cost | None, rows: int = 1) -> Plan:
    return Plan(
        program="update",
        topology=Topology.tpu("v5e:2x2"),
        mesh=MeshConfig(fsdp=4),
        settings={},
        bytes_per_chip={"parameters": gib * GIB},
        tokens=rows,
        runs=86_400,
        cost=cost,
    )


def test_time_is_the_slowest_of_what_bounds_it() -> None:
    sent = Collective(kind="all-gather", shapes=(), sent=200e9, times=3)
    plan = a_plan(1.0, Cost(flops=197e12, cycles=3e9, collectives=(sent,)))
    assert plan.roofline["compute"] == 1.0
    assert plan.roofline["links"] == plan.seconds == plan.days == 3.0
    assert plan.compiler_seconds == 2.0


def test_only_what_fits_is_ranked_the_fastest_first() -> None:
    slow, fast = (a_plan(8.0, Cost(flops=1e12), rows=rows) for rows in (1, 2))
    large, failed = a_plan(15.8, Cost(flops=1e12), rows=9), a_plan(20.0, None)
    assert ranked([slow, large, fast, failed]) == [fast, slow]
    assert large.spare < 0
    assert failed.seconds is None
    assert failed.metrics()["fits"] is False


def test_reads_how_much_the_compiler_lacked() -> None:
    exceeded = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm"
    assert _needed(exceeded) == 20.5 * GIB
    assert _needed("INVALID_ARGUMENT: no such thing") is None


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install '.[tpu]'",
)
def test_compiles_for_a_tpu_slice(plans: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.on_chips", "v5e:2x2"],
        env={**os.environ, **Topology.tpu("v5e:2x2").environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("full", "none"):
        here, there = plans[name], found[name]
        assert there["fits"]
        assert there["temporaries_by"] == "the chip's compiler"
        assert there["seconds_per_step_compiler"] > 0
        # The same program: two compilers' products, read in two notations.
        assert there["flops_per_step"] == pytest.approx(here["flops_per_step"], rel=0.15)
    assert found["none"]["vocabulary"] == 0
