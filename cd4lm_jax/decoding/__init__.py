"""Decoding: its description, commit rules, the compiled loop, caches, and what it records."""
