"""Where it runs: files, configs, meshes, checkpoints, metrics and progress.

Imports with jax and orbax alone; what a bare accelerator image lacks (rich, tensorboardX) is
imported where it is used.
"""
