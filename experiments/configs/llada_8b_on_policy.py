r"""LLaDA-8B-Instruct distilled on-policy with adapters of a quantised base, judged by its decodes.

    cd4lm distill --config=llada_8b_on_policy \
        --config.init=DIR --config.teacher=DIR

DIR, the same twice, is a LLaDA-8B-Instruct folder as it comes from its hub. The rows are those of
llada_8b_answers.py; of their answers only the lengths and the blocks before the one that is learned
count, as in gsm_mini_best.py. On gsm_mini this recipe needs the fewest passes.
--config.quantize=none is LoRA in bfloat16, for a GPU of 80 GB.

No loss ranks the steps of such a run. Every 100 updates 32 validation prompts are decoded by CAD at
0.9, and exported is the step that gives the teacher's answer most often within 64 passes for 256
positions. Where the rows are GSM8K's, --config.selection.judge=number compares final numbers.

Hardware and time, by `cd4lm plan --gpus=1 --gpu=rtx4090`, loading and evaluation not counted: 15.4
of the 20.1 GiB that a program may have of 24 GB, at least 4.4 s an update with one pass of the
student counted, 73 minutes for 1,000.

Expected: on gsm_mini what experiments/results/recipes.md says; nothing is published of LLaDA-8B.
Not run by us: we do not have the weights.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.selection import ByDecoding

from . import llada_8b_answers
from .gsm_mini_best import recipe


def get_config() -> TrainConfig:
    """Rows and updates as there; blocks of 32, as they are decoded."""
    return dataclasses.replace(
        recipe(llada_8b_answers.get_config()),
        output="runs/llada_8b_on_policy",
        selection=ByDecoding(
            prompts=32,
            decode=DecodeConfig(gen_length=256, block_length=32, batch_size=4),
            thresholds=(0.9,),
            judge="agreement",
            max_passes=64,
        ),
    )
