"""An answer is the one of `cd.decode` alone, whoever else asks what, and when."""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.decoding.rules import ConfidenceAdaptive, Factor
from tests.serving.servers import DECODE, Served, served, small_model, streamed

pytestmark = pytest.mark.slow

REQUESTS = 300
CLIENTS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(rules=(Factor(),), caches=("dual",), queue=1000) as found:
        yield found


def draw(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request, and the same as options of `cd.decode`."""
    rng = random.Random(number)
    body: dict[str, Any] = {
        "model": "small",
        "prompt": [rng.randrange(6, 500) for _ in range(rng.randint(1, 32))],
        "stream": rng.random() < 0.5,
        "seed": rng.randrange(1000),
        "n": rng.choice([1, 1, 1, 2]),
    }
    diffusion: dict[str, Any] = {"events": True, "max_passes": rng.choice([0, 0, 3, 9])}
    options: dict[str, Any] = {"seed": body["seed"], "max_passes": diffusion["max_passes"]}
    kind = rng.choice(["plain", "plain", "drawn", "cached"])
    if kind == "cached":
        factor = round(rng.uniform(0.3, 3.0), 2)
        diffusion |= {"rule": f"factor(factor={factor})", "cache": "dual"}
        options |= {"rule": Factor(factor=factor), "cache": "dual"}
    else:
        threshold, least = round(rng.uniform(0.2, 0.95), 2), rng.randint(1, 3)
        diffusion |= {"rule": f"confidence(min_tokens={least})", "threshold": threshold}
        options["rule"] = ConfidenceAdaptive(threshold=threshold, min_tokens=least)
    if kind == "drawn":
        drawn = {"temperature": round(rng.uniform(0.2, 1.5), 2)}
        drawn |= rng.choice([{"top_p": 0.8}, {"top_k": 5}, {"top_p": 0.9, "top_k": 20}])
        body |= drawn
        options |= drawn
    return body | {"diffusion": diffusion}, options


def positions(events: list[dict[str, Any]]) -> dict[int, tuple[int, int]]:
    """Token and pass of each committed position."""
    return {
        position: (token, event["pass"])
        for event in events
        for position, token in zip(event["positions"], event["tokens"], strict=True)
    }


def answered(server: Served, body: dict[str, Any]) -> list[tuple[str, int, dict[int, Any]]]:
    """Text, passes and positions of each choice."""
    status, answer, _ = server.ask("/v1/completions", body)
    assert status == 200, answer
    n = body["n"]
    texts, passes, events = [""] * n, [0] * n, [{} for _ in range(n)]  # type: ignore[var-annotated]
    chunks = streamed(answer) if body["stream"] else [answer]
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        at, said = choice["index"], choice.get("diffusion", {})
        texts[at] += choice["text"]
        passes[at] = said.get("passes", passes[at])
        events[at] |= positions(said.get("events", []))
    return list(zip(texts, passes, events, strict=True))


def test_any_order_mix_and_setting_gives_the_tokens_and_passes_of_a_decode_alone(
    server: Served,
) -> None:
    order = list(range(REQUESTS))
    random.Random(0).shuffle(order)
    pauses = random.Random(1)
    pause = threading.Event()

    def ask(number: int) -> Any:
        pause.wait(pauses.random() * 0.05)
        return answered(server, draw(number)[0])

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        found = dict(zip(order, pool.map(ask, order), strict=True))

    for number in order:
        body, options = draw(number)
        for choice, (text, passes, committed) in enumerate(found[number]):
            alone = cd.decode(small_model(), [body["prompt"]], DECODE, **options, first=choice)
            row = alone.trajectory.rows([0])
            at = np.flatnonzero(row.committed_at[0])
            expected = {int(p): (int(row.tokens[0, p]), int(row.committed_at[0, p])) for p in at}
            assert committed == expected, (number, choice)
            assert (text, passes) == (alone.text[0], int(row.nfe[0])), (number, choice)
    assert server.engine.busy == 0
    assert server.engine.waiting == 0


def test_rows_shared_batches(server: Served) -> None:
    """The promise above would mean little if requests had been served one by one."""
    counters = server.engine.counters
    assert counters.passes > 1.5 * counters.segments


def test_a_draw_without_a_seed_can_be_repeated_with_the_one_it_says(server: Served) -> None:
    asked = {"temperature": 1.0, "diffusion": {"threshold": 0.5}}
    status, first, _ = server.chat("hello", **asked)
    assert status == 200
    seed = first["choices"][0]["diffusion"]["seed"]
    _, again, _ = server.chat("hello", seed=seed, **asked)
    assert again["choices"][0]["message"] == first["choices"][0]["message"]
    _, other, _ = server.chat("hello", **asked)
    assert other["choices"][0]["diffusion"]["seed"] != seed
