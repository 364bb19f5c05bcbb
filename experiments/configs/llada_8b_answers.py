r"""LLaDA-8B-Instruct distilled on its own answers, by adapters of a quantised base (QLoRA).

    cd4lm distill --config=llada_8b_answers \
        --config.init=DIR --config.teacher=DIR

DIR, the same twice, is a LLaDA-8B-Instruct folder as it comes from its hub. The rows are what
`cd4lm answer --config=chat_answers` wrote: the first recipe to try, for any chats.

What is learned is what gsm_mini.py learns: masks mostly in the shape of block decoding's states,
the text where the teacher is shown it, T 1, entropy regularisation.
--config.quantize=none is LoRA in bfloat16, for a GPU of 80 GB.

Hardware and time, by `cd4lm plan --gpus=1 --gpu=rtx4090`, loading and evaluation not counted: 15.4
of the 20.1 GiB that a program may have of 24 GB, at least 2.85 s an update, 48 minutes for 1,000.
The model is merged on the host at the end, in about 40 GiB of its memory.

Expected: on gsm_mini what experiments/results/recipes.md says; nothing is published of LLaDA-8B.
Not run by us: we do not have the weights.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.corruption.masking import NestedMasks
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.objective import Objective

from . import llada_8b_lora
from .chat_answers import OUTPUT


def get_config() -> TrainConfig:
    """1,000 updates of 16 rows, one after the other; the last 5 % of the rows validate."""
    lora = llada_8b_lora.get_config()
    data = DataConfig(
        source=f"{OUTPUT}/train.jsonl",
        split="train[:95%]",
        answer_length=256,
        max_length=512,
        duplicates="skip",
        batch_size=16,
    )
    return dataclasses.replace(
        lora,
        output="runs/llada_8b_answers",
        steps=1000,
        quantize="int8",
        corruption=NestedMasks(student_ratio=(0.5, 1.0), blockwise=0.7, block_length=32),
        objective=Objective(temperature=1.0, visible="text", entropy_weight=1.0),
        optimizer=dataclasses.replace(lora.optimizer, warmup_steps=50),
        data=data,
        validation=dataclasses.replace(data, split="train[95%:]", duplicates="keep", batch_size=4),
        accumulate=16,
        eval_every=100,
        save_every=50,
        patience=5,
    )
