"""Evaluation: tasks, judges, runs, statistics, and the report.

Import the modules themselves; only `report` (and `plots` under it) loads matplotlib.
"""
