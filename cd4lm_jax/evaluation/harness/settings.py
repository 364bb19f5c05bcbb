"""What `--model_args`, `--gen_kwargs` and tasks set, as one `DecodeConfig`.

Fields of `DecodeConfig` go by their names, the rule among them: `rule='factor(factor=1.0)'`,
`rule=my_rule.py:Half(share=0.5)`. Besides:

* `threshold` is the confidence rule's; 0 is the baseline, one token a pass until the generation is
  filled. In `--model_args` `max_tokens` is that rule's most tokens a pass.
* `max_new_tokens`, `max_tokens` and `max_completion_tokens` of a request are the most tokens of its
  answer: the generation is as many blocks as they need, the answer is cut to them. `max_gen_toks`,
  which every task has, changes nothing: a canvas of another length is another experiment.
* `temperature`, `top_k` and `top_p` of a request count where it samples: where `do_sample` is set,
  or `temperature` is above 0 and `do_sample` is not given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.settings.choices import nearest
from cd4lm_jax.settings.config import override

DEFAULT = DecodeConfig(gen_length=256, eos_gate_ratio=0.3)
"""CD4LM's published settings."""

_LENGTHS = ("max_new_tokens", "max_tokens", "max_completion_tokens")
# What tasks say to models of other kinds.
_FOREIGN = {"until", "max_gen_toks", "do_sample", "max_tokens_to_sample", "max_length", "num_beams"}
_SAMPLING = ("temperature", "top_k", "top_p")


class Asked(NamedTuple):
    """How a request is decoded.

    Attributes:
        config: the decode.
        limit: most tokens of the answer; None for the whole generation.
    """

    config: DecodeConfig
    limit: int | None


def of_model(settings: Mapping[str, Any]) -> DecodeConfig:
    """The decode of `--model_args`.

    Raises:
        ValueError: an unknown name, or a value that is not of its kind.
    """
    settings = dict(settings)
    cap = settings.pop("max_tokens", None)
    config, limit = of_request(DEFAULT, settings, sample=True)
    if limit is not None:
        config = _with_length(config, limit)
    if cap is None:
        return config
    if not isinstance(config.rule, ConfidenceAdaptive):
        raise ValueError(f"max_tokens={cap} is the confidence rule's; give it within rule=...")
    changes = {"max_tokens": min(_whole("max_tokens", cap), config.block_length)}
    return dataclasses.replace(config, rule=dataclasses.replace(config.rule, **changes))


def of_request(base: DecodeConfig, settings: Mapping[str, Any], *, sample: bool = False) -> Asked:
    """The decode of a request.

    Args:
        base: of the model.
        settings: of a task, `--gen_kwargs` among them.
        sample: take the settings of sampling in any case.

    Raises:
        ValueError: an unknown name, or a value that is not of its kind.
    """
    given = {name: value for name, value in settings.items() if name not in _FOREIGN}
    if not sample:
        _settle_sampling(given, base, settings.get("do_sample"))
    lengths = [given.pop(name) for name in _LENGTHS if name in given]
    limit = next((_whole("max_new_tokens", value) for value in lengths if value is not None), None)
    threshold = given.pop("threshold", None)
    known = [field.name for field in dataclasses.fields(DecodeConfig)]
    for name in given:
        if name not in known:
            names = [*known, "threshold", *_LENGTHS]
            raise ValueError(f"cd4lm has no setting {name!r}; {nearest(name, names)}")
    if base == base.fixed() and "rule" not in given:  # it stays the baseline at other lengths
        threshold = 0 if threshold is None else threshold
        fields = ("rule", "stop_at_eos", "eos_gate_ratio")
        changes = {name: getattr(DEFAULT, name) for name in fields}
        base = dataclasses.replace(base, **changes)
    config = _override(base, given)
    if limit is not None and not sample and "gen_length" not in given:
        config = _with_length(config, limit)
    if threshold is not None:
        config = _with_threshold(config, threshold, given)
    return Asked(config, limit)


def _settle_sampling(given: dict[str, Any], base: DecodeConfig, do_sample: Any) -> None:
    """Leaves the settings of sampling only where a request samples."""
    temperature = given.get("temperature")
    if do_sample is None:
        do_sample = bool(temperature)
    if not do_sample or temperature == 0:
        for name in _SAMPLING:
            given.pop(name, None)
    elif temperature is None and not base.temperature:
        given["temperature"] = 1.0
    for name in [name for name in ("top_k", "top_p") if given.get(name) is None]:
        given.pop(name, None)


def _with_threshold(base: DecodeConfig, value: Any, others: Mapping[str, Any]) -> DecodeConfig:
    if "rule" in others:
        raise ValueError(f"threshold={value} is the rule's; give it within rule=...")
    try:
        threshold = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"threshold={value!r}: expected a number") from None
    if not threshold:
        return base.fixed()
    rule = base.rule if isinstance(base.rule, ConfidenceAdaptive) else ConfidenceAdaptive()
    return dataclasses.replace(base, rule=dataclasses.replace(rule, threshold=threshold))


def _with_length(config: DecodeConfig, limit: int) -> DecodeConfig:
    """The config with as many blocks as so many tokens need."""
    blocks = -(-limit // config.block_length)
    return dataclasses.replace(config, gen_length=blocks * config.block_length)


def _override(config: DecodeConfig, given: Mapping[str, Any]) -> DecodeConfig:
    """The config with fields as Python's values or as text."""
    made: dict[str, Any] = {n: v for n, v in given.items() if dataclasses.is_dataclass(v)}
    texts = {n: _text(value) for n, value in given.items() if n not in made}
    return override(dataclasses.replace(config, **made), texts, "cd4lm")


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(value)


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number != float(value):
        raise ValueError(f"{name}={value!r}: expected a whole number from 1")
    return number
