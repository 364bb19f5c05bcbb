r"""The recipe of llada_8b_gsm8k.py on code: LLaDA-8B-Instruct on 200,000 rows of OpenCodeInstruct.

    cd4lm distill --config=llada_8b_opencode \
        --config.init=DIR --config.teacher=DIR --config.data.source=FILE.jsonl \
        --config.validation.source=FILE.jsonl

DIR is a LLaDA-8B-Instruct folder as it comes from its hub. FILE.jsonl holds the data set's first
200,000 rows, an object a line with `question` (its `input`) and `answer` (its `output`),
less those whose answer has more than 767 tokens: such a row is refused by number, since an answer
is never cut. The first 95 % are trained on, the rest validates; rows have 1,024 tokens.

Published: rows, split and length. Ten epochs in batches of 64 are taken over from GSM8K; an
evaluation every 500 updates is ours, since there are 10,000 rows to evaluate.

Hardware and time, by `cd4lm plan` (--gpus=8 --gpu=h100), loading and evaluation not counted: on one
host with eight H100 35.5 GiB a chip, at least 0.60 s an update, 5 hours for 29,690. Not run by us:
we have neither such a machine nor the weights, so there is no result to expect.
"""

from __future__ import annotations

import dataclasses

from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.config import TrainConfig

from . import llada_8b_gsm8k

ROWS = "data/opencode_200k.jsonl"


def get_config() -> TrainConfig:
    """Ten epochs of 190,000 rows in batches of 64, full fine-tuning, bfloat16 over float32."""
    data = DataConfig(
        source=ROWS, split="train[:95%]", answer_length=768, max_length=1024, batch_size=64
    )
    return dataclasses.replace(
        llada_8b_gsm8k.get_config(),
        output="runs/llada_8b_opencode",
        steps=29_690,
        data=data,
        validation=dataclasses.replace(data, split="train[95%:]"),
        log_every=50,
        eval_every=500,
        save_every=100,
    )
