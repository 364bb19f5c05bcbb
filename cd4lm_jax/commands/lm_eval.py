r"""The command of lm-evaluation-harness, with this project's models under the name cd4lm.

    cd4lm lm_eval --model cd4lm \
        --model_args pretrained=experiments/checkpoints/gsm_mini_teacher,gen_length=64 \
        --include_path FOLDER --tasks NAME

All arguments are those of `lm_eval`. `--model_args` and `--gen_kwargs` set fields of
`cd4lm_jax.DecodeConfig` by name, such as rule=factor(factor=1.0) or
rule=my_rule.py:Half(share=0.5); `threshold` is short for the confidence rule's, 0 for the baseline
of one token a pass. `--model_args` also takes mc_num and seed, and how the model runs: dtype,
quantize, mesh_data, mesh_fsdp, mesh_tensor. A value with a comma in it needs the JSON form of
`--model_args`. Tasks of a folder of YAML files need no network.
"""

from __future__ import annotations

import importlib.util
import sys


def run() -> None:
    """Runs lm-evaluation-harness with the model registered."""
    if importlib.util.find_spec("lm_eval") is None:
        print("error: lm-eval is not installed; pip install 'cd4lm_jax[eval]'", file=sys.stderr)
        sys.exit(1)
    from lm_eval.__main__ import cli_evaluate

    import cd4lm_jax.evaluation.harness.adapter  # noqa: F401  (registers the name)
    from cd4lm_jax.commands import compilation

    compilation.keep()
    cli_evaluate()
