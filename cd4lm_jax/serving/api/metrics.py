"""Numbers for Prometheus, in a registry of their own: none is of a single request's content."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cd4lm_jax.serving.engine.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """What `/metrics` shows.

    Attributes:
        requests: answers by route and outcome: the status, `disconnected`, or `error` where a
            stream ended in one.
        first_token, last_token: seconds from a request to its first committed text, and to its
            end.
    """

    def __init__(self, engine: Engine) -> None:
        registry = CollectorRegistry()
        self.requests = Counter(
            "cd4lm_requests",
            "Requests by route and outcome.",
            ["route", "outcome"],
            registry=registry,
        )
        self.first_token = Histogram(
            "cd4lm_first_token_seconds",
            "From a request to its first committed text.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.last_token = Histogram(
            "cd4lm_last_token_seconds",
            "From a request to the end of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(_OfEngine(engine))
        self._registry = registry

    def text(self) -> bytes:
        """In Prometheus' own form."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    """Read from the engine when somebody asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, counters = self._engine, self._engine.counters
        gauges = {
            "cd4lm_queue_rows": ("Rows that wait for a slot.", engine.waiting),
            "cd4lm_slots_busy": ("Rows that are being decoded.", engine.busy),
            "cd4lm_slots_of_a_lane": ("Rows that a lane decodes at once.", engine.slots),
            "cd4lm_tokens_per_pass": (
                "Committed positions per forward pass of a row, since the start.",
                counters.tokens / max(1, counters.passes),
            ),
            "cd4lm_programs": ("Compiled programs in use.", counters.compiled),
        }
        counts = {
            "cd4lm_passes": ("Forward passes, counted by row.", counters.passes),
            "cd4lm_tokens": ("Committed positions.", counters.tokens),
            "cd4lm_segments": ("Calls of a compiled program.", counters.segments),
            "cd4lm_busy_seconds": ("Seconds in compiled programs.", counters.seconds),
            "cd4lm_rows_finished": ("Rows that ended by themselves.", counters.finished),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        for name, (text, value) in counts.items():
            yield CounterMetricFamily(name, text, value=value)
