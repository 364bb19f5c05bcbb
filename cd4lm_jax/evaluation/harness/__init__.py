"""Models of this project in lm-evaluation-harness: generation and likelihoods by its own tasks."""
