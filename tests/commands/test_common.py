from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator

import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, convert, distill
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.runtime.interrupt import Interrupted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = 10
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoDefaults:
    steps: int


Main = Callable[[Settings], int | None]
Command = Callable[..., tuple[int, str, str]]


def show(config: Settings) -> None:
    """What the commands below do."""
    print(config.steps, config.optimizer.learning_rate)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs a command in this process: exit code, stdout, stderr."""

    def call(*arguments: str, main: Main = show) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as raised:
            common.run(main, Settings, ["command", *arguments])
        out, err = capsys.readouterr()
        return int(raised.value.code or 0), out, err

    with flagsaver.flagsaver():
        yield call


@pytest.fixture
def config_file(tmp_path: pathlib.Path) -> Callable[[str], str]:
    def write(body: str, name: str = "small.py") -> str:
        path = tmp_path / name
        path.write_text(f"from {__name__} import Settings, Optimizer\n" + textwrap.dedent(body))
        return str(path)

    return write


CONFIG = """
    def get_config():
        return Settings(steps=3, optimizer=Optimizer(learning_rate=1))
"""


def test_defaults_file_and_overrides(command: Command, config_file: Callable[[str], str]) -> None:
    assert command() == (0, "10 0.001\n", "")
    path = config_file(CONFIG)
    assert command(f"--config={path}") == (0, "3 1.0\n", "")
    overrides = ("--config.optimizer.learning_rate=1e-5", "--config.steps=7")
    assert command(f"--config={path}", *overrides) == (0, "7 1e-05\n", "")
    assert command(f"--config={path}", *overrides, "--config.steps=8") == (0, "8 1e-05\n", "")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.stps=1", "no field 'stps' in config; did you mean 'steps'?"),
        (
            "--config.optimizer.learning_rte=1",
            "no field 'learning_rte' in config.optimizer; did you mean 'learning_rate'?",
        ),
        ("--config.steps=many", "config.steps: expected int, got 'many'"),
        ("--config.steps", "--config.steps has no value; write --config.steps=VALUE"),
        ("--bogus=1", "Unknown command line flag 'bogus'; --help lists the flags"),
        ("word", "unexpected argument 'word'; flags look like --name=value"),
        ("--config=no/such.py", "no config file 'no/such.py'"),
        ("--config=README.md", "no config file 'README.md'"),
    ],
)
def test_wrong_command_line_is_one_line_and_exit_code_2(
    command: Command,
    argument: str,
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(argument) == (2, "", f"error: {message}\n")


def test_missing_config_names_the_nearest(
    command: Command, config_file: Callable[[str], str]
) -> None:
    path = config_file(CONFIG)
    code, _, err = command(f"--config={path.replace('small', 'smal')}")
    assert code == 2
    assert err.endswith("did you mean 'small.py'?\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config():\n    return Settings(stps=3)", "line 3: TypeError: "),
        ("1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("def get_config(:", "SyntaxError: "),
        ("", "has no get_config(); add one that returns the settings"),
        ("def get_config():\n    return {}", "returns dict, this command needs Settings"),
        (
            "def get_config():\n    return Settings(steps='3')",
            "error: config.steps: expected int, got '3'",
        ),
    ],
)
def test_config_file_that_fails_is_one_line(
    command: Command, config_file: Callable[[str], str], body: str, message: str
) -> None:
    code, out, err = command(f"--config={config_file(body)}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_settings_without_defaults_need_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(lambda config: None, NoDefaults, ["command"])
    assert raised.value.code == 2
    assert "give --config=FILE.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("gen_length=7 is odd"), "gen_length=7 is odd"),
        (ValueError("first\nsecond"), "first (more with --debug)"),
        (ValueError(), "ValueError"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a.json"),
            "runs/a.json: No space left on device",
        ),
        (OSError(errno.ENOSPC, "No space left"), f"[Errno {errno.ENOSPC}] No space left"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_1(
    command: Command, error: Exception, message: str
) -> None:
    def fail(config: Settings) -> None:
        raise error

    assert command(main=fail) == (1, "", f"error: {message}\n")


def test_debug_shows_the_traceback(command: Command) -> None:
    def fail(config: Settings) -> None:
        raise ValueError("told")

    code, _, err = command("--debug", main=fail)
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith("ValueError: told\n")


def test_bugs_keep_their_traceback() -> None:
    def fail(config: Settings) -> None:
        raise ZeroDivisionError

    with flagsaver.flagsaver(), pytest.raises(ZeroDivisionError):
        common.run(fail, Settings, ["command"])


def test_exit_codes_of_main_and_of_ctrl_c(command: Command) -> None:
    def interrupted(config: Settings) -> None:
        raise KeyboardInterrupt

    assert command(main=lambda config: 75)[0] == 75
    assert command(main=interrupted) == (130, "", "interrupted\n")


def test_help_has_description_flags_and_settings(
    command: Command, config_file: Callable[[str], str]
) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "--debug" in out
    assert "  --config.optimizer.learning_rate  float, 0.001" in out
    _, out, _ = command("--help", f"--config={config_file(CONFIG)}")
    assert "  --config.steps  int, 3" in out


TOOL = '''
"""Counts to a number."""

import dataclasses

from absl import flags

from cd4lm_jax.commands import common

_WORD = flags.DEFINE_string("word", "hip", "What to say.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolConfig:
    count: int


def main(config: ToolConfig) -> None:
    print(_WORD.value * config.count)


if __name__ == "__main__":
    common.run(main, ToolConfig)
'''

AS_MODULE = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1));"
    "runpy.run_module('tool', run_name='__main__', alter_sys=True)"
)


@pytest.mark.slow
def test_module_run_as_main_shares_its_classes_with_config_files(
    tmp_path: pathlib.Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "tool.py").write_text(TOOL)
    config = tmp_path / "three.py"
    config.write_text("import tool\ndef get_config(): return tool.ToolConfig(count=3)\n")
    done = run_python("-c", AS_MODULE, str(tmp_path), f"--config={config}", "--word=hey")
    assert (done.returncode, done.stdout, done.stderr) == (0, "heyheyhey\n", "")
    done = run_python("-c", AS_MODULE, str(tmp_path), "--help")
    assert done.stdout.startswith("Counts to a number.\n\nusage: python -m tool ")
    assert "  --word\n      What to say. (default hip)" in done.stdout
    assert "  --config.count  int" in done.stdout


def test_a_run_that_saved_and_stopped_has_its_own_code(command: Command) -> None:
    def stop(config: Settings) -> None:
        raise Interrupted(signal.SIGTERM, "stopped after step 3 of 10 and saved")

    code, out, err = command(main=stop)
    assert (code, out) == (75, "")
    assert err == "SIGTERM: stopped after step 3 of 10 and saved\n"


def test_help_shows_the_flags_of_what_a_command_uses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, config_class, shown, hidden in (
        (distill, TrainConfig, ("--dry_run", "--host_timeout", "--model", "--config\n"), "--gpus"),
        (convert, common.NoSettings, ("--source", "--debug"), "--config"),
    ):
        with flagsaver.flagsaver(), pytest.raises(SystemExit):
            common.run(command.main, config_class, ["command", "--help"])
        said = capsys.readouterr().out
        assert all(flag in said for flag in shown)
        assert hidden not in said
        assert max(map(len, said.splitlines())) <= 100
