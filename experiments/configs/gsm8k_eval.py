r"""GSM8K under the settings that CD4LM published, or LLaDA's own.

    cd4lm evaluate --config=gsm8k_eval \
        --config.model=DIR

DIR is a LLaDA-8B-Instruct folder, or a student's. Without a source TFDS's own prepared files are
read; --config.source=PATH names a JSONL file instead. Published: 77.4 % at one token a pass and
block length 32, kept by CD4LM's student at 5.18x the speed; under LLaDA's own settings
(--config.setting=llada, block length 8) 78.6 %. Not run by us: we do not have the weights.
"""

from __future__ import annotations

from cd4lm_jax.evaluation.benchmark import BenchmarkConfig
from cd4lm_jax.models.placement import Placement


def get_config() -> BenchmarkConfig:
    """CD4LM's settings: 256 positions in blocks of 32, CAD at 0.95, EOS gate 0.3."""
    return BenchmarkConfig(
        output="runs/gsm8k",
        model="checkpoints/LLaDA-8B-Instruct",
        task="gsm8k",
        setting="cd4lm",
        placement=Placement(dtype="bfloat16"),
    )
