"""The search for the cheapest machine: its order, what it compiles, where it stops."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Callable

import pytest

from cd4lm_jax.planning import machines
from cd4lm_jax.planning.costs import Cost
from cd4lm_jax.planning.plan import Plan
from cd4lm_jax.planning.topology import GIB, GPUS, TPUS, Topology
from cd4lm_jax.runtime.mesh import MeshConfig


def a_plan(topology: Topology, gib: float) -> Plan:
    """Of a program that needs so much, shared by all chips, for an hour in 100 runs."""
    return Plan(
        program="update",
        topology=topology,
        mesh=MeshConfig(fsdp=topology.count),
        settings={},
        bytes_per_chip={"parameters": gib * GIB / topology.count},
        tokens=1,
        runs=100,
        cost=Cost(flops=36 * topology.chip.flops),
    )


def test_every_chip_has_a_price_and_the_cheapest_machine_comes_first() -> None:
    assert machines.PRICES.keys() == TPUS.keys() | GPUS.keys()
    prices = [machine.price for machine in machines.listed()]
    assert prices == sorted(prices)
    assert str(machines.listed()[0].topology) == "1 x t4"
    assert str(machines.listed({"h200": 0.01})[0].topology) == "1 x h200"


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"h10": 1.0}, "no chip 'h10' has a price; did you mean 'h100'"),
        ({"h100": 0.0}, r"price h100=0.0; give dollars an hour, above 0"),
        ({"h100": float("nan")}, "price h100=nan"),
    ],
)
def test_a_price_that_is_none_is_refused(prices: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        machines.listed(prices)


def test_the_search_ends_at_the_first_that_fits_and_compiles_once_for_a_number_of_gpus() -> None:
    compiled: list[Topology] = []

    def plan(topology: Topology) -> Plan:
        compiled.append(topology)
        if topology.count == 2:
            raise ValueError("3 rows are not shared by 2")
        return a_plan(topology, 60.0)

    listed = [machine for machine in machines.listed() if machine.topology.shape is None]
    tried = machines.search(listed, plan, lambda _: None)
    assert [each.machine for each in tried] == listed[: len(tried)]
    assert [each.fits for each in tried] == [False] * (len(tried) - 1) + [True]
    # 60 GiB are 4 x 15 or 1 x 60: four T4 lack a little, one A100 of 80 GB has it.
    assert str(tried[-1].machine.topology) == "1 x a100-80gb"
    # The hour is that of the first T4 the program was compiled for.
    hours = GPUS["t4"].flops / GPUS["a100-80gb"].flops
    assert tried[-1].dollars == pytest.approx(1.64 * hours)
    reasons = {each.machine.topology.count: each.reason for each in tried}
    assert reasons == {1: "", 2: "3 rows are not shared by 2", 4: ""}
    assert sorted(each.count for each in compiled) == [1, 2, 4]


@pytest.mark.slow
def test_the_command_names_the_cheapest_machine(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    config = "--config=experiments/configs/gsm_mini_teacher.py"
    command = (
        "-m",
        "cd4lm_jax",
        "plan",
        config,
        "--search",
        "--decode",
        "--gen_length=32",
        "--prompt_length=64",
    )
    done = run_python(*command, "--prices=l4=0.1", f"--json={tmp_path / 'plans.json'}")
    assert done.returncode == 0, done.stderr
    assert "1 x l4, $ 0.10 an hour: fits" in done.stdout
    assert "cheapest: 1 x l4, $ 0.10 an hour, $ 0.0" in done.stdout
    (found,) = json.loads((tmp_path / "plans.json").read_text())
    assert found["topology"] == "1 x l4"
    done = run_python(*command[:-1])
    assert done.returncode == 2
    assert "prompt_length=256 and gen_length=32 exceed" in done.stderr
    done = run_python(*command, "--prices=l4")
    assert done.returncode == 2
    assert "prices=l4 are none; give chips and dollars an hour" in done.stderr
