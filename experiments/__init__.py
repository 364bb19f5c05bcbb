"""What was tried: configs, benchmarks and their results."""
