"""The command `cd4lm NAME [--FLAG=VALUE ...]`, also `python -m cd4lm_jax NAME ...`."""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys

import cd4lm_jax
from cd4lm_jax.commands import COMMANDS
from cd4lm_jax.runtime import pipes


def main(program: str = "cd4lm") -> None:
    """Runs the command that the command line names.

    Args:
        program: what the user typed to get here, for usage lines.
    """
    match sys.argv[1:]:
        case [] | ["help" | "-h" | "--help"]:
            with pipes.quiet():
                print(overview(program))
        case ["--version"]:
            print(f"cd4lm_jax {cd4lm_jax.__version__}")
        case [name, *arguments] if name in COMMANDS:
            sys.argv = [f"{program} {name}", *arguments]
            importlib.import_module(f"cd4lm_jax.commands.{name}").run()
        case [name, *_]:
            from cd4lm_jax.settings.choices import nearest  # only here: `--help` should be fast

            print(f"error: no command {name!r}; {nearest(name, list(COMMANDS))}", file=sys.stderr)
            sys.exit(2)


def overview(program: str) -> str:
    """The commands, each with the first line of its docstring; imports none of them."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "Distil masked-diffusion language models (DSCD) and decode them adaptively (CAD).",
            "",
            f"usage: {program} COMMAND [--FLAG=VALUE ...]",
            "",
            "commands:",
            *(f"  {name:{width}}  {_first_line(name)}" for name in COMMANDS),
            "",
            f"{program} COMMAND --help lists the flags and settings of a command;",
            f"{program} --version prints the version.",
        ]
    )


def _first_line(command: str) -> str:
    source = pathlib.Path(__file__).parent / "commands" / f"{command}.py"
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main("python -m cd4lm_jax")
