"""`cd4lm pretrain` of a clone: `python -m launch.pretrain --help`."""

from cd4lm_jax.commands import pretrain

if __name__ == "__main__":
    pretrain.run()
