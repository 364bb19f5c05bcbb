r"""Says whether a run fits a topology and how long it takes, with no device present.

    cd4lm plan --config=llada_8b_gsm8k --model=llada_8b \
        --topology=v5e:4x4 --config.data.batch_size=32
    cd4lm plan --config=llada_8b_lora --model=llada_8b \
        --gpus=1 --gpu=h100
    cd4lm plan --config=llada_8b_gsm8k --model=llada_8b \
        --topology=v5e:2x2 --decode --cache=dual
    cd4lm plan --config=llada_8b_gsm8k --model=llada_8b \
        --search --decode --cache=dual --quantize=int8

The update that the trainer would run, or with --decode the loop that the decoder would (256
positions, batch 1, unless flags say otherwise), is compiled ahead of time for that topology: a
model of 8B takes minutes. TPU topologies need libtpu (pip install '.[tpu]', best in an environment
of its own). For GPUs the same program is compiled for virtual CPU devices: what it is given is
exact, temporaries are an estimate. --search with a topology compares meshes, rows a chip and remat
policies, each a compilation, and ranks what fits; without one it finds the cheapest listed machine
that the program fits.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NoReturn

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from cd4lm_jax.commands import architecture, common, compilation, decode_flags, placement_flags
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.planning import decoding, machines, training
from cd4lm_jax.planning.plan import Plan, counts, gib
from cd4lm_jax.planning.topology import GIB, GPUS, TPUS, Topology
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.mesh import MeshConfig

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, f"TPU slice, such as v5e:4x4 or v5p:2x2x4; of {', '.join(TPUS)}."
)
_GPUS = flags.DEFINE_integer("gpus", 0, "Or so many GPUs.")
_GPU = flags.DEFINE_string("gpu", "h100", f"What GPUs: {', '.join(GPUS)}.")
_DECODE = flags.DEFINE_bool(
    "decode", False, "Plan a pass of the decoding loop, by default tensor parallel over all chips."
)
_PROMPT = flags.DEFINE_integer("prompt_length", 256, "With --decode: padded.", lower_bound=1)
_SEARCH = flags.DEFINE_bool(
    "search",
    False,
    "Rank meshes, rows a chip and remat policies; without a topology, find the cheapest machine.",
)
_PRICES = flags.DEFINE_list(
    "prices",
    [],
    "Dollars an hour of chips, such as v5e=1.1,rtx4090=0.4: for --search, and what a run costs.",
)
_JSON = flags.DEFINE_string("json", None, "File to write the plans to.")


def main(config: TrainConfig) -> None:
    """Compiles, prints, writes."""
    if _SEARCH.value and _TOPOLOGY.value is None and not _GPUS.value:
        plans = cheapest(config)
    else:
        plans = on_topology(config, chosen_topology())
    if _JSON.value is not None:
        found = [{"metrics": plan.metrics(), **plan.details()} for plan in plans]
        files.write_text(_JSON.value, json.dumps(found, indent=2, allow_nan=False) + "\n")


def on_topology(config: TrainConfig, topology: Topology) -> list[Plan]:
    """The plan of the program on these chips, or those of a search; prints them."""
    common.restart_with(topology.environment)
    compilation.keep()
    model = architecture.chosen(config)
    if _SEARCH.value:
        plans = search(config, model, topology)
        Console().print(ranking(plans, topology))
        return plans
    plan = planned(config, model, topology)
    Console().print(summary(plan))
    return [plan]


def planned(config: TrainConfig, model: ModelConfig, topology: Topology) -> Plan:
    """The plan of the update, or of the decode that the flags ask for.

    Raises:
        ValueError: lengths, a batch or a mesh that do not fit.
    """
    if not _DECODE.value:
        return training.plan(config, model, topology)
    decode = decode_flags.DECODE.chosen(DecodeConfig(gen_length=256, batch_size=1))
    placement = Placement(dtype="bfloat16", mesh=MeshConfig(tensor=topology.count))
    placement = placement_flags.chosen(placement)
    return decoding.plan(model, decode, topology, prompt_length=_PROMPT.value, placement=placement)


def cheapest(config: TrainConfig) -> list[Plan]:
    """The plans of the machines that were tried, the cheapest that fits last; prints them.

    A training run is split over several chips by fsdp.

    Raises:
        ValueError: nothing fits, or prices that are none.
    """
    listed = machines.listed(_prices())
    environment: dict[str, str] = {}
    for machine in sorted(listed, key=lambda machine: machine.topology.count):
        environment |= machine.topology.environment
    common.restart_with(environment)
    compilation.keep()
    model = architecture.chosen(config)

    def plan(topology: Topology) -> Plan:
        split = dataclasses.replace(config, mesh=MeshConfig(fsdp=topology.count))
        return planned(split, model, topology)

    def report(tried: machines.Tried) -> None:
        verdict = "fits" if tried.fits else tried.reason or "does not fit"
        print(f"{tried.machine.topology}, $ {tried.machine.price:.2f} an hour: {verdict}")

    tried = machines.search(listed, plan, report)
    if not tried[-1].fits:
        raise ValueError(
            f"none of {len(listed)} machines is large enough; give --quantize, a shorter length or "
            "LoRA, or plan more chips with --topology"
        )
    plans = [each.plan for each in tried if each.plan is not None]
    Console().print(summary(plans[-1]), costs(tried[-1]))
    return plans


def _prices() -> dict[str, float]:
    try:
        pairs = [entry.split("=") for entry in _PRICES.value]
        return {chip.strip(): float(price) for chip, price in pairs}
    except ValueError:
        raise common.UsageError(
            f"prices={','.join(_PRICES.value)} are none; give chips and dollars an hour, such as "
            "v5e=1.1,rtx4090=0.4"
        ) from None


def chosen_topology() -> Topology:
    """The chips that the flags name.

    Raises:
        ValueError: none, or two kinds, or unknown ones.
    """
    if (_TOPOLOGY.value is None) == (_GPUS.value == 0):
        raise common.UsageError(
            "give either --topology, such as v5e:4x4, or --gpus=N with --gpu=KIND, or --search to "
            "find the cheapest machine"
        )
    if _TOPOLOGY.value is not None:
        return Topology.tpu(_TOPOLOGY.value)
    return Topology.gpu(_GPUS.value, _GPU.value)


def search(config: TrainConfig, model: ModelConfig, topology: Topology) -> list[Plan]:
    """The plans that fit, the best first; says how far it has got.

    Raises:
        ValueError: nothing fits.
    """
    tried = list(training.candidates(config, topology, model))
    plans = []
    for number, candidate in enumerate(tried, start=1):
        plan = training.plan(candidate, model, topology)
        plans.append(plan)
        verdict = "fits" if plan.fits else "does not fit"
        rows, remat = plan.settings["rows"], plan.settings["remat"]
        print(f"{number} of {len(tried)}: {plan.mesh}, {rows} rows, remat {remat}: {verdict}")
    best = training.ranked(plans)
    if not best:
        raise ValueError(
            f"none of {len(tried)} ways fits {topology}; give more chips, "
            "--config.optimizer.moments=factored, or LoRA"
        )
    return best


def summary(plan: Plan) -> Table:
    """One plan, line by line."""
    table = _table("what", "a chip")
    title = "training update" if plan.program == "update" else "pass of the decoding loop"
    table.title = f"{title} on {plan.topology}, {plan.mesh}"
    table.caption = ", ".join(
        f"{name} {value}" for name, value in plan.settings.items() if value is not None
    )
    for name, size in plan.bytes_per_chip.items():
        estimate = "" if plan.exact or name != "temporaries" else " (CPU's compiler: an estimate)"
        table.add_row(name + estimate, gib(size))
    table.add_row("together", gib(plan.total), style="bold")
    verdict = "fits, to spare" if plan.fits else "does not fit, lacks"
    table.add_row(f"of {gib(plan.topology.chip.memory)}: {verdict}", gib(abs(plan.spare)))
    if plan.cost is None:
        table.add_row("time", "not known: the compiler ran out of memory")
        return table
    table.add_section()
    table.add_row("FLOPs", f"{plan.cost.flops / 1e12:,.2f} T")
    for kind, size in plan.cost.sent.items():
        table.add_row(f"sent by {counts(plan.cost)[kind]:,.0f} {kind}", f"{size / 1e6:,.1f} MB")
    table.add_section()
    for name, seconds in plan.roofline.items():
        table.add_row(f"roofline, {name}", milliseconds(seconds))
    if plan.compiler_seconds is not None:
        table.add_row("kernels, by the compiler", milliseconds(plan.compiler_seconds))
    if plan.refresh_seconds is not None:
        table.add_row("pass that computes a row whole too", milliseconds(plan.refresh_seconds))
    table.add_section()
    if plan.program == "update":
        table.add_row("tokens a second, all chips", f"{plan.tokens_per_second:,.0f}")
        table.add_row(f"days for {plan.runs:,} updates", f"{plan.days:,.3f}")
        price = (machines.PRICES | _prices()).get(plan.topology.chip.name)
        if price is not None and plan.days is not None:
            dollars = 24 * plan.days * plan.topology.count * price
            table.add_row(f"dollars at {price:g} an hour of a chip", f"{dollars:,.2f}")
    else:
        table.add_row("tokens a second at one a pass", f"{plan.tokens_per_second:,.0f}")
    return table


def costs(tried: machines.Tried) -> str:
    """What the cheapest machine takes, in a line."""
    what = "a million tokens at one a pass" if _DECODE.value else "the run"
    dollars = "" if tried.dollars is None else f", $ {tried.dollars:,.2f} for {what}"
    return f"cheapest: {tried.machine.topology}, $ {tried.machine.price:.2f} an hour{dollars}"


def ranking(plans: list[Plan], topology: Topology) -> Table:
    """Plans that fit, a row each."""
    table = _table("mesh", "rows", "remat", "GiB a chip", "seconds", "tokens/s a chip")
    table.title = f"what fits {topology}"
    for plan in plans:
        table.add_row(
            str(plan.mesh),
            str(plan.settings["rows"]),
            str(plan.settings["remat"]),
            f"{plan.total / GIB:.2f}",
            f"{plan.seconds:.3f}",
            f"{(plan.tokens_per_second or 0) / topology.count:,.0f}",
        )
    return table


def milliseconds(seconds: float) -> str:
    """A time, for people."""
    return f"{1000 * seconds:,.2f} ms"


def _table(first: str, *others: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main, TrainConfig)
