"""What all tests share."""

from __future__ import annotations

import os

# Before anything imports jax. `JAX_PLATFORMS=cuda make test` runs the suite on a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CD4LM_COMPILATION_CACHE", "off")  # nothing in the user's home

import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import hypothesis
import pytest

# How long an example takes says more about the machine than about the code, hence no deadline.
# `make test` draws the same examples on every machine; `make test-random` draws new ones.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("random", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("fixed")

SLOW_SECONDS = 5.0
"""CPU time, with that of the processes it started, from which a test is to be marked slow."""

_STARTED = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_STARTED] = _cpu_seconds()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    started = item.stash.get(_STARTED, _cpu_seconds())
    item.user_properties.append(("cpu_seconds", _cpu_seconds() - started))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names tests that `make test-fast` should leave out and does not, for want of a mark."""
    slow: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
                seconds = dict(report.user_properties).get("cpu_seconds", 0.0)
                if isinstance(seconds, float) and seconds > SLOW_SECONDS:
                    slow[report.nodeid] = seconds
    if slow:
        terminalreporter.section(f"above {SLOW_SECONDS:g} s of CPU and not marked slow")
    for test in sorted(slow, key=slow.__getitem__, reverse=True):
        terminalreporter.line(f"{slow[test]:6.1f} s  {test}")


ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
BENCHMARKS = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """What the published code computed; see tests/golden/README.md."""
    return GOLDEN


@pytest.fixture(scope="session")
def benchmark_data() -> pathlib.Path:
    """Files of GSM8K, MATH-500 and MBPP; they lie beside the repository, not in it."""
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks' files are not beside this repository (../shared/data)")
    return BENCHMARKS


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every run jits its update anew; equal programs of a module share what XLA made of one."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python ARGUMENTS...` in the repository with a number of virtual CPU devices.

    For what a process can only settle once: how many devices it has, how it exits.
    """

    def run(*arguments: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run
