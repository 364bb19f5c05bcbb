"""`cd4lm lm_eval` of a clone: `python -m launch.lm_eval --help`."""

from cd4lm_jax.commands import lm_eval

if __name__ == "__main__":
    lm_eval.run()
