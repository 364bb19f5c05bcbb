"""What every command shares: settings from a file, overrides, one-line errors, exit codes.

A command is a module with a docstring, a `main` and

    def run() -> NoReturn:
        common.run(main, TrainConfig)

`--config=NAME` names a config whose `get_config()` returns a `TrainConfig`;
`--config.optimizer.learning_rate=1e-5` sets a field of it. Other options are absl flags, defined
in the command's module.

Exit codes: 0 done, 1 it could not be done and may be tried again (a full disk, a host that died), 2
a setting or an input is wrong, so that another start fails as well, 75 stopped by SIGTERM with what
was done saved (EX_TEMPFAIL, "try again": what a scheduler should requeue on), 130 interrupted by
Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
import re
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from absl import flags

from cd4lm_jax.commands import COMMANDS, config_files
from cd4lm_jax.runtime import cluster, pipes
from cd4lm_jax.runtime.interrupt import Interrupted
from cd4lm_jax.settings.config import describe, override
from cd4lm_jax.settings.flags import help_of, take_dotted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Settings: the name of a bundled config, or a Python file whose get_config() returns them.",
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


class UsageError(ValueError):
    """The command line is wrong."""


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """For a command that has plain flags only."""


def run(
    main: Callable[..., int | None],
    config_class: type[DataclassInstance] = NoSettings,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parses the command line, calls `main` with the settings and exits.

    User errors (ValueError, and OSError such as a full disk or a missing file) end in one line
    on stderr; `--debug` shows where they came from. Anything else is a bug and keeps its
    traceback.

    Args:
        main: the command; what it returns is the exit code, None for 0.
        config_class: what `get_config()` must return and `main` is called with. Without `--config`
          its defaults serve, if every field has one. With `NoSettings`, `main` takes nothing.
        argv: the command line, `sys.argv` when None.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        plain, overrides = _split(argv)
        wants_help = any(arg in ("-h", "--help") for arg in plain)
        _parse_flags([arg for arg in plain if arg not in ("-h", "--help")])
        if wants_help:
            program = _program(argv[0])
            with pipes.quiet():
                print(_spelled(_help(main, config_class, program), program))
            sys.exit(0)
        config = override(_base_config(config_class), overrides)
        arguments = () if isinstance(config, NoSettings) else (config,)
        with pipes.quiet():
            code = main(*arguments)
        sys.exit(code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        cluster.leave(130)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except (ValueError, OSError) as error:
        if flags.FLAGS.is_parsed() and _DEBUG.value:
            traceback.print_exc()
        else:
            print(f"error: {_one_line(error)}", file=sys.stderr)
        cluster.leave(_exit_code(error))


def restart_with(environment: Mapping[str, str]) -> None:
    """Starts the command anew where these variables are not set: jax reads them only once."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **environment})


def given(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that has no default.

    Raises:
        UsageError: it was not given.
    """
    if flag.value is None:
        raise UsageError(f"give --{flag.name}; --help says what it is")
    return flag.value


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes the `--config.NAME=VALUE` arguments out of a command line."""
    plain, overrides = [], {}
    for argument in take_dotted(argv):
        match = re.fullmatch(r"--?config\.([^=]*)(=?)(.*)", argument, re.DOTALL)
        if match is None:
            plain.append(argument)
        elif not match[2]:
            raise UsageError(f"{argument} has no value; write {argument}=VALUE")
        else:
            overrides[match[1]] = match[3]
    return plain, overrides


def _parse_flags(argv: list[str]) -> None:
    try:
        extra = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        raise UsageError(f"{str(error).rstrip('.')}; --help lists the flags") from None
    if extra:
        raise UsageError(f"unexpected argument {extra[0]!r}; flags look like --name=value")


def _base_config(config_class: type[C]) -> C:
    if _CONFIG.value is not None:
        return config_files.load_config(_CONFIG.value, config_class)
    try:
        return config_class()
    except TypeError:
        known = ", ".join(config_files.names())
        raise UsageError(f"give --config=NAME or --config=FILE.py; names: {known}") from None


def _exit_code(error: ValueError | OSError) -> int:
    """2 where a setting or an input must be corrected, 1 where another start may succeed."""
    wrong_input = isinstance(error, ValueError | FileNotFoundError | NotADirectoryError)
    return int(getattr(error, "exit_code", 2 if wrong_input else 1))


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines) == 1 else f"{lines[0]} (more with --debug)"


def _shared_modules(module: types.ModuleType) -> list[str]:
    """The modules of this package that a command imports, directly or not."""
    names: list[str] = []
    waiting = [module]
    while waiting:
        for used in vars(waiting.pop(0)).values():
            name = used.__name__ if inspect.ismodule(used) else ""
            if name.startswith(f"{__package__}.") and name not in (__name__, *names):
                names.append(name)
                waiting.append(used)
    return names


def _program(argument: str) -> str:
    """What the user typed: `cd4lm NAME`, or in a clone `python -m launch.NAME`."""
    script = pathlib.Path(argument)
    return f"python -m launch.{script.stem}" if script.suffix == ".py" else argument


def _spelled(text: str, program: str) -> str:
    """Help, which writes commands as `cd4lm NAME`, with them as this user types them."""
    start = re.sub(r"\w+$", "", program) or "cd4lm "
    return re.sub(rf"\bcd4lm ({'|'.join(COMMANDS)})\b", rf"{start}\1", text)


def _help(main: Callable[..., Any], config_class: type[DataclassInstance], program: str) -> str:
    module = sys.modules[main.__module__]
    by_module = flags.FLAGS.flags_by_module_dict()
    names = [module.__name__, *_shared_modules(module), __name__]
    own = {flag.name: flag for name in names for flag in by_module.get(name, [])}
    if config_class is NoSettings:
        del own[_CONFIG.name]
    lines = [
        inspect.cleandoc(module.__doc__ or ""),
        "",
        f"usage: {program} [--FLAG=VALUE ...]",
        "",
        "flags:",
    ]
    for flag in own.values():
        default = "" if flag.default in (None, False) else f" (default {flag.default})"
        text = textwrap.wrap(f"{flag.help}{default}", 72)
        lines += [f"  --{flag.name}", *(f"      {line}" for line in text)]
    for name, line in (entry for module in names for entry in help_of(module).items()):
        lines += [f"  --{name}", *(f"      {text}" for text in textwrap.wrap(line, 72))]
    if config_class is NoSettings:
        return "\n".join(lines)
    values = "with their defaults" if _CONFIG.value is None else f"as {_CONFIG.value} has them"
    config = None if _CONFIG.value is None else _base_config(config_class)
    given_class = config_class if config is None else type(config)  # may be a kind of it
    lines += ["", f"settings ({given_class.__name__}), each as --config.NAME=VALUE; {values}:"]
    for name, kind, value in describe(given_class, config):
        line = f"  --{name}  {kind}" + ("" if value is ... else f", {value!r}")
        lines += textwrap.wrap(line, 100, subsequent_indent=" " * 6, break_on_hyphens=False)
    return "\n".join(lines)
