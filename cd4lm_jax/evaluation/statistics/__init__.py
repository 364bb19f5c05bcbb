"""How far a number could have been off, whether two runs differ, and what accuracy costs in passes.

numpy alone: whatever is measured goes in as arrays.
"""
