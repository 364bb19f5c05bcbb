"""Distil masked-diffusion language models (DSCD) and decode them adaptively (CAD), in JAX.

```python
import cd4lm_jax as cd

model = cd.load("experiments/checkpoints/gsm_mini_teacher")
out = cd.decode(model, ["Amy has 5 pens. She buys 3. How many pens now?"],
                rule=cd.ConfidenceAdaptive(threshold=0.9), gen_length=64, block_length=32)
print(out.text[0], out.nfe[0])
```
"""

from cd4lm_jax.decoding.batching import Update
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rule import CommitRule, Proposal, rule
from cd4lm_jax.decoding.rules import (
    ConfidenceAdaptive,
    DreamSchedule,
    EntropyBounded,
    Factor,
    FixedStep,
    Margin,
    NegativeEntropy,
    RandomStep,
)
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.language_model import Decoded, LanguageModel, decode, decode_stream, load

__all__ = [
    "CommitRule",
    "ConfidenceAdaptive",
    "DecodeConfig",
    "Decoded",
    "DreamSchedule",
    "EntropyBounded",
    "Factor",
    "FixedStep",
    "LanguageModel",
    "Margin",
    "NegativeEntropy",
    "Proposal",
    "RandomStep",
    "Reason",
    "Trajectory",
    "Update",
    "decode",
    "decode_stream",
    "load",
    "rule",
]
