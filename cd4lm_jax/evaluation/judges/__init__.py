"""What decides whether an output is right: exact numbers, formulas, and code run by its tests.

Code that nobody has read runs in a sandbox of Linux namespaces, apart from the tests that judge it.
"""
