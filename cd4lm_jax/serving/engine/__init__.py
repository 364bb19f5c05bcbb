"""The engine: requests are rows that enter and leave lanes between segments of a few passes."""
