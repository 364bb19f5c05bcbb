r"""LLaDA-8B-Instruct distilled as gsm_mini_best.py distils: on-policy.

    cd4lm distill --config=llada_8b_best \
        --config.init=DIR --config.teacher=DIR

DIR is a LLaDA-8B-Instruct folder as it comes from its hub. Rows, updates and optimizer are those
of llada_8b_gsm8k.py; of the text questions, lengths and blocks before the one that is learnt count.

Hardware and time: as llada_8b_gsm8k.py, and one to five forward passes of a row more in an update.
By `cd4lm plan` (batches of 32, mesh fsdp 8 by tensor 2, bfloat16 first moments) it takes 11.7 of
the 15.75 GiB of each of 16 v5e chips; its time is a lower bound there, with one such pass counted.

Expected: on gsm_mini what experiments/results/recipes.md says; nothing is published of LLaDA-8B.
Not run by us: we have neither such a machine nor the weights.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.distillation.config import TrainConfig

from . import llada_8b_gsm8k
from .gsm_mini_best import recipe


def get_config() -> TrainConfig:
    """Ten epochs as there; blocks of 32, as they are decoded."""
    return dataclasses.replace(recipe(llada_8b_gsm8k.get_config()), output="runs/llada_8b_best")
