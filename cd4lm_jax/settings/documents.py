"""What docstrings say of a dataclass's fields, for help and flags."""

from __future__ import annotations

import inspect
import re


def field_lines(cls: type) -> dict[str, str]:
    """Each field's text in the `Attributes` section of a class's docstring, on one line.

    Fields of a base class that the docstring does not name are taken from the base's.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, heading, section = doc.partition("\nAttributes:\n")
        section = re.split(r"\n(?=\S)", section)[0] if heading else ""
        for entry in re.split(r"\n(?=(?: {4}| {2})\w)", f"\n{section}"):
            names, colon, text = entry.strip().partition(": ")
            if colon:
                line = " ".join(text.split())
                found |= dict.fromkeys((name.strip() for name in names.split(",")), line)
    return found
