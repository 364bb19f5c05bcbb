"""Devices and files: meshes, clusters, files, metrics, progress and interrupts.

Imports with jax and orbax alone; what a bare accelerator image lacks (rich, tensorboardX) is
imported where it is used.
"""
