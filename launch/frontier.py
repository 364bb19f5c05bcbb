"""`cd4lm frontier` of a clone: `python -m launch.frontier --help`."""

from cd4lm_jax.commands import frontier

if __name__ == "__main__":
    frontier.run()
