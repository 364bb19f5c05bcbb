"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        param: the field of the request that it is about.
        code: short, for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _KINDS.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def wrong(param: str, message: str, code: str | None = None) -> ApiError:
    """A field of a request that cannot be as it is."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that a request's schema finds wrong; its value is not repeated."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json")
    # Which of several types was tried is no part of the field's name.
    place = [part for part in first["loc"] if part != "body" and not _is_type(part)]
    name = ".".join(map(str, place))
    messages = {
        "extra_forbidden": "there is no such field",
        "missing": "is required",
    }
    message = messages.get(first["type"], first["msg"])
    return wrong(name, message) if name else ApiError(400, f"the body: {message}")


def of_http(error: HTTPException) -> ApiError:
    """A route or method that there is not."""
    messages = {404: "there is no such page", 405: "this page does not take this method"}
    return ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))


def _is_type(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float") or bool({*"[-"} & {*part}))
