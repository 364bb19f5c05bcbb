"""What a decode was worth: scoring, speed, frontiers and the report that shows them.

Import the modules themselves; only `report` (and `plots` under it) loads matplotlib.
"""
