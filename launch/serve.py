"""`cd4lm serve` of a clone: `python -m launch.serve --help`."""

from cd4lm_jax.commands import serve

if __name__ == "__main__":
    serve.run()
