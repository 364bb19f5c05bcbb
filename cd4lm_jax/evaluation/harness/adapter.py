"""A model as an LM of lm-evaluation-harness, by the name ``cd4lm``.

    cd4lm lm_eval --model cd4lm --model_args pretrained=DIR,threshold=0.95 --tasks ...

or, from Python, ``lm_eval.simple_evaluate(model=DiffusionLM(pretrained=...), tasks=[...])``.
Importing this module registers the name. Torch and transformers are not needed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding.rule import CommitRule
from cd4lm_jax.decoding.rules import ConfidenceAdaptive, FixedStep
from cd4lm_jax.evaluation.harness import likelihood
from cd4lm_jax.language_model import decode, load
from cd4lm_jax.settings.choices import nearest

Pair = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, then as token ids; what `TemplateLM` hands on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """What ``--model_args`` sets and a task's or ``--gen_kwargs``' own settings override.

    Attributes:
        gen_length: generated positions, whatever a task's ``max_gen_toks``: a canvas of another
            length is another experiment.
        block_length: positions decoded together.
        threshold: of CAD; 0 decodes one token a pass instead and fills the generation.
        max_tokens: CAD's most tokens a pass.
        eos_gate_ratio: CAD's EOS gate.
        temperature: of the noise tokens are drawn with, where ``do_sample`` is set.
        cache: none, prefix or dual.
    """

    gen_length: int = 256
    block_length: int = 32
    threshold: float = 0.95
    max_tokens: int = 32
    eos_gate_ratio: float = 0.3
    temperature: float = 0.0
    cache: str = "none"

    @property
    def commit(self) -> CommitRule:
        """The commit rule."""
        if not self.threshold:
            return FixedStep(steps=self.gen_length)
        most = min(self.max_tokens, self.block_length)
        return ConfidenceAdaptive(threshold=self.threshold, max_tokens=most)


# What tasks say to models of other kinds.
_FOREIGN = {"until", "max_gen_toks", "do_sample", "max_tokens_to_sample", "max_length"}


@register_model("cd4lm")
class DiffusionLM(TemplateLM):
    """Generates with CAD, judges continuations by Monte Carlo masking."""

    def __init__(
        self,
        pretrained: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        mc_num: int = 128,
        batch_size: int | str = 8,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
        **generation: Any,
    ) -> None:
        """Loads a model.

        Args:
            pretrained: model folder, see `cd4lm_jax.load`.
            dtype: of the weights.
            mc_num: maskings of a continuation; one is enough where it is one token.
            batch_size: prompts, or maskings, computed at once.
            seed: of maskings and of what is drawn.
            device, max_batch_size: as the harness passes them; JAX chooses the device.
            generation: the fields of `Generation`.

        Raises:
            ValueError: no model there, one without tokenizer, or an unknown setting.
        """
        super().__init__()
        self.model = load(pretrained, dtype=dtype)
        if self.model.tokenizer is None:
            raise ValueError(
                f"{pretrained} has no tokenizer, and the harness asks in text; copy tokenizer.json "
                "and tokenizer_config.json there"
            )
        self.text: Tokenizer = self.model.tokenizer
        self._folder = os.fspath(pretrained)
        rows = (
            int(batch_size) if str(batch_size).isdigit() else 8
        )  # "auto" is the harness's default
        self.draw = likelihood.MonteCarlo(samples=int(mc_num), batch_size=rows, seed=int(seed))
        self.generation = _override(Generation(), generation)

    @property
    def tokenizer_name(self) -> str:
        """What the harness keys its cache of rendered prompts by."""
        return self._folder.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.text.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without context follows."""
        return self.text.bos_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text; of a rendered conversation, which begins with the BOS, its tokens."""
        if string.startswith(self.text.decode_one(self.text.bos_id)):
            return self.text.encode_rendered(string)
        return self.text.encode(string)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; LLaDA's template always ends after the assistant's header."""
        return self.text.render(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the harness's records."""
        return self.text.config["chat_template"] if chat_template else None

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first stop text."""
        groups: dict[Generation, list[int]] = {}
        for place, request in enumerate(requests):
            settings = dict(request.args[1])
            if not settings.get("do_sample"):
                settings.pop("temperature", None)
            groups.setdefault(_override(self.generation, settings), []).append(place)
        answers = [""] * len(requests)
        for chosen, places in groups.items():
            decoded = decode(
                self.model,
                [self.tok_encode(requests[place].args[0]) for place in places],
                commit=chosen.commit,
                gen_length=chosen.gen_length,
                block_length=chosen.block_length,
                stop_at_eos=bool(chosen.threshold),
                eos_gate_ratio=chosen.eos_gate_ratio if chosen.threshold else 0.0,
                temperature=chosen.temperature,
                cache=chosen.cache,
                batch_size=self.draw.batch_size,
                seed=self.draw.seed,
            )
            logging.getLogger(__name__).info(
                "%d prompts: %.1f passes each, %.1f s in all",
                len(places),
                np.mean(decoded.nfe),
                decoded.seconds,
            )
            for place, text in zip(places, decoded.text, strict=True):
                answers[place] = _until(text, requests[place].args[1].get("until"))
        return answers

    def _loglikelihood_tokens(
        self, requests: list[Pair], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        model = self.model.transformer
        return [
            (
                likelihood.log_likelihood(model, context, continuation, self.draw),
                likelihood.is_greedy(model, context, continuation),
            )
            for _, context, continuation in requests
        ]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The estimated log-likelihood of whole texts, in windows that fill the model."""
        model = self.model.transformer
        found = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=model.config.max_length - 1,
                context_len=1,
            )
            found.append(
                sum(
                    likelihood.log_likelihood(model, context, continuation, self.draw)
                    for context, continuation in map(make_disjoint_window, windows)
                )
            )
        return found


def _override(base: Generation, settings: dict[str, Any]) -> Generation:
    """The settings with those of a task or a command line.

    Raises:
        ValueError: an unknown name, or a value that is not of its kind.
    """
    fields = {field.name: type(getattr(base, field.name)) for field in dataclasses.fields(base)}
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _FOREIGN:
            continue
        if name not in fields:
            raise ValueError(f"cd4lm has no setting {name!r}; {nearest(name, [*fields])}")
        try:
            values[name] = fields[name](value)
        except (TypeError, ValueError):
            raise ValueError(f"{name}={value!r}: expected {fields[name].__name__}") from None
    return dataclasses.replace(base, **values)


def _until(text: str, stops: str | list[str] | None) -> str:
    """The text before the first of the stop texts."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.partition(stop)[0]
    return text
