"""The flag of the folder in which compiled programs are kept between starts."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

from absl import flags

ENVIRONMENT = "CD4LM_COMPILATION_CACHE"
_OFF = ("off", "none")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of compiled programs, so that another start begins sooner; off for none. Default: "
    f"{ENVIRONMENT}, JAX_COMPILATION_CACHE_DIR, or a folder of this kind of machine under "
    "~/.cache/cd4lm_jax; where training runs on several hosts, OUTPUT/compiled.",
)


def keep(shared: str | os.PathLike[str] | None = None) -> None:
    """Sets the folder in which jax keeps what it compiles.

    Args:
        shared: the folder of a run on several hosts, unless the user names another.
    """
    import jax

    setting = "jax_compilation_cache_dir"  # jax's types do not list it
    chosen = _CACHE.value if flags.FLAGS.is_parsed() else None
    if chosen is None and getattr(jax.config, setting):
        return
    if chosen is None and shared is not None:
        chosen = str(shared)
    if chosen is None:
        chosen = os.environ.get(ENVIRONMENT) or str(_folder())
    if chosen in _OFF:
        jax.config.update(setting, None)
        return
    jax.config.update(setting, os.path.abspath(chosen))
    # A start compiles dozens of small programs; together they take as long as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _folder() -> pathlib.Path:
    """Of this kind of machine: what is compiled for one processor may not run on another."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "cd4lm_jax" / "xla" / _processor()


def _processor() -> str:
    """The architecture, and a digest of what the processor can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
