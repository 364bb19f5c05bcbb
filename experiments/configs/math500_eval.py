r"""MATH-500 under the settings that CD4LM published, or LLaDA's own.

    cd4lm evaluate --config=math500_eval \
        --config.model=DIR --config.source=PATH

DIR is a LLaDA-8B-Instruct folder, or a student's; PATH a .json or .jsonl file of the 500 problems
(problem, solution, answer). LLaDA's own settings (--config.setting=llada) have blocks of 64, with
which it reports 42.2 % on all of MATH. Not run by us with LLaDA-8B: we do not have the weights.
"""

from __future__ import annotations

from cd4lm_jax.evaluation.benchmark import BenchmarkConfig
from cd4lm_jax.models.placement import Placement


def get_config() -> BenchmarkConfig:
    """CD4LM's settings: 512 positions in blocks of 32, CAD at 0.95, EOS gate 0.3."""
    return BenchmarkConfig(
        output="runs/math500",
        model="checkpoints/LLaDA-8B-Instruct",
        task="math500",
        setting="cd4lm",
        placement=Placement(dtype="bfloat16"),
    )
