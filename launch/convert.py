"""`cd4lm convert` of a clone: `python -m launch.convert --help`."""

from cd4lm_jax.commands import convert

if __name__ == "__main__":
    convert.run()
