r"""Chats on the terminal; each answer fills in as it is decoded.

    cd4lm chat
    cd4lm chat --checkpoint=DIR --rule.threshold=0.9
    cd4lm chat --server=http://127.0.0.1:8000

With --server the answers are those of `cd4lm serve`, and --rule and --max_passes go along with each
question. /new begins another conversation; Ctrl-D ends.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import (
    checkpoint,
    common,
    compilation,
    decode_flags,
    placement_flags,
)
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.decoding.rule import RULES
from cd4lm_jax.replay.live import LiveDecode
from cd4lm_jax.serving.client import Client

if TYPE_CHECKING:
    from rich.console import Console

_SERVER = flags.DEFINE_string(
    "server", None, "Address of a server to chat with; its key is read from CD4LM_API_KEY."
)

Message = dict[str, str]


class InProcess:
    """A model of this process."""

    def __init__(self, folder: str, config: DecodeConfig) -> None:
        compilation.keep()
        placement = placement_flags.chosen()
        base = checkpoint.BASE.value
        placement_flags.announce(folder, placement, base)
        self._model = cd.load(folder, placement, base=base)
        if self._model.tokenizer is None:
            raise ValueError(
                f"{folder} has no tokenizer, and a chat is text; copy tokenizer.json and "
                "tokenizer_config.json there"
            )
        self._config = config
        self.gen_length = config.gen_length

    def answer(self, messages: list[Message], live: LiveDecode) -> Iterator[str]:
        """The answer's text so far, after every pass; `live` is kept up."""
        tokenizer = self._model.tokenizer
        assert tokenizer is not None
        tokens: dict[int, int] = {}
        ends = self._model.transformer.config.end_ids
        for update in cd.decode_stream(self._model, [messages], self._config):
            for at, position in enumerate(update.position.tolist()):
                tokens[position] = int(update.tokens[at])
                live.commit(
                    position,
                    self._model.token_text(tokens[position]),
                    at=int(update.committed_at[at]),
                    confidence=float(update.confidence[at]),
                    reason=Reason(int(update.reason[at])),
                )
            certain: list[int] = []
            while len(certain) in tokens and tokens[len(certain)] not in ends:
                certain.append(tokens[len(certain)])
            yield tokenizer.decode(certain)


class Remote:
    """A model behind a server."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._client = Client(url, os.environ.get("CD4LM_API_KEY"))
        self._options = options
        self.gen_length = 0  # the server says it at the end

    def answer(self, messages: list[Message], live: LiveDecode) -> Iterator[str]:
        """The answer's text so far, after every chunk; `live` is kept up."""
        text = ""
        for chunk in self._client.chat(messages, diffusion=self._options):
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                for event in choice.get("diffusion", {}).get("events", ()):
                    self._commit(event, live)
            yield text

    def _commit(self, event: dict[str, Any], live: LiveDecode) -> None:
        columns = (event[name] for name in ("positions", "texts", "confidence", "reason"))
        for position, (label, special, breaks), confidence, reason in zip(*columns, strict=True):
            live.gen_length = max(live.gen_length, position + 1)
            shown = f"<|{label}|>" if special else "\n" if breaks else label
            live.commit(
                position,
                shown,
                at=event["pass"],
                confidence=confidence,
                reason=Reason[reason.upper()],
            )


def main() -> None:
    """Asks, answers, until the end of the input."""
    from rich.console import Console
    from rich.text import Text

    model = _chosen()
    console = Console()
    messages: list[Message] = []
    while (question := _question()) is not None:
        if question == "/new":
            messages = []
            continue
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        live = LiveDecode(model.gen_length)
        try:
            text = _show(model.answer(messages, live), live, console)
        except ValueError as error:  # too long a conversation, say; the next may be shorter
            console.print(Text(f"error: {error}", "red"))
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": text})
        console.print(Text(f"{text}\n", "bold"), Text(f"{live.passes} passes", "dim"), sep="")


def _chosen() -> InProcess | Remote:
    given = checkpoint.CHECKPOINT.value
    folder = given or bundled.teacher()
    base = DecodeConfig.for_model(load_config(folder, checkpoint.BASE.value))
    try:
        config = decode_flags.DECODE.chosen(base)
    except ValueError as error:
        raise common.UsageError(str(error)) from error
    if _SERVER.value is None:
        return InProcess(folder, config)
    if given is not None:
        raise common.UsageError("give either --checkpoint or --server")
    options: dict[str, Any] = {}
    if config.rule != base.rule:
        fields = dataclasses.asdict(config.rule)  # type: ignore[call-overload]  # a dataclass
        values = ",".join(f"{name}={value}" for name, value in fields.items())
        options["rule"] = f"{RULES.name(type(config.rule))}({values})"
    if config.max_passes:
        options["max_passes"] = config.max_passes
    return Remote(_SERVER.value, options)


def _question() -> str | None:
    """The next line of the input; None at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _show(parts: Iterator[str], live: LiveDecode, console: Console) -> str:
    """Draws an answer as it is decoded, and returns its text."""
    from rich.live import Live

    shown = [""]
    if not console.is_interactive or console.no_color:
        shown += parts
        return shown[-1]
    with Live(live.view(), console=console, auto_refresh=False) as screen:
        for text in parts:
            shown.append(text)
            screen.update(live.view(), refresh=True)
    return shown[-1]


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
