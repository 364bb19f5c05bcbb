"""Answers as OpenAI's clients read them: whole, or in the chunks of a stream."""

from __future__ import annotations

import math
import secrets
import time
from typing import Any

from cd4lm_jax.decoding.reason import Reason
from cd4lm_jax.replay.chips import TokenText
from cd4lm_jax.serving.answer import Answer
from cd4lm_jax.serving.api.prepare import Choice, Request
from cd4lm_jax.serving.api.schema import ChatRequest
from cd4lm_jax.serving.engine.job import Commit

LEAST_LOGPROB = -9999.0
"""For a probability that rounds to 0, as OpenAI writes it."""


class Bodies:
    """What is said of one request, in the form of its kind."""

    def __init__(self, request: Request, choices: list[Choice], answers: list[Answer]) -> None:
        self._request = request
        self._choices = choices
        self._answers = answers
        self._chat = isinstance(request, ChatRequest)
        kind = "chat.completion" if self._chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": request.model,
        }
        self._object = kind
        self._chunk = "chat.completion.chunk" if self._chat else kind
        self._logprobs = request.logprobs is not None and request.logprobs is not False
        self._events: list[list[dict[str, Any]]] = [[] for _ in answers]
        self._sent = [""] * len(answers)
        self._sent_tokens = [0] * len(answers)

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = []
        for index, answer in enumerate(self._answers):
            choice: dict[str, Any] = {"index": index, "finish_reason": answer.finish}
            if self._chat:
                message = {"role": "assistant", "content": answer.text, "refusal": None}
                choice["message"] = message
            else:
                choice["text"] = answer.text
            choice["logprobs"] = self._logprobs_of(answer, 0, answer.length)
            choice["diffusion"] = self._diffusion(index)
            if self._request.diffusion.events:
                choice["diffusion"]["events"] = self._events[index]
            choices.append(choice)
        return {**self._head, "object": self._object, "choices": choices, "usage": self.usage()}

    def note(self, index: int, event: Commit) -> None:
        """Keeps what each pass committed, where the request asks for it."""
        if self._request.diffusion.events:
            self._events[index] += self._passes(index, event)

    def first(self) -> list[dict[str, Any]]:
        """The chunks before any text: whose turn it is."""
        if not self._chat:
            return []
        role = {"role": "assistant", "content": ""}
        return [self._piece(index, role, None) for index in range(len(self._answers))]

    def update(self, index: int, event: Commit) -> dict[str, Any] | None:
        """The chunk after an event of a row; None where there is nothing to say."""
        answer = self._answers[index]
        text = answer.text[len(self._sent[index]) :]
        self._sent[index] += text
        events = self._passes(index, event) if self._request.diffusion.events else []
        if not text and not events and answer.finish is None:
            return None
        logprobs = None
        if self._logprobs:
            start = self._sent_tokens[index]
            end = answer.length if answer.finish else answer.tokens_of(self._sent[index], start)
            self._sent_tokens[index] = end
            logprobs = self._logprobs_of(answer, start, end)
        delta = {"content": text} if text and self._chat else {}
        piece = self._piece(index, delta if self._chat else text, logprobs)
        choice = piece["choices"][0]
        choice["finish_reason"] = answer.finish
        if answer.finish is not None:
            choice["diffusion"] = self._diffusion(index)
        if events:
            choice.setdefault("diffusion", {})["events"] = events
        return piece

    def last(self) -> dict[str, Any] | None:
        """The chunk after all others: what was used, where the request asks for it."""
        options = self._request.stream_options
        if options is None or not options.include_usage:
            return None
        return {**self._head, "object": self._chunk, "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens, and forward passes of all choices together."""
        # The prompt of several choices counts once, as at OpenAI.
        prompt = sum(len(choice.prompt) for choice in self._choices if choice.number == 0)
        completion = sum(answer.length for answer in self._answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "passes": sum(answer.passes for answer in self._answers),
        }

    def _piece(self, index: int, content: Any, logprobs: Any) -> dict[str, Any]:
        name = "delta" if self._chat else "text"
        choice = {"index": index, name: content, "logprobs": logprobs, "finish_reason": None}
        return {**self._head, "object": self._chunk, "choices": [choice]}

    def _diffusion(self, index: int) -> dict[str, Any]:
        answer, config = self._answers[index], self._choices[index].config
        said = {"passes": answer.passes, "gen_length": config.gen_length}
        return said | {"seed": config.seed, "choice": self._choices[index].number}

    def _logprobs_of(self, answer: Answer, start: int, end: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        positions = range(start, end)
        texts = [answer.token_text(position) for position in positions]
        values = [_log(float(answer.confidence[position])) for position in positions]
        if self._chat:
            content = [
                {"token": text, "logprob": value, "bytes": [*text.encode()], "top_logprobs": []}
                for text, value in zip(texts, values, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets, at = [], sum(len(answer.token_text(position)) for position in range(start))
        for text in texts:
            offsets.append(at)
            at += len(text)
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": None,
            "text_offset": offsets,
        }

    def _passes(self, index: int, event: Commit) -> list[dict[str, Any]]:
        """What each pass of an event committed."""
        answer = self._answers[index]
        found: dict[int, dict[str, Any]] = {}
        for at in range(len(event.position)):
            number = int(event.committed_at[at])
            one = found.setdefault(
                number,
                {
                    "pass": number,
                    "positions": [],
                    "tokens": [],
                    "texts": [],
                    "confidence": [],
                    "reason": [],
                },
            )
            position = int(event.position[at])
            shown = TokenText.of(answer.token_text(position))
            one["positions"].append(position)
            one["tokens"].append(int(event.tokens[at]))
            one["texts"].append([shown.label, int(shown.special), int(shown.breaks)])
            one["confidence"].append(round(float(event.confidence[at]), 4))
            one["reason"].append(Reason(int(event.reason[at])).name.lower())
        return [found[number] for number in sorted(found)]


def _log(probability: float) -> float:
    return max(math.log(probability), LEAST_LOGPROB) if probability > 0 else LEAST_LOGPROB
