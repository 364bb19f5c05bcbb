"""Settings from Python files: `--config=NAME` of those that are bundled, or `--config=FILE.py`."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import traceback
import types
import zlib
from typing import TYPE_CHECKING, TypeVar

from cd4lm_jax import bundled
from cd4lm_jax.settings.choices import ConfigError, nearest
from cd4lm_jax.settings.config import validate

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


def names() -> list[str]:
    """The bundled configs."""
    return _configs_in(pathlib.Path(bundled.configs()))


def load_config(given: str, config_class: type[C]) -> C:
    """The settings that `get_config()` of a Python file returns, checked.

    The file may import others of its folder: `from . import gsm_mini`.

    Args:
        given: name of a bundled config, such as `gsm_mini`, or the path of a Python file.
        config_class: what `get_config()` must return.

    Raises:
        ConfigError: no such config, it fails, or it returns something else.
    """
    file = find(given)
    try:
        module = _run(file)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{given} has no get_config(); add one that returns the settings")
        config = module.get_config()
    except ConfigError:
        raise
    except Exception as error:
        # The user can correct the last line of the file that was reached.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if pathlib.Path(f.filename) == file.absolute()]
        at = f"{given}, line {lines[-1]}" if lines else given
        raise ConfigError(f"{at}: {type(error).__name__}: {error}") from error
    if not isinstance(config, config_class):
        got, want = type(config).__name__, config_class.__name__
        raise ConfigError(f"get_config() of {given} returns {got}, this command needs {want}")
    return validate(config)


def find(given: str) -> pathlib.Path:
    """The file of a config.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    file = pathlib.Path(given)
    if len(file.parts) == 1 and not file.suffix:
        known = pathlib.Path(bundled.configs(), f"{given}.py")
        if known.is_file():
            return known
        hint = nearest(given, names())
        if hint.endswith("?"):
            hint += f" known: {', '.join(names())}"
        raise ConfigError(f"no config {given!r}; {hint}")
    if not file.is_file():
        others = [f"{name}.py" for name in _configs_in(file.parent)]
        hint = f"; in {file.parent}: {nearest(file.name, others)}" if others else ""
        raise ConfigError(f"no config file {given!r}{hint}")
    if file.suffix != ".py":
        raise ConfigError(f"{given!r} is not a Python file; a config is one with get_config()")
    return file


def _configs_in(folder: pathlib.Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def _run(file: pathlib.Path) -> types.ModuleType:
    """Runs a file as a module of the package that its folder makes, `__init__.py` or not."""
    folder = str(file.absolute().parent)
    package = types.ModuleType(f"_configs_{zlib.crc32(folder.encode()):08x}")
    package.__path__ = [folder]
    sys.modules.setdefault(package.__name__, package)
    spec = importlib.util.spec_from_file_location(f"{package.__name__}.{file.stem}", file)
    assert spec is not None  # for a .py file there is one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
