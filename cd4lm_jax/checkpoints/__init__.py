"""Models and training runs on disk.

Folders of this project and of Hugging Face, conversion between them, and the checkpoints of runs.
"""
