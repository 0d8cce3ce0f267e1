"""A closed connection cancels its handler: a tile that nobody waits for is not worked on.

Pure ASGI. Polling `is_disconnected()` never hears of it behind Starlette's own middleware base class, and nothing is
cancelled unless somebody does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiler.leaving import Client, working_for

# GET and HEAD have no body, so nothing is lost when somebody else listens to the connection.
METHODS = ("GET", "HEAD")

# In a request's scope: somebody listens already.
LISTENS = "tiler.cancels"


class CancelOnDisconnect:
    """Cancels GET and HEAD requests whose client has gone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application until it has answered or the client has gone."""
        if scope["type"] != "http" or scope["method"] not in METHODS:
            await self.app(scope, receive, send)
            return
        gone = asyncio.Event()
        given = False
        scope[LISTENS] = True

        async def receive_once() -> Message:
            """The empty body, then silence until the client goes: what a handler may hear of the connection."""
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        await run_until_gone(lambda: self.app(scope, receive_once, send), receive, gone)


async def run_until_gone(
    handler: Callable[[], Awaitable[None]], receive: Receive, gone: asyncio.Event | None = None
) -> None:
    """Await `handler()`, but cancel it when `receive` reports that the client has gone.

    Args:
        handler: makes what is to be awaited.
        receive: the connection, which nobody else may listen to meanwhile.
        gone: set when the client has gone, just before the handler is cancelled.
    """

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    client = Client()
    with working_for(client):
        task = asyncio.ensure_future(handler())
    listener = asyncio.ensure_future(listen())
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            # Raises what the handler raised.
            task.result()
        else:
            # Threads that work for the handler cannot be cancelled; they look for this.
            client.leave()
            if gone is not None:
                gone.set()
    finally:
        left = [item for item in (task, listener) if not item.done()]
        for item in left:
            item.cancel()
        if left:
            # Not awaited one by one: our own cancellation, should it come now, must not be taken for theirs.
            await asyncio.wait(left)
        for item in left:
            # Nobody hears an answer any more, nor an error on the way out; asyncio would complain of one not looked at.
            if not item.cancelled():
                item.exception()
