"""Error responses: problem details (RFC 9457) with what was expected, what came, and what to do."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from atlas_model.core.errors import AtlasError, InputError
from atlas_model.core.progress import say
from flows.text import printable

MEDIA_TYPE = "application/problem+json"
OPEN_INFERENCE = "/v2"  # its specification wants errors in a member `error`
LONGEST_VALUE = 80  # characters of a value from the request, in an error


class Problem(HTTPException):
    """An error response.

    Args:
        status: HTTP status.
        code: short name, the end of the problem's type.
        expected: what the service expected.
        got: what it received.
        remedy: what to do.
        errors: faults of single values, each with a JSON pointer.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        expected: str,
        got: str,
        remedy: str,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, f"expected {expected}, got {got}. {remedy}", dict(headers or {}))
        self.code = code
        self.members: dict[str, Any] = {"expected": expected, "got": got, "remedy": remedy}
        if errors:
            self.members["errors"] = list(errors)

    def response(self, path: str) -> Response:
        """The response to a request for ``path``."""
        return _response(self.status_code, self.code, self.detail, path, members=self.members, headers=self.headers)


def busy(what: str, retry_after_s: float) -> Problem:
    """The service has more work than it accepts."""
    seconds = max(1, round(retry_after_s))
    return Problem(
        503,
        "busy",
        expected="a request that fits into the queue",
        got=what,
        remedy=f"Send it again after {seconds} s, or start more instances of the service",
        headers={"Retry-After": str(seconds)},
    )


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """The response to a request that the access rules refuse; see `flows.web.access.AccessMiddleware`."""
    return _response(status, "access", reason, "", headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Turn every exception of ``app`` into a problem."""

    async def of_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response(request.url.path)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _of_http(request, error).response(request.url.path)

    async def of_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _of_validation(request, error).response(request.url.path)

    async def of_atlas(request: Request, error: Exception) -> Response:
        status = 422 if isinstance(error, InputError) else 500
        return _response(status, "input" if status == 422 else "failure", str(error), request.url.path)

    async def of_bug(request: Request, error: Exception) -> Response:
        say(f"error: {request.method} {printable(request.url.path)}: {type(error).__name__}")  # Starlette logs the rest
        return _response(500, "failure", "the service failed; its log has the cause", request.url.path)

    app.add_exception_handler(Problem, of_problem)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(AtlasError, of_atlas)
    app.add_exception_handler(Exception, of_bug)


def shown(value: Any) -> str:
    """``value`` of a request, short and printable."""
    text = ascii(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _of_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == 404:
        expected, got, remedy = "a path of this service", shown(request.url.path), "See /openapi.json"
    elif error.status_code == 405:
        expected, got, remedy = "a method that this path has", request.method, "See /openapi.json"
    else:
        expected, got, remedy = "a valid request", str(error.detail), "Correct the request"
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return Problem(error.status_code, code, expected=expected, got=got, remedy=remedy, headers=error.headers)


def _of_validation(request: Request, error: RequestValidationError) -> Problem:
    faults = [_fault(request, fault) for fault in error.errors()]
    first = faults[0]
    more = f" and {len(faults) - 1} more faults" if len(faults) > 1 else ""
    return Problem(
        422,
        "validation",
        expected=f"{first['pointer']}: {first['expected']}",
        got=f"{first['got']}{more}",
        remedy="See /openapi.json for the request's schema",
        errors=faults,
    )


def _fault(request: Request, fault: Mapping[str, Any]) -> dict[str, str]:
    """One fault of a request: the place in its body, what was expected there, and what came."""
    place, value = fault["loc"][1:], fault.get("input")
    if fault["type"] == "json_invalid":  # its place is a position in the text
        return {"pointer": "#/", "expected": "valid JSON", "got": f"{fault['ctx']['error']} at character {place[0]}"}
    if isinstance(value, bytes) and not place:  # the body was not read as JSON, because of its type
        came = shown(request.headers.get("content-type", "no Content-Type"))
        return {"pointer": "#/", "expected": "Content-Type: application/json (files: /v1/predict/files)", "got": came}
    return {"pointer": "#/" + "/".join(map(str, place)), "expected": fault["msg"], "got": shown(value)}


def _response(
    status: int,
    code: str,
    detail: str,
    path: str,
    *,
    members: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = {
        "type": f"urn:atlas:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **(members or {}),
    }
    if path.startswith(OPEN_INFERENCE):
        body["error"] = detail
    return JSONResponse(body, status, dict(headers or {}), media_type=MEDIA_TYPE)
