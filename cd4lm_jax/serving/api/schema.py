"""What a request may hold, as OpenAI has it, and our own `diffusion` beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

MAX_STOPS = 16
Number = StrictFloat | StrictInt


def _whole(text: str) -> str:
    """JSON can hold half of a character, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate)") from None
    return text


Text = Annotated[StrictStr, AfterValidator(_whole)]
Stop = Annotated[Text, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Diffusion(_Strict):
    """How the answer is decoded. Fields that are left out are as the server has them."""

    threshold: Number | None = Field(None, description="Of the commit rule.")
    rule: Text | None = Field(None, description="NAME or NAME(FIELD=VALUE, ...).")
    max_passes: Annotated[StrictInt, Field(ge=0, lt=1 << 31)] | None = Field(
        None, description="Forward passes at most; 0 for no limit."
    )
    block_length: StrictInt | None = None
    cache: Text | None = None
    infill: list[Text | Annotated[StrictInt, Field(ge=1)]] | None = Field(
        None,
        description="The answer with gaps: texts that are fixed, and numbers of tokens to decode.",
    )
    events: StrictBool = Field(False, description="Say what each pass committed.")


class StreamOptions(_Strict):
    """What a stream holds besides."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class Part(_Strict):
    """A part of a message; texts are the only ones."""

    type: Literal["text"]
    text: Text


class Message(_Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part]
    name: Text | None = None

    def plain(self) -> dict[str, str]:
        """As a chat template takes it; a developer's message is the system's."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class _Request(_Strict):
    """What both kinds of requests have.

    `user`, `metadata` and `store` are taken and not used; penalties may be given as 0.
    """

    model: Text
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, lt=1 << 31)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 31), lt=1 << 31)] | None = None
    n: Annotated[StrictInt, Field(ge=1)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    diffusion: Diffusion = Diffusion()  # type: ignore[call-arg]  # the fields' defaults
    frequency_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    user: Text | None = None
    metadata: dict[str, Any] | None = None
    store: StrictBool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(_Request):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0)] | None = None


class CompletionRequest(_Request):
    """A text to go on with, or several; token ids are taken as they are."""

    prompt: Text | list[StrictInt] | list[Text] | list[list[StrictInt]]
    logprobs: Annotated[StrictInt, Field(ge=0)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[StrictInt, Field(ge=1, le=1)] | None = None
    suffix: None = None
