r"""What the decoder costs beside the model, and what its cache, batches and queue bring.

    python -m experiments.benchmarks.decode                 # 6 minutes on two cores
    python -m experiments.benchmarks.decode --llada_8b      # on a GPU: milliseconds a pass

Random weights, for time does not depend on them; answers of a chosen length are made by giving all
that follows (infilling). Ratios within one run, medians of several. Metrics:

loop_overhead_{3.7m,36m}_b{1,8}  a pass of the compiled loop over a jitted forward, the same head
                                 window
dual_speedup_36m                 wall clock of cache none over dual, prompt 128, 256 generated,
                                 block 32, batch 1, one token a pass
dual_speedup_36m_4_a_pass        the same with four tokens a pass: blocks are entered more often
dual_agreement_36m               share of equal tokens, one a pass
dual_accuracy_loss_gsm_mini      percentage points that dual costs the bundled teacher under CAD
block_speedup_36m                a model of Qwen3's type that attends by blocks: wall clock of cache
                                 none over prefix, which is exact there; prompt 512, 256 generated,
                                 block 32, batch 1, four tokens a pass
block_agreement_36m              share of equal tokens
batch8_dual_gain_3.7m            tokens a second of 8 ragged prompts at once over one at a time
queue_gain                       wall clock of 64 prompts in fixed batches of 8 over one queue of
                                 8 slots; answers of 8 to 256 tokens, eight a pass, 3.7m
queue_gain_dual                  the same with dual, where entering a block costs a whole forward
                                 in both
compiles_for_20_thresholds       compilations of the loop
llada_8b_ms_{none,dual}          a pass at LLaDA-8B's shape, bfloat16; llada_8b_floor_ms: its
                                 weight bytes over the measured copy bandwidth
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import cd4lm_jax as cd
from cd4lm_jax.data.sources import open_source
from cd4lm_jax.decoding import batching, cache, canvas, loop
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.models.config import ModelConfig, llada_8b
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.models.window import Window
from experiments.benchmarks import results, timed_decode
from experiments.benchmarks.timed_decode import BLOCK, Timed, queue_of, random_model
from experiments.configs import gsm_mini_eval

_LLADA_8B = flags.DEFINE_bool("llada_8b", False, "Time LLaDA-8B's shape as well; needs a GPU.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of which the median counts.")


def architecture(width: int, layers: int, vocab: int) -> ModelConfig:
    """A model of the benchmark's."""
    return ModelConfig(
        vocab_size=vocab,
        embed_dim=width,
        num_layers=layers,
        num_heads=width // 64,
        num_kv_heads=width // 64,
        head_dim=64,
        mlp_dim=3 * width,
        max_length=1024,
        mask_id=vocab - 1,
        eos_id=vocab - 2,
        end_ids=(vocab - 2,),
    )


SMALL = architecture(256, 4, 512)  # 3.7 M parameters
LARGE = architecture(512, 8, 8192)  # 36 M
SIZES = {"3.7m": (SMALL, 200), "36m": (LARGE, 256)}  # and the positions of a row


