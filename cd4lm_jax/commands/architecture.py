"""The flag of plans and dry runs that names an architecture whose folder is not present."""

from __future__ import annotations

import pathlib

from absl import flags

from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import ModelConfig, dream_7b, llada2_mini, llada_8b, sdar_1_7b

_PRESETS = {
    "llada_8b": llada_8b,
    "dream_7b": dream_7b,
    "sdar_1_7b": sdar_1_7b,
    "llada2_mini": llada2_mini,
}
MODEL = flags.DEFINE_enum(
    "model", None, list(_PRESETS), "Architecture, where the folder of config.init is not present."
)


def chosen(config: TrainConfig) -> ModelConfig:
    """What is trained: the preset that `--model` names, or what the config does.

    Raises:
        ValueError: neither, or a folder that holds no model.
    """
    if MODEL.value is not None:
        return _PRESETS[MODEL.value]()
    if config.model is not None:
        return config.model
    assert config.init is not None  # TrainConfig checks
    if not pathlib.Path(config.init).exists():
        raise ValueError(
            f"config.init={config.init} is not there; give the model's folder, or its architecture "
            f"as --model={' or --model='.join(_PRESETS)}"
        )
    return load_config(config.init)
