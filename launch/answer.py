"""`cd4lm answer` of a clone: `python -m launch.answer --help`."""

from cd4lm_jax.commands import answer

if __name__ == "__main__":
    answer.run()
