"""Replays of finished decodes, pass by pass.

The data of a replay is prepared in one place and drawn by one script on every page, and by rich on
the terminal.
"""
