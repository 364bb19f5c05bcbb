from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import signal
import textwrap
from collections.abc import Callable, Iterator

import pytest
from absl.testing import flagsaver

from cd4lm_jax.commands import common, convert, distill
from cd4lm_jax.commands.config_files import load_config
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.runtime.cluster import UnreachableError
from cd4lm_jax.runtime.files import InUseError
from cd4lm_jax.runtime.interrupt import Interrupted
from tests.conftest import ROOT


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


BUNDLED = sorted(path.stem for path in (ROOT / "experiments" / "configs").glob("[!_]*.py"))
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
def config_file(tmp_path: pathlib.Path) -> Callable[..., str]:
    def write(body: str, name: str = "small.py") -> str:
        path = tmp_path / name
        path.write_text(f"from {__name__} import Settings, Optimizer\n" + textwrap.dedent(body))
        return str(path)

    return write


CONFIG = """
    def get_config():
        return Settings(steps=3, optimizer=Optimizer(learning_rate=1))
"""


def test_defaults_file_and_overrides(command: Command, config_file: Callable[..., str]) -> None:
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
        (
            "--config=gsm_min",
            "no config 'gsm_min'; did you mean 'gsm_mini'? known: " + ", ".join(BUNDLED),
        ),
        ("--config=elephant", "no config 'elephant'; known: " + ", ".join(BUNDLED)),
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


def test_a_bundled_config_is_found_by_its_name_from_anywhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = load_config("gsm_mini_best", TrainConfig)
    path = ROOT / "experiments" / "configs" / "gsm_mini_best.py"
    assert load_config(str(path), TrainConfig) == named
    assert named.teacher is not None
    assert pathlib.Path(named.teacher).is_dir()


def test_a_config_may_import_others_of_its_folder(
    command: Command, config_file: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "v1.2").mkdir()
    config_file(CONFIG, name="v1.2/base.py")
    changed = """
        import dataclasses
        from . import base

        def get_config():
            return dataclasses.replace(base.get_config(), steps=4)
    """
    assert command(f"--config={config_file(changed, name='v1.2/more.py')}") == (0, "4 1.0\n", "")


def test_missing_config_names_the_nearest(
    command: Command, config_file: Callable[..., str]
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
    command: Command, config_file: Callable[..., str], body: str, message: str
) -> None:
    code, out, err = command(f"--config={config_file(body)}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_settings_without_defaults_need_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
        common.run(lambda config: None, NoDefaults, ["command"])
    assert raised.value.code == 2
    assert (
        "give --config=NAME or --config=FILE.py; names: chat_answers, gsm8k_eval, "
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("gen_length=7 is odd"), 2, "gen_length=7 is odd"),
        (ValueError("first\nsecond"), 2, "first (more with --debug)"),
        (ValueError(), 2, "ValueError"),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "prompts.jsonl"),
            2,
            "prompts.jsonl: No such file or directory",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a.json"),
            1,
            "runs/a.json: No space left on device",
        ),
        (OSError(errno.ENOSPC, "No space left"), 1, f"[Errno {errno.ENOSPC}] No space left"),
        (InUseError("another run works in runs/a"), 1, "another run works in runs/a"),
        (UnreachableError("cannot join a cluster"), 1, "cannot join a cluster"),
    ],
)
def test_user_errors_are_one_line_and_say_whether_to_try_again(
    command: Command, error: Exception, code: int, message: str
) -> None:
    def fail(config: Settings) -> None:
        raise error

    assert command(main=fail) == (code, "", f"error: {message}\n")


def test_debug_shows_the_traceback(command: Command) -> None:
    def fail(config: Settings) -> None:
        raise ValueError("whatever")

    code, _, err = command("--debug", main=fail)
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith("ValueError: whatever\n")


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
    command: Command, config_file: Callable[..., str]
) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "--debug" in out
    assert "  --config.optimizer.learning_rate  float, 0.001" in out
    _, out, _ = command("--help", f"--config={config_file(CONFIG)}")
    assert "  --config.steps  int, 3" in out


@pytest.mark.parametrize(
    ("started", "spelled"),
    [
        ("cd4lm distill", "cd4lm distill"),
        ("/a/clone/launch/distill.py", "python -m launch.distill"),
        ("python -m cd4lm_jax distill", "python -m cd4lm_jax distill"),
    ],
)
def test_help_spells_commands_as_they_were_started(
    started: str, spelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with flagsaver.flagsaver(), pytest.raises(SystemExit):
        common.run(distill.main, TrainConfig, [started, "--help"])
    said = capsys.readouterr().out
    assert f"\n    {spelled} --config=gsm_mini\n" in said
    assert f"\nusage: {spelled} [--FLAG=VALUE ...]\n" in said


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