def in_turn(*calls: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each call, as often as the flag says."""
    return timed_decode.in_turn(*calls, repeats=_REPEATS.value)


def ratio(above: list[float], below: list[float]) -> float:
    """Of the medians."""
    return statistics.median(above) / statistics.median(below)


def loop_overhead(metrics: dict[str, float], spreads: dict[str, Any]) -> None:
    """A pass of the loop beside a forward with the same window."""
    gen, passes = 4 * BLOCK, 8

    @jax.jit
    def forward(model: Transformer, queue: canvas.Queue, start: jax.Array) -> jax.Array:
        return model(queue.tokens, queue.valid, Window(start=start, length=BLOCK))

    for size, (config, positions) in SIZES.items():
        model = random_model(config)
        for rows in (1, 8):
            queue = queue_of(config, [positions - gen] * rows, [gen] * rows, gen)
            queue = queue._replace(budget=jnp.full(rows, passes, jnp.int32))
            inputs = (model.by_layer(), queue, jnp.full(rows, positions - gen))

            def forwarded(inputs: Any = inputs) -> None:
                for _ in range(passes):
                    jax.block_until_ready(forward(*inputs))

            forwarded()
            loop, plain = in_turn(Timed(model, queue, rows, per_pass=1), forwarded)
            name = f"loop_overhead_{size}_b{rows}"
            metrics[name] = ratio(loop, plain)
            spreads[name] = {"loop": results.spread(loop), "forward": results.spread(plain)}


def dual(metrics: dict[str, float], spreads: dict[str, Any]) -> None:
    """The cache beside none."""
    model, gen = random_model(LARGE), 8 * BLOCK
    queue = queue_of(LARGE, [128], [gen], gen)
    for name, per_pass in (("dual_speedup_36m", 1), ("dual_speedup_36m_4_a_pass", 4)):
        exact = Timed(model, queue, 1, per_pass=per_pass)
        approximate = Timed(model, queue, 1, per_pass=per_pass, cache="dual")
        none, cached = in_turn(exact, approximate)
        metrics[name] = ratio(none, cached)
        spreads[name] = {"none": results.spread(none), "dual": results.spread(cached)}
        if per_pass == 1:
            same = exact().tokens == approximate().tokens
            metrics["dual_agreement_36m"] = float(same.mean())

    settings = gsm_mini_eval.get_config()
    teacher = cd.load(settings.teacher)
    source = open_source(settings.source, "test")
    problems = [source[index] for index in range(settings.problems)]
    accuracy = {}
    for kind in ("none", "dual"):
        out = cd.decode(
            teacher,
            [problem["question"] for problem in problems],
            rule=cd.ConfidenceAdaptive(threshold=0.9),
            gen_length=settings.decode.gen_length,
            block_length=settings.decode.block_length,
            batch_size=settings.decode.batch_size,
            cache=kind,
        )
        right = numbers.score(out.text, [problem["answer"] for problem in problems])
        accuracy[kind] = 100 * float(right.mean())
    metrics["dual_accuracy_loss_gsm_mini"] = accuracy["none"] - accuracy["dual"]
    spreads["gsm_mini_accuracy"] = accuracy


def block(metrics: dict[str, float], spreads: dict[str, Any]) -> None:
    """The exact cache of a block-diffusion model beside none."""
    config = dataclasses.replace(
        LARGE,
        num_kv_heads=4,
        qk_norm=True,
        attention="block",
        blocks="sequence",
        block_length=BLOCK,
    )
    model = random_model(config)
    prompt = np.random.default_rng(0).integers(0, config.eos_id, 512).tolist()
    modes: tuple[cache.Mode, ...] = ("none", "prefix")
    found: dict[str, list[batching.Decode]] = {mode: [] for mode in modes}
    for _ in range(_REPEATS.value):
        for mode in modes:
            options = DecodeConfig(
                rule=cd.FixedStep(steps=64),
                gen_length=256,
                block_length=BLOCK,
                stop_at_eos=False,
                cache=mode,
            )
            found[mode].append(batching.decode(model, [prompt], options))
    none, cached = ([each.seconds for each in found[mode]] for mode in modes)
    metrics["block_speedup_36m"] = ratio(none, cached)
    spreads["block_speedup_36m"] = {"none": results.spread(none), "prefix": results.spread(cached)}
    first, second = (found[mode][0].trajectory.tokens for mode in modes)
    metrics["block_agreement_36m"] = float((first == second).mean())


def batches(metrics: dict[str, float], spreads: dict[str, Any]) -> None:
    """Rows at once beside rows one by one, and a queue beside fixed batches."""
    model, gen = random_model(SMALL), 4 * BLOCK
    queue = queue_of(SMALL, [16, 24, 32, 40, 48, 56, 64, 72], [gen] * 8, gen)
    one, eight = in_turn(
        *(Timed(model, queue, slots, per_pass=1, cache="dual") for slots in (1, 8))
    )
    metrics["batch8_dual_gain_3.7m"] = ratio(one, eight)
    spreads["batch8_dual_gain_3.7m"] = {"1": results.spread(one), "8": results.spread(eight)}

    lengths = np.random.default_rng(1).permutation(np.linspace(8, 256, 64).round()).astype(int)
    long = queue_of(SMALL, [16] * 64, lengths.tolist(), 256)
    parts = [
        jax.tree.map(lambda leaf, at=at: leaf[at : at + 8] if leaf.ndim else jnp.int32(8), long)
        for at in range(0, 64, 8)
    ]
    modes: dict[str, cache.Mode] = {"queue_gain": "none", "queue_gain_dual": "dual"}
    for name, mode in modes.items():
        calls = [Timed(model, part, 8, per_pass=8, cache=mode) for part in parts]

        def one_by_one(calls: list[Timed] = calls) -> None:
            for call in calls:
                call()

        fixed, queued = in_turn(one_by_one, Timed(model, long, 8, per_pass=8, cache=mode))
        metrics[name] = ratio(fixed, queued)
        spreads[name] = {"batches": results.spread(fixed), "queue": results.spread(queued)}


def compiles(metrics: dict[str, float], spreads: dict[str, Any]) -> None:
    """Of the loop, for a sweep of thresholds."""
    del spreads  # a count has none
    model = random_model(SMALL)
    options = DecodeConfig(gen_length=2 * BLOCK, block_length=BLOCK)
    before = loop.run._cache_size()  # type: ignore[attr-defined]
    for threshold in np.linspace(0.05, 1.0, 20):
        rule = cd.ConfidenceAdaptive(threshold=float(threshold))
        batching.decode(model, [[1, 2, 3]], dataclasses.replace(options, rule=rule))
    metrics["compiles_for_20_thresholds"] = loop.run._cache_size() - before  # type: ignore[attr-defined]


def main(argv: list[str]) -> None:
    """Measures, prints, writes."""
    del argv
    metrics: dict[str, float] = {}
    spreads: dict[str, Any] = {}
    sections = [loop_overhead, dual, block, batches, compiles]
    if _LLADA_8B.value:
        sections.append(
            functools.partial(timed_decode.large, llada_8b(), "llada_8b", _REPEATS.value)
        )
    for section in sections:
        known = len(metrics)
        section(metrics, spreads)
        for name in list(metrics)[known:]:
            print(f"{name:32} {metrics[name]:8.3f}", flush=True)
    print(results.write("decode", metrics, spread=spreads))


if __name__ == "__main__":
    app.run(main)
