"""The commands of `cd4lm`, one module each: its docstring is the help, its `run()` the command.

The other modules here are what several commands share.
"""

COMMANDS = (
    "demo",
    "decode",
    "chat",
    "serve",
    "distill",
    "pretrain",
    "answer",
    "evaluate",
    "compare",
    "frontier",
    "lm_eval",
    "convert",
    "plan",
)
"""In the order of `cd4lm --help`."""
