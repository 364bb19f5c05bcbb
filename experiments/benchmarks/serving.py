r"""What a server gives its clients, beside an offline decode of the same prompts.

    python -m experiments.benchmarks.serving          # 4 minutes on two cores
    python -m experiments.benchmarks.serving --soak   # 6 minutes

The bundled teacher, a closed loop on loopback: each client asks as soon as it has its answer. The
server is a process of its own with 16 slots; prompts are gsm_mini's. Metrics of the first:

tokens_per_second_c{1,4,16,64}    tokens of answers, all clients together
p50_c*, p99_c*                    seconds of a request
first_token_p50_c*                seconds to the first committed text
offline_tokens_per_second         `cd.decode` of the same prompts, 16 at once
batched_vs_offline_c16            tokens a second of 16 clients over offline
vs_one_at_a_time_c16              tokens a second of 16 clients over the same with one slot
p99_short_ratio                   p99 of a request of 4 passes beside 15 that take one token a
                                  pass, over its p99 beside 15 of its own kind

Of the second: requests, lost (no answer), wrong (not the answer of `cd.decode` alone, or not the
status that a bad request has), memory_growth_percent (resident size of the server: its greatest in
the last half over that at the half). 5 % of the clients go away and 5 % of the requests are bad.
"""

from __future__ import annotations

import random
import statistics
from typing import Any

import numpy as np
from absl import app, flags

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.data.sources import open_source
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from experiments.benchmarks import results, served
from experiments.benchmarks.served import Client, Served, Timed

_SOAK = flags.DEFINE_bool("soak", False, "Ask 10,000 times and watch the memory.")
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "Of the soak.")

SLOTS = 16
PROMPTS = 192
RULE = ConfidenceAdaptive(threshold=0.9)
FLAGS = ("--rule.threshold=0.9", "--gen_length=64", "--queue=256")
SHORT = {"diffusion": {"max_passes": 4}}
LONG = {"diffusion": {"rule": "confidence(threshold=1.0,max_tokens=1)"}}


def questions(count: int) -> list[str]:
    """Of the test split."""
    source = open_source("gsm_mini/distill", "test")
    return [source[number]["question"] for number in range(count)]


def offline(asked: list[str]) -> float:
    """Tokens a second of a decode of all prompts, `SLOTS` at once."""
    model = cd.load(bundled.teacher())
    config = DecodeConfig(rule=RULE, gen_length=64, batch_size=SLOTS)
    runs = [cd.decode(model, asked, config) for _ in range(3)]
    tokens = int(runs[0].trajectory.length.sum())
    return tokens / statistics.median(run.seconds for run in runs)


def loop(target: Served, clients: int, asked: list[str]) -> tuple[list[Timed], float]:
    """A closed loop over the questions; answers and tokens a second."""
    answers, seconds = served.closed_loop(target, clients, asked, Client.chat)
    return answers, sum(answer.tokens for answer in answers) / seconds


def quantile(values: list[float], share: float) -> float:
    """As numpy has it."""
    return float(np.quantile(values, share))


def load(metrics: dict[str, float], spreads: dict[str, Any]) -> None:
    """Clients in growing numbers, offline, and one slot."""
    asked = questions(PROMPTS)
    with served.server(f"--batch_size={SLOTS}", *FLAGS) as target:
        loop(target, SLOTS, asked)  # what is not compiled yet would be measured
        for clients in (1, 4, 16, 64):
            answers, speed = loop(target, clients, asked)
            name = f"c{clients}"
            times = [answer.seconds for answer in answers]
            metrics[f"tokens_per_second_{name}"] = speed
            metrics[f"p50_{name}"] = quantile(times, 0.5)
            metrics[f"p99_{name}"] = quantile(times, 0.99)
            firsts = [answer.first for answer in answers]
            metrics[f"first_token_p50_{name}"] = quantile(firsts, 0.5)
            spreads[name] = results.spread(times)
        short_beside_long(target, asked, metrics)
    metrics["offline_tokens_per_second"] = offline(asked)
    with served.server("--batch_size=1", *FLAGS) as target:
        loop(target, 1, asked[:16])
        _, one = loop(target, SLOTS, asked)
    spreads["one_slot_tokens_per_second"] = one
    batched = metrics["tokens_per_second_c16"]
    metrics["batched_vs_offline_c16"] = batched / metrics["offline_tokens_per_second"]
    metrics["vs_one_at_a_time_c16"] = batched / one


