"""What stands before every route: an id, a key, a bound on the body, a line in the log.

A plain ASGI application, so that streams pass through it as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import pathlib
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cd4lm_jax.serving.api.errors import ApiError
from cd4lm_jax.serving.api.metrics import Metrics

ACCESS = logging.getLogger("cd4lm_jax.serving.access")


class Guard:
    """Wraps an application."""

    def __init__(
        self, app: ASGIApp, *, keys: list[bytes], max_body_bytes: int, metrics: Metrics
    ) -> None:
        """`keys` are digests, see `read_keys`; without any, every request may pass."""
        self._app = app
        self._keys = keys
        self._most = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, request_id = time.perf_counter(), f"req-{secrets.token_hex(12)}"
        notes: dict[str, Any] = {}
        scope["state"] = {**scope.get("state", {}), "notes": notes, "request_id": request_id}
        status = 500  # until an answer begins

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            try:
                self._check_key(scope)
                await self._app(scope, await self._bounded(scope, receive), answer)
            except ApiError as error:
                await error.response()(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            outcome = notes.pop("outcome", str(status))
            self._metrics.requests.labels(route=route, outcome=outcome).inc()
            line = {"request_id": request_id, "method": scope["method"], "route": route}
            line |= {"status": status, "outcome": outcome, "ms": round(1000 * seconds, 1)}
            ACCESS.info("request", extra={"fields": line | notes})

    def _check_key(self, scope: Scope) -> None:
        if not self._keys or not scope["path"].startswith("/v1/"):
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        known = [hmac.compare_digest(digest, one) for one in self._keys]
        if kind.lower() != b"bearer" or not any(known):
            raise ApiError(
                401,
                "give a key of this server as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read whole; then what the client does."""
        too_long = ApiError(
            413, f"the body is longer than {self._most} bytes", code="body_too_large"
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._most:
            raise too_long
        parts, size, more = [], 0, scope["method"] in ("POST", "PUT", "PATCH")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._most:
                raise too_long
        body: list[Message] = [
            {"type": "http.request", "body": b"".join(parts), "more_body": False}
        ]

        async def next_message() -> Message:
            return body.pop() if body else await receive()

        return next_message


def read_keys(path: str | None) -> list[bytes]:
    """The digests of the keys in a file, one a line; lines that begin with # are left out.

    Raises:
        ValueError: a file without keys.
    """
    if path is None:
        return []
    lines = [line.strip() for line in pathlib.Path(path).read_text().splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{path} holds no key; write one a line")
    return [hashlib.sha256(key.encode()).digest() for key in keys]


class JsonLines(logging.Formatter):
    """A record as a line of JSON. What a request says is in none."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # The text of an exception may quote what a client sent.
            line["error"] = record.exc_info[0].__name__
            line["at"] = _place(record.exc_info[2])
        return json.dumps(line)


def _place(trace: Any) -> list[str]:
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{pathlib.Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-8:]
