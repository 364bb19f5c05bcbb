"""What identifies a model in saved results."""

from __future__ import annotations

from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime import checksums
from cd4lm_jax.settings.config import to_plain


def fingerprint(model: Transformer) -> str:
    """SHA-256, in hexadecimal, of a model's architecture and parameters.

    It is the same on any mesh and however the model runs, and another one if any field of the
    config or any bit of a parameter differs, the dtype of the parameters included. It takes a
    second or so a gibibyte.
    """
    return checksums.fingerprint(to_plain(model.config), model)
