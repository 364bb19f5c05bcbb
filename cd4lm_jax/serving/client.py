"""What a terminal needs of a server: an answer's stream, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Client:
    """A server by its address.

    Attributes:
        model: what the server calls its model.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 600.0) -> None:
        """Asks the server for its model.

        Args:
            url: such as `http://127.0.0.1:8000`, with or without `/v1`.
            key: one of the server's, where it wants one.
            timeout: seconds between two answers of the server.

        Raises:
            OSError: no server there.
            ValueError: it refuses, with its message, or is no such server.
        """
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout = timeout
        try:
            with self._open("/models", None) as answer:
                self.model = str(json.load(answer)["data"][0]["id"])
        except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{url} does not speak the OpenAI API") from error

    def chat(
        self, messages: Sequence[Mapping[str, str]], **fields: Any
    ) -> Iterator[dict[str, Any]]:
        """The chunks of an answer, with what each pass committed.

        Args:
            messages: the conversation.
            fields: of the request besides.

        Raises:
            OSError: the server is gone.
            ValueError: it refuses, with its message.
        """
        diffusion = {**fields.pop("diffusion", {}), "events": True}
        body = {"model": self.model, "messages": [*messages], "stream": True, **fields}
        with self._open("/chat/completions", body | {"diffusion": diffusion}) as answer:
            for line in answer:
                data = line.decode().removeprefix("data: ").strip()
                if data == "[DONE]":
                    return
                if data:
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise ValueError(chunk["error"]["message"])
                    yield chunk
        raise OSError("the server closed the connection before the end of the answer")

    def _open(self, path: str, body: Any) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=self._timeout
            )
            return answer
        except urllib.error.HTTPError as error:
            try:
                message = json.load(error)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = f"status {error.code}"
            raise ValueError(f"{self._url}: {message}") from error
        except urllib.error.URLError as error:
            raise OSError(f"no server at {self._url}: {error.reason}") from error