def short_beside_long(target: Served, asked: list[str], metrics: dict[str, float]) -> None:
    """Whether a request of few passes waits for those of many."""

    def do(client: Client, piece: tuple[str, bool]) -> Timed:
        question, short = piece
        return client.chat(question, **(SHORT if short else LONG))

    alike = [(question, True) for question in asked]
    alone, _ = served.closed_loop(target, SLOTS, alike, do)
    mixed = [(question, number % SLOTS == 0) for number, question in enumerate(asked * 3)]
    beside, _ = served.closed_loop(target, SLOTS, mixed, do)
    shorts = [answer.seconds for answer, (_, short) in zip(beside, mixed, strict=True) if short]
    metrics["p99_short_beside_short"] = quantile([answer.seconds for answer in alone], 0.99)
    metrics["p99_short_beside_long"] = quantile(shorts, 0.99)
    metrics["p99_short_ratio"] = (
        metrics["p99_short_beside_long"] / metrics["p99_short_beside_short"]
    )


BAD: list[Any] = [
    b"{",
    {"messages": []},
    {"temperature": "hot"},
    {"max_tokens": 10_000},
    {"diffusion": {"rule": "x.py:Rule"}},
]


def soak(metrics: dict[str, float], spreads: dict[str, Any], requests: int) -> None:
    """Many requests, some of them abandoned and some bad."""
    asked = [text for text in questions(400) if len(text) < 80][:64]
    thresholds = (0.5, 0.7, 0.9)
    model = cd.load(bundled.teacher())
    config = DecodeConfig(gen_length=32, batch_size=SLOTS)
    expected: dict[tuple[int, float], tuple[str, int]] = {}
    for threshold in thresholds:
        out = cd.decode(model, asked, config, rule=ConfidenceAdaptive(threshold=threshold))
        for number, text in enumerate(out.text):
            expected[number, threshold] = (text, int(out.nfe[number]))
    rng = random.Random(0)
    kinds = rng.choices(["good", "leave", "bad"], [0.9, 0.05, 0.05], k=requests)
    work = [(kind, rng.randrange(len(asked)), rng.choice(thresholds)) for kind in kinds]
    memory: list[int] = []

    def do(client: Client, piece: tuple[str, int, float]) -> str:
        kind, number, threshold = piece
        memory.append(target.resident())
        fields = {"max_tokens": 32, "diffusion": {"threshold": threshold}}
        if kind == "bad":
            body = BAD[number % len(BAD)]
            whole = body if isinstance(body, bytes) else served.request("hi") | body
            answer = client.post(whole)
            answer.read()
            return "good" if answer.status == 400 else "wrong"
        if kind == "leave":
            client.leave(asked[number], **fields)
            return "left"
        try:
            found = client.chat(asked[number], **fields)
        except (OSError, KeyError):
            return "lost"
        good = (found.text, found.passes) == expected[number, threshold]
        return "good" if good else "wrong"

    with served.server(f"--batch_size={SLOTS}", "--gen_length=32", "--queue=256") as target:
        outcomes, seconds = served.closed_loop(target, SLOTS, work, do)
    half = len(memory) // 2
    metrics["requests"] = len(outcomes)
    metrics["lost"] = outcomes.count("lost")
    metrics["wrong"] = outcomes.count("wrong")
    metrics["memory_growth_percent"] = 100 * (max(memory[half:]) / memory[half] - 1)
    metrics["requests_per_second"] = requests / seconds
    spreads["outcomes"] = {kind: outcomes.count(kind) for kind in sorted(set(outcomes))}
    spreads["resident_kilobytes"] = memory[:: max(1, len(memory) // 20)]


def main(argv: list[str]) -> None:
    """Measures, prints, writes."""
    del argv
    metrics: dict[str, float] = {}
    spreads: dict[str, Any] = {}
    if _SOAK.value:
        soak(metrics, spreads, _REQUESTS.value)
    else:
        load(metrics, spreads)
    for name, value in metrics.items():
        print(f"{name:32} {value:10.3f}", flush=True)
    name = "serving_soak" if _SOAK.value else "serving"
    print(results.write(name, metrics, spread=spreads))


if __name__ == "__main__":
    app.run(main)
