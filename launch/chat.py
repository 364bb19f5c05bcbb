"""`cd4lm chat` of a clone: `python -m launch.chat --help`."""

from cd4lm_jax.commands import chat

if __name__ == "__main__":
    chat.run()
