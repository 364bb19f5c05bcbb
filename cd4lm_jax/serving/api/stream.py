"""Answers on the wire: events of a stream, and what happens when a client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from cd4lm_jax.serving.api.bodies import Bodies
from cd4lm_jax.serving.api.errors import ApiError
from cd4lm_jax.serving.api.metrics import Metrics
from cd4lm_jax.serving.api.session import Session, timed_out

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Exchange:
    """One request and its answer, with what the log and the metrics say of them."""

    def __init__(
        self, session: Session, bodies: Bodies, metrics: Metrics, notes: dict[str, Any]
    ) -> None:
        self.session = session
        self.bodies = bodies
        self.notes = notes
        self._metrics = metrics
        self._start = time.perf_counter()
        self._first_sent = False

    def saw_text(self) -> None:
        """Notes the first text that is certain."""
        if not self._first_sent and any(answer.text for answer in self.session.answers):
            self._first_sent = True
            self._metrics.first_token.observe(time.perf_counter() - self._start)

    def end(self) -> None:
        """Notes the end of all answers."""
        self._metrics.last_token.observe(time.perf_counter() - self._start)
        finish = sorted({answer.finish or "" for answer in self.session.answers})
        self.notes |= {**self.bodies.usage(), "finish": ",".join(finish)}


async def whole(exchange: Exchange, request: Request) -> Response:
    """An answer that is not streamed.

    Raises:
        ApiError: the time is over, or the engine failed.
    """
    gone = asyncio.create_task(_gone(request.receive))
    ended = asyncio.create_task(_collect(exchange))
    try:
        await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            exchange.notes["outcome"] = "disconnected"
            return Response(status_code=499)  # nobody reads it
        ended.result()
        exchange.end()
        return JSONResponse(exchange.bodies.whole())
    finally:
        exchange.session.close()
        for task in (gone, ended):
            task.cancel()


class EventStream(Response):
    """A stream of server-sent events that ends when its client goes away.

    A client that reads slowly holds up its own stream alone, and that no longer than the request's
    time.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        del scope
        notes = self._exchange.notes
        gone = asyncio.create_task(_gone(receive))
        sent = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({gone, sent}, return_when=asyncio.FIRST_COMPLETED)
            if sent.done():
                sent.result()
            else:
                notes["outcome"] = "disconnected"
        finally:
            self._exchange.session.close()
            for task in (gone, sent):
                task.cancel()

    async def _send(self, send: Send) -> None:
        exchange = self._exchange
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            async for chunk in _chunks(exchange):
                await self._write(send, json.dumps(chunk, ensure_ascii=False))
            await self._write(send, "[DONE]")
        except ApiError as error:
            exchange.notes["outcome"] = "error"
            with contextlib.suppress(TimeoutError, ApiError):
                await self._write(send, json.dumps(error.body()), grace=1.0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, data: str, *, grace: float = 0.0) -> None:
        message = {
            "type": "http.response.body",
            "body": f"data: {data}\n\n".encode(errors="replace"),
            "more_body": True,
        }
        try:
            await asyncio.wait_for(send(message), self._exchange.session.remaining + grace)
        except TimeoutError:
            raise timed_out() from None


async def _collect(exchange: Exchange) -> None:
    async for index, event in exchange.session.events():
        exchange.bodies.note(index, event)
        exchange.saw_text()


async def _chunks(exchange: Exchange) -> AsyncIterator[dict[str, Any]]:
    bodies = exchange.bodies
    for chunk in bodies.first():
        yield chunk
    async for index, event in exchange.session.events():
        exchange.saw_text()
        update = bodies.update(index, event)
        if update is not None:
            yield update
    exchange.end()
    last = bodies.last()
    if last is not None:
        yield last


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
