"""A process that serves: engine, application and signals, from the start to the last answer."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.language_model import LanguageModel
from cd4lm_jax.serving.api import app as apps
from cd4lm_jax.serving.api import guard
from cd4lm_jax.serving.engine.engine import Engine
from cd4lm_jax.serving.settings import Offer, ServeConfig

_ROOT = "cd4lm_jax.serving"


class Server:
    """A model behind a socket.

    Attributes:
        engine: what decodes.
        service: what the routes use.
        port: that it listens at, once `listen` has been called.
    """

    def __init__(
        self, model: LanguageModel, decode: DecodeConfig, config: ServeConfig, folder: str
    ) -> None:
        """Checks what is to be served; nothing is compiled yet.

        Args:
            model: with its tokenizer.
            decode: of requests that say nothing; its `batch_size` is the slots of a lane.
            config: the operator's limits.
            folder: of the model, for its name.

        Raises:
            ValueError: a model without tokenizer, or settings that do not go together.
        """
        if model.tokenizer is None:
            raise ValueError(
                f"{folder} has no tokenizer, and requests are text; copy tokenizer.json and "
                "tokenizer_config.json there"
            )
        offer = Offer.of(decode, config, model.transformer.config.max_length)
        self._config = config
        self.engine = Engine(
            model.transformer,
            slots=decode.batch_size,
            queue=config.queue,
            segment_passes=config.segment_passes,
        )
        self.service = apps.Service(
            engine=self.engine,
            tokenizer=model.tokenizer,
            offer=offer,
            config=config,
            name=config.model_name or pathlib.Path(folder).resolve().name,
        )
        self._app = apps.create(self.service)
        self._socket: socket.socket | None = None
        self._uvicorn: uvicorn.Server | None = None
        self.port = config.port

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.service.name

    def listen(self) -> None:
        """Takes the port, so that one in use is an error before anything is compiled.

        Raises:
            OSError: the address is in use or not this machine's.
        """
        config = self._config
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            listener.close()
            where = f"{config.host} port {config.port}"
            raise OSError(
                f"cannot listen at {where}: {error.strerror}; give another --port"
            ) from error
        self._socket = listener
        self.port = listener.getsockname()[1]

    def warm(self, said: Callable[[str], None]) -> None:
        """Compiles for the server's own settings; says a line for each program."""
        for line in self.engine.warm([self.service.offer.base]):
            said(line)

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serves until `stop` or a signal, then ends what is in flight.

        Args:
            started: called once requests are taken.
        """
        if self._socket is None:
            self.listen()
        settings = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(self._config.drain_timeout)),
        )
        self._uvicorn = server = _Uvicorn(settings, started)
        self.engine.start()
        try:
            with _signals(self.stop):
                assert self._socket is not None
                server.run(sockets=[self._socket])
        finally:
            self.engine.stop()

    def stop(self) -> None:
        """Takes no new requests; `run` returns when those in flight have ended, or at its bound."""
        self.service.draining = True
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Says when it has started, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started_callback = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started_callback()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours are in place."""
        yield


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C ask to stop; a second one leaves at once.

    Outside the main thread, where Python allows no handlers, signals do what they did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        del frame
        if asked:
            os._exit(128 + number)
        asked = True
        logging.getLogger(_ROOT).info("draining", extra={"fields": {"signal": number}})
        stop()

    before: dict[int, Any] = {
        number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to_stderr() -> None:
    """Lines of JSON on stderr, of the server and of what goes wrong in uvicorn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(guard.JsonLines())
    for name, level in ((_ROOT, logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
