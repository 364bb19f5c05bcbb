"""The bundled teacher of gsm_mini, trained from scratch: 50 minutes on two busy cores.

    cd4lm pretrain --config=gsm_mini_teacher

Validation loss 0.0444 at step 3,250, after which it no longer falls; of 200 validation problems
99.5 % are then right at one token a pass, 99.5 % under CAD at 0.9.
"""

from __future__ import annotations

from cd4lm_jax.corruption.masking import DiffusionMasks
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.models.config import gsm_mini
from cd4lm_jax.models.transformer import Execution


def get_config() -> TrainConfig:
    """Masked-diffusion training from scratch on the pretrain split."""
    tokenizer = vocabulary.load()
    return TrainConfig(
        output="runs/gsm_mini_teacher",
        steps=3500,
        model=gsm_mini(
            vocab_size=512,
            mask_id=tokenizer.mask_id,
            eos_id=tokenizer.eos_id,
            eot_id=tokenizer.eot_id,
        ),
        tokenizer=str(vocabulary.FOLDER),
        # Mostly LLaDA's own noise. A share of the states that block decoding visits, in which all
        # before a position is known and nothing after it, helps a small model to learn order.
        corruption=DiffusionMasks(blockwise=0.2, weighting="mean"),
        optimizer=OptimizerConfig(
            algorithm="muon", learning_rate=3e-3, warmup_steps=100, decay_share=0.6, b2=0.98
        ),
        data=DataConfig(source="gsm_mini/full", split="pretrain", batch_size=64),
        validation=DataConfig(source="gsm_mini/full", split="validation", batch_size=250),
        execution=Execution(scan_layers=False),
        log_every=50,
        eval_every=250,
    )
