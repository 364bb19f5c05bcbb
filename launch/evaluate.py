"""`cd4lm evaluate` of a clone: `python -m launch.evaluate --help`."""

from cd4lm_jax.commands import evaluate

if __name__ == "__main__":
    evaluate.run()
