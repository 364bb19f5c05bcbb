"""What may change between two starts of a run, and what is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.settings.choices import ConfigError
from cd4lm_jax.settings.config import describe, from_plain

# These change nothing but rounding, or when something is written, or when the run ends.
_FREE = (
    "output",
    "mesh",
    "execution.scan_layers",
    "execution.remat",
    "accumulate",
    "log_every",
    "eval_every",
    "save_every",
    "patience",
    "max_bad_steps",
)
# These change what follows; a continued run may do so, and says it.
_SAID = {
    "steps": "lambda, the teacher's distance and the decay of the learning rate follow the new "
    "length from here on, so this is not the run that has this length from its start",
    "optimizer.learning_rate": "the new one is the peak of the schedule from here on",
}
_LISTED = 6


def check_settings(saved: Mapping[str, Any], config: TrainConfig, step: int) -> list[str]:
    """Compares the settings of a run with those that it is continued with.

    A field that the saved run lacks has its default there.

    Args:
        saved: the run's settings as plain data.
        config: those that it is to continue with.
        step: of the checkpoint that it continues from.

    Returns:
        Lines about changes that are allowed and change what follows.

    Raises:
        TrainingError: the folder holds a run of other settings, which are listed, or of a version
            whose settings have other names.
    """
    mend = f"give another output than {config.output}, or remove that folder"
    try:
        before = _flat(from_plain(TrainConfig, saved, where="its config"))
    except ConfigError as error:
        raise TrainingError(f"a run of another version is there ({error}); {mend}") from None
    now = _flat(config)
    different = [name for name in before | now if before.get(name) != now.get(name)]
    refused = [name for name in different if name not in _SAID and not _is_free(name)]
    if refused:
        listed = "; ".join(f"{name}: {_change(name, before, now)}" for name in refused[:_LISTED])
        more = f"; and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
        raise TrainingError(
            f"the checkpoint of step {step} is of a run of other settings ({listed}{more}); give "
            f"those again, {mend}"
        )
    return [
        f"continued from step {step} with {name} {_change(name, before, now)}: {_SAID[name]}"
        for name in different
        if name in _SAID
    ]


def check_frozen(
    saved: Mapping[str, str], found: Mapping[str, str], folders: Mapping[str, str]
) -> None:
    """Compares the fingerprints of models that do not change in a run.

    Args:
        saved: by role (`teacher`, `base`), those that the run began with.
        found: those that were loaded now.
        folders: where they were loaded from.

    Raises:
        TrainingError: a model that has changed.
    """
    for role, fingerprint in found.items():
        if saved.get(role, fingerprint) != fingerprint:
            raise TrainingError(
                f"the {role} in {folders[role]} is not the one that this run began with: its "
                "config or its weights have changed; restore that folder, or give another output"
            )


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Every field by its dotted name."""
    return {name.removeprefix("config."): value for name, _, value in describe(TrainConfig, config)}


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in _FREE)


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{_text(name, before)} -> {_text(name, now)}"


def _text(name: str, values: Mapping[str, Any]) -> str:
    return str(values[name]) if name in values else "absent"
