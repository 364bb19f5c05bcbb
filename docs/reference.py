"""Writes the API reference from the docstrings; a warning is an error.

python -m docs.reference FOLDER
"""

from __future__ import annotations

import pathlib
import pkgutil
import sys
import warnings

import pdoc
import pdoc.render

import cd4lm_jax


def main(folder: str) -> None:
    """The front page is what `cd4lm_jax` exports; then comes a page for every module."""
    modules = [f"cd4lm_jax.{found.name}" for found in pkgutil.iter_modules(cd4lm_jax.__path__)]
    for name in cd4lm_jax.__all__:  # pdoc finds what is imported already
        setattr(cd4lm_jax, name, getattr(cd4lm_jax, name))
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        # pdoc evaluates annotations to link what they name. What only a type checker knows, or
        # typing generated (a NamedTuple's constructor, a TypedDict's inherited field), it shows as
        # it is written.
        for reason in (
            "Error parsing type annotation",
            "Failed to run TYPE_CHECKING",
            "Cannot determine where .* is taken from",
        ):
            warnings.filterwarnings("ignore", reason)
        pdoc.pdoc("cd4lm_jax", *modules, output_directory=pathlib.Path(folder))
    print(f"{folder}/index.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
