from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import subprocess
from collections.abc import Callable

import pytest
from absl.testing import flagsaver
from rich.console import Console
from rich.table import Table

from cd4lm_jax.commands import common, plan
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.planning.costs import Collective, Cost
from cd4lm_jax.planning.plan import Plan
from cd4lm_jax.planning.topology import GIB, Topology
from cd4lm_jax.runtime.mesh import MeshConfig

RunPython = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLE = Plan(
    program="update",
    topology=Topology.tpu("v5e:2x2"),
    mesh=MeshConfig(fsdp=4),
    settings={"rows": 8, "remat": "full", "lora": None},
    bytes_per_chip={"parameters": 12.0 * GIB, "temporaries": 2.0 * GIB},
    tokens=4096,
    runs=86_400,
    cost=Cost(
        flops=197e12,
        cycles=3e9,
        collectives=(Collective(kind="all-gather", shapes=((4,),), sent=1e6, times=3),),
    ),
)


def shown(*tables: Table) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    for table in tables:
        console.print(table)
    return " ".join(console.export_text().split())


def test_shows_bytes_traffic_and_time() -> None:
    text = shown(plan.summary(EXAMPLE), plan.ranking([EXAMPLE], EXAMPLE.topology))
    for part in (
        "training update on v5e:2x2",
        "parameters 12.00 GiB",
        "of 15.75 GiB: fits, to spare 1.75 GiB",
        "sent by 3 all-gather 3.0 MB",
        "roofline, compute 1,000.00 ms",
        "kernels, by the compiler 2,000.00 ms",
        "tokens a second, all chips 2,048",
        "days for 86,400 updates 2.000",
        "rows 8, remat full",
        "14.00 2.000 512",
    ):
        assert part in text
    assert "estimate" not in text


def test_says_what_is_lacking_and_what_is_an_estimate() -> None:
    large = {"parameters": 15.0 * GIB, "temporaries": 2.0 * GIB}
    failed = dataclasses.replace(EXAMPLE, bytes_per_chip=large, cost=None)
    assert "of 15.75 GiB: does not fit, lacks 1.25 GiB" in shown(plan.summary(failed))
    guessed = dataclasses.replace(EXAMPLE, exact=False)
    assert "temporaries (CPU's compiler: an estimate)" in shown(plan.summary(guessed))


CONFIG = "--config=experiments/configs/gsm_mini_teacher.py"


def command(*flags: str) -> int:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(plan.main, TrainConfig, ["launch.plan", CONFIG, *flags])
    return int(str(raised.value.code))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "give either --topology"),
        (["--topology=v5e:2x2", "--gpus=2"], 2, "give either --topology"),
        (["--topology=v7:2x2"], 2, "no TPU 'v7'"),
        (["--gpus=2", "--gpu=b300"], 2, "no GPU 'b300'"),
    ],
)
def test_a_wrong_topology_is_a_line_that_helps(
    flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*flags) == code
    assert said in capsys.readouterr().err


def test_help_shows_how_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    shown = capsys.readouterr().out
    assert "--topology=v5e:4x4" in shown
    assert "TPU slice, such as" in shown


@pytest.mark.slow
def test_plans_a_config_for_gpus_that_are_not_there(
    tmp_path: pathlib.Path, run_python: RunPython
) -> None:
    done = run_python(
        "-m",
        "launch.plan",
        CONFIG,
        "--gpus=2",
        "--config.mesh.data=2",
        f"--json={tmp_path / 'plan.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert "training update on 2 x h100" in " ".join(done.stdout.split())
    (found,) = json.loads((tmp_path / "plan.json").read_text())
    assert found["metrics"]["fits"]
    assert found["bytes_sent"]["all-reduce"] > 0  # of the gradients, over data
    assert found["chips"] == 2
