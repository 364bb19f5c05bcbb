"""Runs: one model decoding one set of problems under one commit rule.

A run is kept as it goes (journal), continues after an interruption, and is measured in one place
(speed).
"""
