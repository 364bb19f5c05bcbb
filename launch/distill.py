"""`cd4lm distill` of a clone: `python -m launch.distill --help`."""

from cd4lm_jax.commands import distill

if __name__ == "__main__":
    distill.run()
