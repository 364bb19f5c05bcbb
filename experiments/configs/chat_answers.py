r"""LLaDA-8B-Instruct's own answers to chats: what a student of it is best distilled on.

    cd4lm answer --config=chat_answers \
        --config.model=DIR --config.source=chats.jsonl

DIR is a LLaDA-8B-Instruct folder as it comes from its hub; chats.jsonl has rows of any form that
docs/training.md names. Every place where the assistant speaks is a question. Kept are answers that
end and whose tokens were committed with a mean probability of at least 0.9. The next step is
llada_8b_answers.py or llada_8b_on_policy.py.

Hardware: one GPU of 24 GB with --quantize=int8. Not run by us on LLaDA-8B: we do not have the
weights. With the bundled teacher docs/distil_your_own.md does the same in a minute.
"""

from __future__ import annotations

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation.answers import AnswersConfig
from cd4lm_jax.evaluation.keeping import Confident

from .llada_8b_gsm8k import LLADA

OUTPUT = "runs/answers"


def get_config() -> AnswersConfig:
    """CAD at 0.9, answers of up to 256 tokens, a chunk on the disk every 64 questions."""
    return AnswersConfig(
        output=OUTPUT,
        model=LLADA,
        source="chats.jsonl",
        splits=("train",),
        keep=Confident(least=0.9),
        decode=DecodeConfig(
            rule=ConfidenceAdaptive(threshold=0.9),
            gen_length=256,
            block_length=32,
            batch_size=8,
        ),
        chunk=64,
    )
