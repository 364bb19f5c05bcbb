"""Results of an evaluation for people.

The table and its columns, pictures of accuracy against speed, and two self-contained pages: the
report of one evaluation and the frontier of several.
"""
