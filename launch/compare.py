"""`cd4lm compare` of a clone: `python -m launch.compare --help`."""

from cd4lm_jax.commands import compare

if __name__ == "__main__":
    compare.run()
