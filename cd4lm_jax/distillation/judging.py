"""Whether a decoded answer is right, while a model is trained.

A judge maps the texts of answers and of references, both `[N]`, to bool `[N]`. A run's settings
name it. The judges of benchmarks belong to evaluation, which imports this room; so they are
imported by name, when they are used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from cd4lm_jax.settings.choices import nearest

Judge = Callable[[Sequence[str], Sequence[str]], npt.NDArray[np.bool_]]

AGREEMENT = "agreement"
_NAMED: Mapping[str, str] = MappingProxyType(
    {"number": "cd4lm_jax.evaluation.judges.numbers:score"}
)


def judge(name: str) -> Judge | None:
    """The judge of a name; None for agreement, which compares tokens and needs no text.

    Args:
        name: `agreement`, `number`, or `MODULE:FUNCTION`.

    Raises:
        ValueError: no such judge.
    """
    if name == AGREEMENT:
        return None
    module, colon, function = _NAMED.get(name, name).partition(":")
    known = [AGREEMENT, *_NAMED]
    if not colon:
        raise ValueError(f"judge={name!r}: {nearest(name, known)}, or MODULE:FUNCTION")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"judge={name!r} cannot be imported ({error})") from None
    if not callable(found):
        raise ValueError(f"judge={name!r} is no function; give one of answers and references")
    return found
