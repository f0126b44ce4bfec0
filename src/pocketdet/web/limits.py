"""What stands before every request: its bounds, its headers, its figures."""

import asyncio
import time
from collections.abc import Callable

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = "1"  # seconds
DRAIN_LIMIT = 4  # a refused body is read and thrown away up to so many times the limit, so that the answer arrives

# The page may load from nowhere but here and send nowhere but here. Cross-origin isolation gives it threads.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; style-src 'self'; "
        "img-src 'self' blob: data:; media-src blob:; connect-src 'self' blob: data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class AddHeaders:
    """Middleware: the headers above on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Observe:
    """Middleware: tells what became of every request.

    Args:
        app: What stands behind.
        observe: Told the route's path ("other" where there is none), the status and the seconds.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._observe(path, status, time.perf_counter() - start)


class LimitBody:
    """Middleware: bodies up to a size, arriving within a time.

    Args:
        app: What stands behind.
        max_body: Bytes.
        time_limit: Seconds for the whole body.
    """

    def __init__(self, app: ASGIApp, max_body: int, time_limit: float) -> None:
        self._app = app
        self._max_body = max_body
        self._time_limit = time_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, complete, end = 0, False, time.monotonic() + self._time_limit

        async def receive_some() -> Message:
            nonlocal received, complete
            if complete:  # only the client's going away can follow
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, end - time.monotonic()))
            except TimeoutError as error:
                complete = True
                raise HTTPException(
                    408, f"the body took longer than {self._time_limit:g} s", {"connection": "close"}
                ) from error
            received += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def receive_limited() -> Message:
            message = await receive_some()
            if received > self._max_body:
                raise HTTPException(413, f"the body is larger than {self._max_body} bytes")
            return message

        async def send_when_read(message: Message) -> None:
            """A client that is still sending reads no answer: let it finish first."""
            if message["type"] == "http.response.start" and message["status"] >= 400:
                while not complete and received <= DRAIN_LIMIT * self._max_body:
                    try:
                        await receive_some()
                    except HTTPException:
                        break
            await send(message)

        await self._app(scope, receive_limited, send_when_read)
