"""The front door: load a model with its tokenizer, decode text, get text and the record back."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cd4lm_jax.checkpoints import loading
from cd4lm_jax.decoding import batching, queues
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.models.fingerprint import fingerprint
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.replay import page, terminal
from cd4lm_jax.replay.replays import Replay
from cd4lm_jax.runtime.mesh import MeshConfig
from cd4lm_jax.settings.choices import nearest

if TYPE_CHECKING:
    from cd4lm_jax.checkpoints.saving import Layout
    from cd4lm_jax.data.tokenizer import Tokenizer


Prompt = str | Sequence[Mapping[str, Any]] | Sequence[int]
"""A question or a conversation, to be put in the chat template, or token ids.

A conversation is a list of messages, each with `role` and `content`.
"""
Prompts = str | Sequence[Prompt] | Sequence[Mapping[str, Any]]
"""Prompts, or a single question or conversation."""


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A transformer and the tokenizer it was trained with.

    Attributes:
        transformer: the parameters.
        tokenizer: None where the folder had none; prompts are then token ids.
    """

    transformer: Transformer
    tokenizer: Tokenizer | None

    def __repr__(self) -> str:
        config, execution = self.transformer.config, self.transformer.execution
        return (
            f"LanguageModel({config.num_parameters:,} parameters, {config.num_layers} layers, "
            f"{execution.dtype}, {'no' if self.tokenizer is None else 'with'} tokenizer)"
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of architecture and parameters: another one if any bit differs, on any mesh."""
        return fingerprint(self.transformer)

    def save(self, folder: str | os.PathLike[str], layout: Layout = "own") -> None:
        """Writes the model and its tokenizer as a folder that `load` takes.

        Args:
            folder: must not hold anything yet; it appears when it is complete.
            layout: `own`, or `huggingface`, which has no form for a quantised model.

        Raises:
            ValueError: a folder in use, or a model that the layout has no form for.
        """
        from cd4lm_jax.checkpoints.saving import save_model

        also = None if self.tokenizer is None else self.tokenizer.save
        save_model(folder, self.transformer, layout, also)

    def prompt_ids(self, prompt: Prompt, tools: Sequence[Any] | None = None) -> list[int]:
        """A question or a conversation in the chat template as token ids; ids are passed through.

        Args:
            prompt: what is asked.
            tools: that the assistant may call, for the chat template.

        Raises:
            ValueError: text, and no tokenizer to encode it; or a conversation that the chat
                template refuses.
        """
        if not _is_text(prompt):
            return list(cast(Sequence[int], prompt))
        text = cast("str | Sequence[Mapping[str, Any]]", prompt)
        return self._tokenizer_for_text.prompt(text, tools)

    def text_ids(self, text: str) -> list[int]:
        """Text as token ids, without a chat template.

        Raises:
            ValueError: no tokenizer to encode it.
        """
        return self._tokenizer_for_text.encode(text)

    @property
    def _tokenizer_for_text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                "the model's folder has no tokenizer, so prompts must be lists of token ids; copy "
                "tokenizer.json and tokenizer_config.json there to give text"
            )
        return self.tokenizer

    def token_text(self, token: int) -> str:
        """A token as text; without a tokenizer its id."""
        return _token_text(self.tokenizer, token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoded:
    """What `decode` returns; one entry a prompt, in the order given.

    Attributes:
        trajectory: which position was committed in which pass, with what confidence.
        seconds: wall clock of decoding, compilation excluded.
        tokenizer: of the model, for `text`.
        prompts: what was answered, as it was given.
    """

    trajectory: Trajectory
    seconds: float
    tokenizer: Tokenizer | None
    prompts: Sequence[Prompt]

    def __repr__(self) -> str:
        count, passes = len(self.nfe), self.nfe.mean() if len(self.nfe) else 0.0
        return f"Decoded({count} prompts, {passes:.1f} passes each, {self.seconds:.2f} s)"

    @property
    def nfe(self) -> np.ndarray:
        """Forward passes of every prompt, int32 `[prompts]`: those while it was unfinished."""
        return self.trajectory.nfe

    @functools.cached_property
    def text(self) -> list[str]:
        """The answers: what was generated before the first end token.

        Raises:
            ValueError: the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("the model's folder has no tokenizer; use trajectory.tokens")
        rows = zip(self.trajectory.tokens, self.trajectory.length, strict=True)
        return [self.tokenizer.decode(tokens[:length].tolist()) for tokens, length in rows]

    def to_html(self) -> str:
        """One self-contained page that replays every prompt pass by pass.

        Without a tokenizer it shows ids.
        """
        questions = [self._question(prompt) for prompt in self.prompts]
        return page.of(self.trajectory, self._token, prompts=questions)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the page of `to_html`."""
        return page.frame(self.to_html())

    def play(self, row: int = 0, *, seconds: float = 0.3) -> None:
        """Plays the decode of one prompt on the terminal, so many seconds a pass.

        Into a file or a pipe, or where NO_COLOR is set, only the last state is printed.

        Raises:
            ValueError: there is no such prompt.
        """
        if not 0 <= row < len(self.prompts):
            raise ValueError(f"row={row}: give one from 0 to {len(self.prompts) - 1}")
        question = self._question(self.prompts[row])
        replay = Replay.of(self.trajectory, row)
        terminal.play(replay, text=self._token, question=question, seconds=seconds)

    def _token(self, token: int) -> str:
        return _token_text(self.tokenizer, token)

    def _question(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        if _is_text(prompt):
            turns = cast(Sequence[Mapping[str, Any]], prompt)
            return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        ids = cast(Sequence[int], prompt)
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return self.tokenizer.decode(ids, skip_special=False)


def _is_text(prompt: Prompt) -> bool:
    """Whether a prompt is a question or a conversation."""
    return isinstance(prompt, str) or any(isinstance(turn, Mapping) for turn in prompt)


def _token_text(tokenizer: Tokenizer | None, token: int) -> str:
    return f" {token}" if tokenizer is None else tokenizer.decode_one(token)


def load(
    folder: str | os.PathLike[str],
    placement: Placement | None = None,
    *,
    dtype: str | None = None,
    quantize: Mode | None = None,
    mesh: MeshConfig | Mapping[str, int] | None = None,
    verify: bool = True,
    base: str | os.PathLike[str] | None = None,
) -> LanguageModel:
    """Loads a model folder: one that training exported, or a Hugging Face one (see docs/models.md).

    Args:
        folder: the folder that has `config.json`, or that of a training run that exported one, or
            one of peft adapters, which are added to the weights of their base.
        placement: how the model runs; the defaults if None.
        dtype, quantize, mesh: fields of it that differ; a mesh also as `{"data": 4, "tensor": 2}`.
        verify: compare the files of weights with their checksums, where there are some.

    Raises:
        ValueError: no model there, damaged weights, ones that do not fit their config, or a mesh
            that does not fit the devices or the model.
    """
    from cd4lm_jax.data.tokenizer import Tokenizer

    given: dict[str, Any] = {"dtype": dtype, "quantize": quantize, "mesh": _mesh_config(mesh)}
    changes = {name: value for name, value in given.items() if value is not None}
    placement = dataclasses.replace(placement or Placement(), **changes)
    config = loading.load_config(folder, base)
    chosen = placement.dtype or placement.resolved_dtype(loading.stored_dtype(folder, base))
    transformer = loading.load_model(
        folder,
        placement.execution(config, chosen),
        dtype=chosen,
        mesh=placement.make_mesh(config),
        verify=verify,
        quantize=placement.quantize,
        base=base,
    ).by_layer(consume=True)
    # Adapters may bring a tokenizer of their own.
    for path in (loading.located(folder), loading.weights_of(folder, base)):
        if Tokenizer.lies_in(path):
            return LanguageModel(transformer, Tokenizer.load(path))
    return LanguageModel(transformer, None)


def _mesh_config(mesh: MeshConfig | Mapping[str, int] | None) -> MeshConfig | None:
    return mesh if mesh is None or isinstance(mesh, MeshConfig) else MeshConfig(**mesh)


def decode(
    model: LanguageModel,
    prompts: Prompts,
    config: DecodeConfig | None = None,
    *,
    given: queues.Given | None = None,
    first: int = 0,
    report: Callable[[int], None] | None = None,
    **options: Any,
) -> Decoded:
    """Answers prompts, each with as many passes as the commit rule asks for.

    Args:
        model: from `load`.
        prompts: questions or conversations (put in the chat template), or lists of token ids
            (taken as they are); a single question or conversation may stand alone. A conversation
            is a list of messages, each with `role` and `content`.
        config: how; if None the defaults for the model: its block length where it has one, and a
            generation that it has room for.
        given: infilling: for each prompt its generation positions from the first, a token id where
            it is fixed and None where it is to be decoded; the rest is to be decoded.
        first: number of the first prompt, where a list is decoded in parts; what is drawn goes by
            seed and number.
        report: called every few passes with the number of finished prompts.
        options: fields of `DecodeConfig` that differ from `config`, such as
            `rule=ConfidenceAdaptive(threshold=0.9)`.

    Raises:
        ValueError: prompts or lengths that do not fit the model or each other, or the model's
            output is no number.
        TypeError: an option that does not exist.
    """
    chosen, prompts = _config(model, config, options), _listed(prompts)
    ids = [model.prompt_ids(prompt) for prompt in prompts]
    trajectory, seconds = batching.decode(
        model.transformer, ids, chosen, given, first=first, report=report
    )
    return Decoded(
        trajectory=trajectory, seconds=seconds, tokenizer=model.tokenizer, prompts=prompts
    )


def decode_stream(
    model: LanguageModel,
    prompts: Prompts,
    config: DecodeConfig | None = None,
    *,
    given: queues.Given | None = None,
    every: int = 1,
    **options: Any,
) -> Iterator[batching.Update]:
    """As `decode`, yielding what was committed after every so many passes.

    Args:
        model, prompts, config, given, options: see `decode`.
        every: passes between two updates, at least 1.

    Raises:
        ValueError: prompts or lengths that do not fit the model or each other; when the first
            update is asked for.
        TypeError: an option that does not exist.
    """
    chosen = _config(model, config, options)
    ids = [model.prompt_ids(prompt) for prompt in _listed(prompts)]
    return batching.decode_stream(model.transformer, ids, chosen, given, every=every)


def _config(
    model: LanguageModel, config: DecodeConfig | None, options: dict[str, Any]
) -> DecodeConfig:
    """The config with options changed; `commit` is the older name of `rule`."""
    if "commit" in options:
        options = {"rule": options["commit"], **options}
        del options["commit"]
    known = [field.name for field in dataclasses.fields(DecodeConfig)]
    of_rule = [field.name for field in dataclasses.fields(ConfidenceAdaptive)]
    for name in options:
        if name in of_rule:
            raise TypeError(
                f"{name!r} is a field of the commit rule; give rule=ConfidenceAdaptive({name}=...)"
            )
        if name not in known:
            raise TypeError(f"no option {name!r} of a decode; {nearest(name, known + of_rule)}")
    if config is None:
        return DecodeConfig.for_model(model.transformer.config, **options)
    return dataclasses.replace(config, **options)


def _listed(prompts: Prompts) -> Sequence[Prompt]:
    """The prompts; a question or a conversation that stands alone is the only one."""
    if isinstance(prompts, str) or any(isinstance(turn, Mapping) for turn in prompts):
        return [cast(Prompt, prompts)]
    return cast(Sequence[Prompt], prompts)
