"""Benchmarks as tasks: where their problems come from, what a model is asked, and who judges."""
