"""Everything that goes wrong as an answer: one line under `error`."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from parallel_nst.errors import BadInput, Busy, ClusterUnavailable, PnstError, WorkerLost, message_of

LONGEST = 300  # characters


def add_errors(app: FastAPI) -> None:
    """Answer with one line, whatever goes wrong."""
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(PnstError, refused)


def answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return answer(error.status_code, str(error.detail), dict(error.headers or {}))


def invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return answer(422, f"{place or 'request'}: {first['msg']}"[:LONGEST])


def refused(request: Request, error: Exception) -> JSONResponse:
    """Of this program's own errors: the caller's, those that pass, and the others."""
    if isinstance(error, Busy):
        return answer(429, message_of(error), {"retry-after": str(error.seconds)})
    if isinstance(error, (WorkerLost, ClusterUnavailable)):
        return answer(503, message_of(error), {"retry-after": "5"})
    return answer(422 if isinstance(error, BadInput) else 500, message_of(error))
