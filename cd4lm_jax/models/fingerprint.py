"""What identifies a model in saved results."""

from __future__ import annotations

import dataclasses

from cd4lm_jax.models import stacks
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime import checksums
from cd4lm_jax.settings.config import to_plain


def fingerprint(model: Transformer) -> str:
    """SHA-256, in hexadecimal, of a model's architecture and parameters.

    It is the same on any mesh and however the model runs, and another one if any field of the
    config or any bit of a parameter differs, the dtype of the parameters included. Fields at their
    defaults are left out, so that a field added later leaves the fingerprints of earlier models. It
    takes a second or so a gibibyte.
    """
    plain, fields = to_plain(model.config), dataclasses.fields(model.config)
    changed = [field.name for field in fields if getattr(model.config, field.name) != field.default]
    described = {name: plain[name] for name in changed}
    return checksums.fingerprint(described, stacks.named_stacks(model))
