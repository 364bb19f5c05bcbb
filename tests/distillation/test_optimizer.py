from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cd4lm_jax.distillation.optimizer import OptimizerConfig, updates_applied


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    schedule = config.learning_rate_at(steps)
    return [float(schedule(step)) for step in range(steps + 1)]


def test_the_published_warm_up_is_logarithmic() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=200, warmup="logarithmic")
    found = rates(config, 1050)
    # Shares of the peak that DeepSpeed's WarmupLR gave the updates 3, 11, 51 and 101.
    assert [round(found[update - 1], 2) for update in (3, 11, 51, 101)] == [0.13, 0.43, 0.74, 0.87]
    for update in range(3, 201):
        assert found[update - 1] == pytest.approx(math.log(update - 1) / math.log(200), rel=1e-5)
    assert found[:2] == [0, 0]
    assert found[200:] == [1.0] * 851
    assert OptimizerConfig().warmup == "linear"


@pytest.mark.parametrize("warmup", ["linear", "logarithmic"])
@pytest.mark.parametrize("steps", [50, 60, 100])
def test_a_decay_that_overlaps_the_warm_up_does_not_jump(warmup: Any, steps: int) -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=40, warmup=warmup, decay_share=0.5)
    found = rates(config, steps)
    assert found[0] == found[-1] == 0
    # No step is steeper than those of the warm-up and the decay.
    steepest = 1 / (steps // 2) if warmup == "linear" else math.log(2) / math.log(40)
    assert max(abs(b - a) for a, b in itertools.pairwise(found)) <= max(steepest, 1 / 40) + 1e-6
    top = found.index(max(found))
    assert found == sorted(found[:top]) + sorted(found[top:], reverse=True)


def test_skipped_updates_are_no_updates_of_the_schedule() -> None:
    for algorithm, moments in (("adamw", "float32"), ("muon", "float32"), ("adamw", "factored")):
        config = OptimizerConfig(algorithm=algorithm, moments=moments, warmup_steps=2)  # type: ignore[arg-type]
        transform = config.build(10)
        weight = {"kernel": jnp.ones((2, 4, 3)), "table": jnp.ones((4, 3))}
        update = jax.jit(transform.update)
        state = transform.init(weight)
        for count in range(3):
            assert int(updates_applied(state)) == count
            _, state = update(weight, state, weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1e-3}, r"optimizer\.learning_rate=-0\.001; give 0 or more"),
        ({"learning_rate": np.nan}, r"optimizer\.learning_rate=nan; give 0 or more"),
        ({"learning_rate": np.inf}, r"optimizer\.learning_rate=inf; give 0 or more"),
        ({"warmup_steps": -1}, r"optimizer\.warmup_steps=-1; give 0 or more"),
        ({"weight_decay": -0.1}, r"optimizer\.weight_decay=-0\.1; give 0 or more"),
        ({"clip_norm": 0}, r"optimizer\.clip_norm=0; give a norm above 0"),
        ({"decay_share": 1.5}, r"optimizer\.decay_share=1\.5; give a share of 0 to 1"),
        ({"b1": 1.0}, r"optimizer\.b1=1\.0; give 0 or more and below 1"),
        ({"b2": -0.1}, r"optimizer\.b2=-0\.1; give 0 or more and below 1"),
    ],
)
def test_says_what_is_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)
