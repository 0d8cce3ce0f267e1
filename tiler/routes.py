"""What our routes do by themselves: answer errors, drop work that nobody waits for, and parse on the event loop."""

import hmac
import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import HTTPException
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from tiler.crs import check_spelling
from tiler.errors import (
    BusyError,
    DeviceError,
    ForbiddenSource,
    InferenceError,
    MisfitError,
    OutsideError,
    ReadError,
    RequestError,
    SceneError,
    UnknownNameError,
)
from tiler.middleware import LISTENS, METHODS, run_until_gone

logger = logging.getLogger(__name__)


# The one place where the domain's errors become HTTP. The first class that fits counts.
STATUS_CODES: tuple[tuple[type[InferenceError], int], ...] = (
    (UnknownNameError, 404),
    (OutsideError, 404),
    (ForbiddenSource, 403),
    (RequestError, 400),
    (SceneError, 422),
    (MisfitError, 422),
    (BusyError, 503),
    (ReadError, 502),
    (DeviceError, 500),
    (InferenceError, 400),
)

# What is asked by POST and changes nothing, so that it may be given up like a GET.
QUESTIONS = re.compile(r"/(statistics|accuracy|areas|feature(/\d+x\d+)?(\.\w+)?)$")

# A URL that names a revision can never change; any other may with the next model.
IMMUTABLE = "public, max-age=31536000, immutable"
SHORT = "public, max-age=60"
NO_STORE = "no-store"
# A document that names the present revision: whoever opens a map again must see the new one.
REVALIDATE = "no-cache"


def http_error(error: InferenceError) -> HTTPException:
    """The HTTP answer of a domain error: JSON with a `detail` that says reason and remedy."""
    status = next(code for kind, code in STATUS_CODES if isinstance(error, kind))
    headers = {"Cache-Control": NO_STORE}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.retry_after)
    if status >= 500 and status != 503:
        logger.error("%s", error, exc_info=error)
    return HTTPException(status, detail=str(error), headers=headers)


def check_bearer(request: Request, token: str) -> None:
    """Refuse whoever does not know a token.

    Raises:
        HTTPException: 401, whatever else they have shown.
    """
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    # Always compared, and in a time that does not tell how much of it is right.
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    if kind.casefold() != "bearer" or not right:
        raise HTTPException(
            401,
            "The token is missing or wrong. Send `Authorization: Bearer <token>`.",
            headers={"Cache-Control": NO_STORE, "WWW-Authenticate": "Bearer"},
        )


class InferenceRoute(APIRoute):
    """A route that needs no help of the host application: it answers our errors, and drops what nobody waits for."""

    def get_route_handler(self) -> Callable[..., Any]:
        """Wrap the endpoint, dependencies included."""
        handler = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                _check_crs(request)
                response: Response = await until_gone(request, handler)
            except InferenceError as error:
                raise http_error(error) from error
            return response

        return translated


def _check_crs(request: Request) -> None:
    """TiTiler hands these to GDAL as they are.

    Raises:
        RequestError: one of them is a file or an address.
    """
    for name in ("coord_crs", "dst_crs"):
        for text in request.query_params.getlist(name):
            if text:
                check_spelling(text)


async def until_gone(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer a request, or give its work up when its client has gone.

    The host may have no cancelling middleware, and may have some that hide the closed connection from a poll; what they
    cannot hide is the connection's own message.
    """
    if LISTENS in request.scope or not (request.method in METHODS or QUESTIONS.search(request.url.path)):
        return await handler(request)
    if request.method not in METHODS:
        # Kept by the request for its handler. Only what comes after it is the connection's end.
        await request.body()
    answered: list[Response] = []

    async def answer() -> None:
        answered.append(await handler(request))

    await run_until_gone(answer, request.receive)
    # Nobody reads this one: its client has gone.
    return answered[0] if answered else Response(status_code=499)


def inline(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """A dependency that only parses, run on the event loop.

    FastAPI runs every synchronous one, classes included, in a shared thread: ten hops a tile, and all of them wait when
    those threads are busy.
    """

    async def parse(*args: Any, **kwargs: Any) -> Any:
        return dependency(*args, **kwargs)

    # Evaluated here: FastAPI would look for a string annotation's names in this module and not in the dependency's.
    parse.__signature__ = inspect.signature(dependency, eval_str=True)  # type: ignore[attr-defined]
    return parse
