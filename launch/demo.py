"""`cd4lm demo` of a clone: `python -m launch.demo --help`."""

from cd4lm_jax.commands import demo

if __name__ == "__main__":
    demo.run()
