"""From a request to the rows that it asks for, checked, so that the engine can refuse nothing."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

from cd4lm_jax.data.chat import ChatTemplateError
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.serving.answer import Limits
from cd4lm_jax.serving.api.errors import ApiError, wrong
from cd4lm_jax.serving.api.schema import ChatRequest, CompletionRequest
from cd4lm_jax.serving.settings import Offer
from cd4lm_jax.settings.choices import ConfigError, split_call
from cd4lm_jax.settings.config import override

Request = ChatRequest | CompletionRequest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A row that a request asks for.

    Attributes:
        prompt: token ids.
        config: how it is decoded.
        number: among the choices of its prompt.
        given: see `cd4lm_jax.decoding.batching.Given`.
        limits: what ends the answer before its row.
    """

    prompt: list[int]
    config: DecodeConfig
    number: int
    given: tuple[int | None, ...]
    limits: Limits


class Preparation:
    """What turns requests into rows, for one model."""

    def __init__(
        self, model: ModelConfig, tokenizer: Tokenizer, offer: Offer, max_choices: int
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._offer = offer
        self._max_choices = max_choices

    def choices(self, request: Request) -> list[Choice]:
        """The rows of a request, those of a prompt beside each other.

        Raises:
            ApiError: a field that is not as it can be.
        """
        _check_logprobs(request)
        given = self._given(request)
        config, most = self._config(request, len(given))
        prompts = self._prompts(request)
        n = request.n or 1
        if n * len(prompts) > self._max_choices:
            raise wrong("n", f"{n * len(prompts)} answers, and at most {self._max_choices} go")
        field = "messages" if isinstance(request, ChatRequest) else "prompt"
        room = self._model.max_length - config.gen_length
        for prompt in prompts:
            if len(prompt) > room:
                raise wrong(
                    field,
                    f"{len(prompt)} tokens, and the model's {self._model.max_length} positions "
                    f"less {config.gen_length} for the answer leave {room}",
                    "context_length_exceeded",
                )
        limits = Limits(most, request.stops, self._model.end_ids)
        return [
            Choice(prompt=prompt, config=config, number=number, given=given, limits=limits)
            for prompt in prompts
            for number in range(n)
        ]

    def _prompts(self, request: Request) -> list[list[int]]:
        if isinstance(request, ChatRequest):
            turns = [message.plain() for message in request.messages]
            if turns[-1]["role"] == "assistant":
                raise wrong("messages", "the last turn is the assistant's; end with one to answer")
            try:
                return [self._tokenizer.prompt(turns)]
            except ChatTemplateError as error:
                raise wrong("messages", str(error)) from error
        prompt: Any = request.prompt
        several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
        rows = [self._ids(row) for row in (prompt if several else [prompt])]
        for row in rows:
            if not row:
                raise wrong("prompt", "is empty; give at least one token")
            if min(row) < 0 or max(row) >= self._model.vocab_size:
                raise wrong("prompt", f"has an id outside the {self._model.vocab_size} tokens")
        return rows

    def _ids(self, row: str | list[int]) -> list[int]:
        return self._tokenizer.encode(row) if isinstance(row, str) else row

    def _given(self, request: Request) -> tuple[int | None, ...]:
        given: list[int | None] = []
        longest = self._offer.gen_lengths[-1]
        for part in request.diffusion.infill or ():
            count = part if isinstance(part, int) else 0
            ids = self._tokenizer.encode(part) if isinstance(part, str) else ()
            if len(given) + count + len(ids) > longest:
                raise wrong("diffusion.infill", f"longer than the {longest} tokens of an answer")
            given += [None] * count if isinstance(part, int) else ids
        return tuple(given)

    def _config(self, request: Request, infilled: int) -> tuple[DecodeConfig, int]:
        """How to decode, and the most tokens of the answer."""
        base, asked = self._offer.base, request.diffusion
        gens = self._offer.gen_lengths
        limit, field = request.max_tokens, "max_tokens"
        if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
            if limit is not None:
                raise wrong("max_completion_tokens", "is given beside max_tokens; give one")
            limit, field = request.max_completion_tokens, "max_completion_tokens"
        if limit is not None and limit < infilled:
            raise wrong(field, f"{limit} is below the {infilled} tokens of diffusion.infill")
        most = limit or infilled or base.gen_length
        if most > gens[-1]:
            raise wrong(field, f"{most}; this server gives at most {gens[-1]}")
        changes: dict[str, Any] = {"gen_length": next(gen for gen in gens if gen >= most)}
        changes["block_length"] = _one_of(
            "diffusion.block_length",
            asked.block_length,
            base.block_length,
            self._offer.block_lengths,
        )
        changes["cache"] = _one_of("diffusion.cache", asked.cache, base.cache, self._offer.caches)
        changes["rule"] = self._rule(asked.rule, asked.threshold)
        if asked.max_passes is not None:
            changes["max_passes"] = asked.max_passes
        temperature = base.temperature if request.temperature is None else request.temperature
        changes["temperature"] = float(temperature)
        drawn = temperature > 0
        for name in ("top_p", "top_k"):
            value = getattr(request, name)
            off = 1.0 if name == "top_p" else 0
            changes[name] = off if not drawn else getattr(base, name) if value is None else value
        changes["top_p"] = float(changes["top_p"])
        if changes["cache"] == "none":
            changes["refresh_interval"] = 0
        # What is drawn without a seed is never the same twice; a draw of positions draws too.
        changes["seed"] = secrets.randbelow(1 << 31) if request.seed is None else request.seed
        try:
            return dataclasses.replace(base, **changes), most
        except ValueError as error:
            raise wrong("diffusion.rule", str(error)) from error

    def _rule(self, text: str | None, threshold: float | None) -> Any:
        """The rule that a request names; never one of a file, which would be run."""
        offer, field = self._offer, "diffusion.rule"
        chosen: Any = offer.base.rule
        changes: dict[str, str] = {}
        if text is not None:
            try:
                name, changes = split_call(text)
            except ConfigError as error:
                raise wrong(field, str(error)) from error
            if name not in offer.rules:
                raise wrong(field, f"no rule of that name; this server has {_list(offer.rules)}")
            chosen = offer.rules[name]
        if threshold is not None:
            field = "diffusion.threshold"
            if not any(one.name == "threshold" for one in dataclasses.fields(chosen)):
                raise wrong(field, "the commit rule has none")
            changes["threshold"] = repr(float(threshold))
        if not changes:
            return chosen
        try:
            return override(chosen, changes, where="rule")
        except ValueError as error:
            raise wrong(field, str(error)) from error


def _one_of(field: str, asked: Any, default: Any, known: Sequence[Any]) -> Any:
    if asked is None:
        return default
    if asked not in known:
        raise wrong(field, f"this server has {_list(known)}")
    return asked


def _list(known: Any) -> str:
    return ", ".join(map(str, known))


def _check_logprobs(request: Request) -> None:
    """Only the token that was committed has its probability kept."""
    only = "give 0: only the committed token's probability is kept"
    if isinstance(request, CompletionRequest):
        if request.logprobs:
            raise wrong("logprobs", only)
    elif request.top_logprobs is not None:
        if request.top_logprobs:
            raise wrong("top_logprobs", only)
        if not request.logprobs:
            raise wrong("top_logprobs", "needs logprobs=true")
    if request.stream_options is not None and not request.stream:
        raise wrong("stream_options", "needs stream=true")


def unknown_model(known: str) -> ApiError:
    """A model that is not served here."""
    message = f"there is no such model; this server has {known!r}"
    return ApiError(404, message, param="model", code="model_not_found")
