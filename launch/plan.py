"""`cd4lm plan` of a clone: `python -m launch.plan --help`."""

from cd4lm_jax.commands import plan

if __name__ == "__main__":
    plan.run()
