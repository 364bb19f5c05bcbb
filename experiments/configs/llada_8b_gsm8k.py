r"""LLaDA-8B-Instruct distilled on GSM8K by the paper's loss and masks (CD4LM, 2601.02236).

    cd4lm distill --config=llada_8b_gsm8k \
        --config.init=DIR --config.teacher=DIR

DIR is a LLaDA-8B-Instruct folder as it comes from its hub.

Rows are in the chat template, with the end of the turn and an EOS tail learned, as the model is
prompted in use; all masked positions of a batch weigh alike, and the warm-up is linear. What was
published differs in these three: llada_8b_paper.py.

Hardware and time, by `cd4lm plan`, loading and evaluation not counted: on one host with eight H100
(--gpus=8 --gpu=h100) 34.5 GiB a chip, at least 0.29 s an update, 5 minutes for 1,050. On 16 chips
of v5e, with --config.data.batch_size=32 --config.optimizer.moments=bfloat16 --config.mesh.fsdp=8
--config.mesh.tensor=2, 0.72 s an update of half the rows, collectives left out
(experiments/results/plan_full_v5e_16.json).

Expected: published of the rows of llada_8b_paper.py, 77.4 % fixed-step accuracy kept at 5.18x the
speed. Not run by us: we have neither such a machine nor the weights.
"""

from __future__ import annotations

from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.models.transformer import Execution
from cd4lm_jax.runtime.mesh import MeshConfig

LLADA = "checkpoints/LLaDA-8B-Instruct"


def get_config() -> TrainConfig:
    """Ten epochs of 6,725 rows in batches of 64, full fine-tuning, bfloat16 over float32."""
    return TrainConfig(
        output="runs/llada_8b_gsm8k",
        steps=1050,
        init=LLADA,
        teacher=LLADA,
        teacher_dtype="bfloat16",
        optimizer=OptimizerConfig(learning_rate=5e-6, warmup_steps=200),
        data=DataConfig(
            source="gsm8k",
            split="train[:90%]",
            answer_length=256,
            max_length=512,
            batch_size=64,
        ),
        validation=DataConfig(
            source="gsm8k",
            split="train[90%:]",
            answer_length=256,
            max_length=512,
            batch_size=64,
        ),
        execution=Execution(dtype="bfloat16", remat="full"),
        mesh=MeshConfig(fsdp=-1),
        patience=15,
    )
