"""`cd4lm decode` of a clone: `python -m launch.decode --help`."""

from cd4lm_jax.commands import decode

if __name__ == "__main__":
    decode.run()
