"""Distil masked-diffusion language models (DSCD) and decode them adaptively (CAD), in JAX.

```python
import cd4lm_jax as cd

model = cd.load(cd.bundled.teacher())  # or a folder of your own
out = cd.decode(model, ["Amy has 5 pens. She buys 3. How many pens now?"],
                rule=cd.ConfidenceAdaptive(threshold=0.9), gen_length=64, block_length=32)
print(out.text[0], out.nfe[0])
```
"""

from etils import epy as _epy

__version__ = "0.1.0"

# A name is imported when it is first used: `cd4lm --help` does not wait for jax.
with _epy.lazy_api_imports(globals()):
    from cd4lm_jax import bundled as bundled
    from cd4lm_jax.decoding.batching import Update
    from cd4lm_jax.decoding.config import DecodeConfig
    from cd4lm_jax.decoding.reason import Reason
    from cd4lm_jax.decoding.rule import CommitRule, Proposal, rule
    from cd4lm_jax.decoding.rules import (
        ConfidenceAdaptive,
        EntropyBounded,
        Factor,
        FixedStep,
        Margin,
        NegativeEntropy,
        RandomStep,
    )
    from cd4lm_jax.decoding.schedules import BlockDiffusion, DreamSchedule
    from cd4lm_jax.decoding.trajectory import Trajectory
    from cd4lm_jax.language_model import Decoded, LanguageModel, decode, decode_stream, load
    from cd4lm_jax.models.placement import Placement
    from cd4lm_jax.runtime.mesh import MeshConfig

__all__ = [
    "BlockDiffusion",
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
    "MeshConfig",
    "NegativeEntropy",
    "Placement",
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
