"""A model as an LM of lm-evaluation-harness, by the name `cd4lm`.

    cd4lm lm_eval --model cd4lm --model_args pretrained=DIR,threshold=0.95 --tasks ...

or, from Python, `lm_eval.simple_evaluate(model=DiffusionLM(pretrained=...), tasks=[...])`.
Importing this module registers the name. Torch and transformers are not needed.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import lm_eval.models  # noqa: F401 - the harness adds its own models only where there are none yet
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cd4lm_jax.data.chat import RenderedChat
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.evaluation.harness import likelihood, settings
from cd4lm_jax.language_model import Decoded, decode, load
from cd4lm_jax.models.placement import Placement
from cd4lm_jax.models.quantization import Mode
from cd4lm_jax.runtime.mesh import MeshConfig

Pair = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, then as token ids; what `TemplateLM` hands on."""

_log = logging.getLogger(__name__)


@register_model("cd4lm")
class DiffusionLM(TemplateLM):
    """Generates with a commit rule, judges continuations by Monte Carlo masking."""

    def __init__(
        self,
        pretrained: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        quantize: Mode = "none",
        mesh_data: int = 1,
        mesh_fsdp: int = 1,
        mesh_tensor: int = 1,
        mc_num: int = 128,
        batch_size: int | str = 8,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
        **decoding: Any,
    ) -> None:
        """Loads a model.

        Args:
            pretrained: model folder, see `cd4lm_jax.load`.
            dtype, quantize: as in `Placement`.
            mesh_data, mesh_fsdp, mesh_tensor: the axes of its mesh.
            mc_num: maskings of a continuation; one is enough where it is one token.
            batch_size: prompts, or maskings, computed at once.
            seed: of maskings and of what is drawn.
            device, max_batch_size: as the harness passes them; JAX chooses the device.
            decoding: fields of `DecodeConfig` and shorthands, see `settings`.

        Raises:
            ValueError: no model there, one without tokenizer, or an unknown setting.
        """
        super().__init__()
        # "auto" is the harness's default.
        rows = int(batch_size) if str(batch_size).isdigit() else 8
        self.draw = likelihood.MonteCarlo(samples=int(mc_num), batch_size=rows, seed=int(seed))
        self.config = settings.of_model({**decoding, "batch_size": rows, "seed": int(seed)})
        mesh = MeshConfig(data=int(mesh_data), fsdp=int(mesh_fsdp), tensor=int(mesh_tensor))
        self.model = load(pretrained, Placement(dtype=dtype, quantize=quantize, mesh=mesh))
        if self.model.tokenizer is None:
            raise ValueError(
                f"{pretrained} has no tokenizer, and the harness asks in text; copy tokenizer.json "
                "and tokenizer_config.json there"
            )
        self.text: Tokenizer = self.model.tokenizer
        self._folder = os.fspath(pretrained)

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

    @property
    def max_length(self) -> int:
        """The model's positions."""
        return self.model.transformer.config.max_length

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text, or of a conversation that `apply_chat_template` rendered.

        Special tokens of a rendered conversation are one token each. In all other text, and in
        what a user says in a conversation, their names are text. A plain text that begins with a
        BOS is taken for a conversation that was rendered elsewhere.
        """
        if isinstance(string, RenderedChat) or self._begins_with_bos(string):
            return self.text.encode_rendered(string)
        return self.text.encode(string)

    def _begins_with_bos(self, text: str) -> bool:
        bos = self.text.special_tokens.bos
        return bos is not None and text.startswith(bos)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a context and its continuation.

        The harness moves all white space at the end of a context to the continuation. The line
        breaks after a template's header are the template's, so in a rendered conversation only the
        spaces of an answer's given beginning are moved.
        """
        if not isinstance(context, RenderedChat):
            found: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return found
        words = RenderedChat(context.rstrip(" "))
        words.literals = context.literals
        continuation = context[len(words) :] + continuation
        ids = self.text.encode_rendered(words)
        whole = self.text.encode_rendered(words, continuation)
        return ids, whole[len(ids) :]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, which ends with the assistant's header.

        Without `add_generation_prompt` the last turn is the beginning of the assistant's answer,
        and the text ends with its words.
        """
        return self.text.render(
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt
            and chat_history[-1]["role"] == "assistant",
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the harness's records."""
        return self.text.chat_template if chat_template else None

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first stop text.

        A context that is too long loses its start, with a warning.
        """
        groups: dict[settings.Asked, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(settings.of_request(self.config, request.args[1]), []).append(place)
        answers = [""] * len(requests)
        for asked, places in groups.items():
            contexts = [self.tok_encode(requests[place].args[0]) for place in places]
            decoded = decode(
                self.model, self._prompts(contexts, asked.config.gen_length), asked.config
            )
            _log.info(
                "%d prompts: %.1f passes each, %.1f s in all",
                len(places),
                np.mean(decoded.nfe),
                decoded.seconds,
            )
            texts = self._limited(decoded, asked.limit)
            for place, text in zip(places, texts, strict=True):
                answers[place] = _until(text, requests[place].args[1].get("until"))
        return answers

    def _prompts(self, contexts: list[list[int]], gen_length: int) -> list[list[int]]:
        """The ends of contexts that leave room for the generation."""
        room = self.max_length - gen_length
        if room < 1:
            raise ValueError(
                f"gen_length={gen_length} leaves no room for a prompt in the model's "
                f"{self.max_length} positions; give a smaller one"
            )
        _warn_of_cuts("prompts", [len(context) for context in contexts], room)
        return [(context or [self.prefix_token_id])[-room:] for context in contexts]

    def _limited(self, decoded: Decoded, limit: int | None) -> list[str]:
        if limit is None:
            return decoded.text
        rows = zip(decoded.trajectory.tokens, decoded.trajectory.length, strict=True)
        return [self.text.decode(tokens[: min(length, limit)].tolist()) for tokens, length in rows]

    def _loglikelihood_tokens(
        self, requests: list[Pair], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        model, room = self.model.transformer, self.max_length
        sizes = [len(context) + len(continuation) for _, context, continuation in requests]
        _warn_of_cuts("contexts with their continuations", sizes, room)
        found = []
        for _, context, continuation in requests:
            # A token of context stays whatever the continuation's length.
            continuation = continuation[-(room - 1) :]
            context = context[-(room - len(continuation)) :]
            if not continuation:  # nothing is certain
                found.append((0.0, True))
                continue
            log = likelihood.log_likelihood(model, context, continuation, self.draw)
            found.append((log, likelihood.is_greedy(model, context, continuation)))
        return found

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
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            found.append(
                sum(
                    likelihood.log_likelihood(model, context, continuation, self.draw)
                    for context, continuation in map(make_disjoint_window, windows)
                )
            )
        return found


def _warn_of_cuts(what: str, sizes: list[int], room: int) -> None:
    long = [size for size in sizes if size > room]
    if long:
        _log.warning(
            "%d of %d %s have more than the %d tokens that there is room for (the longest %d): "
            "their starts are cut off",
            len(long),
            len(sizes),
            what,
            room,
            max(long),
        )


def _until(text: str, stops: str | list[str] | None) -> str:
    """The text before the first of the stop texts."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.partition(stop)[0]
    return text
