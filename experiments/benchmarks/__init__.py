"""One command a measurement; each prints a table and writes experiments/results/NAME.json."""
