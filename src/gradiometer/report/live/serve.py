"""The live page: the page of a run, served to this machine only, and updated while the run
continues.

The server listens on the loopback address only, at a free port, and answers only requests with a
random token. A page of another site that finds the port is refused, because its Host header is
wrong and it does not know the token. Runs are requested by number, so that no file path can be
requested. The server only reads files of the run, so training is not affected.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from hmac import compare_digest
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradiometer.errors import BadArgument, GradiometerError, summary
from gradiometer.report.live.follow import SOONEST, Followed, View
from gradiometer.report.live.protocol import TimedProtocol

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
HEARTBEAT = 15.0
"""Seconds without an update after which a message is sent, to detect lost connections."""

MOST_LISTENERS, MOST_CONNECTIONS = 100, 300
"""Pages that are open at the same time, and connections."""

HEADERS = {
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
}
"""Headers of every response. They keep other sites from framing or reading the page, and from
learning the token in its address."""


class Live:
    """A server for the live pages of several runs.

    Args:
        paths: Run folders.
        port: Port to listen on; 0 chooses a free one.

    Raises:
        RunNotFound: There is no run in one of the folders.
        BadArgument: The port cannot be used.
    """

    def __init__(self, paths: Sequence[Path], port: int = 0) -> None:
        self.followed = [Followed(path) for path in paths]
        self.token = secrets.token_urlsafe(24)
        self.socket = _listening(port)
        self.port: int = self.socket.getsockname()[1]
        self.address = f"http://{LOOPBACK}:{self.port}/{self.token}/"
        self._listeners: list[set[asyncio.Event]] = [set() for _ in self.followed]
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app(),
                log_level="warning",
                access_log=False,
                ws="none",
                http=TimedProtocol,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=1,
                lifespan="on",
            )
        )

    def serve(self) -> None:
        """Serve until the process receives a signal or `stop` is called."""
        self._server.run(sockets=[self.socket])

    def stop(self) -> None:
        """End `serve`. Call it from another thread."""
        self._server.should_exit = True

    def app(self) -> ASGIApp:
        """The application, protected by `AccessGuard`."""
        routes = [
            Route("/{token}/", self._first),
            Route("/{token}/run/{number}/", self._page),
            Route("/{token}/run/{number}/update", self._update),
            Route("/{token}/run/{number}/events", self._events),
        ]
        return AccessGuard(Starlette(routes=routes, lifespan=self._lifespan), self)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    async def _watch(self) -> None:
        """Check every run whose page is open."""
        while True:
            await asyncio.sleep(SOONEST)
            for followed, listeners in zip(self.followed, self._listeners, strict=True):
                changed = bool(listeners) and await asyncio.to_thread(_changed, followed)
                for listener in listeners if changed else ():
                    listener.set()

    async def _first(self, _: Request) -> Response:
        return RedirectResponse(f"/{self.token}/run/0/")

    async def _page(self, request: Request) -> Response:
        runs = [(self._place(number), each.name) for number, each in enumerate(self.followed)]
        return await self._drawn(
            request,
            lambda view, place: HTMLResponse(view.page(place, runs).encode(errors="replace")),
        )

    async def _update(self, request: Request) -> Response:
        return await self._drawn(
            request, lambda view, place: Response(view.update(place), media_type="application/json")
        )

    async def _drawn(self, request: Request, respond: Callable[[View, str], Response]) -> Response:
        """The response made of the latest view of a run. One that cannot be drawn is a sentence: it
        may be, later."""
        followed = self._asked_for(request)
        if followed is None:
            return _nothing_here()
        place = self._place(self.followed.index(followed))
        try:
            return await asyncio.to_thread(lambda: respond(followed.latest(), place))
        except Exception as error:
            return PlainTextResponse(_sentence(error).encode(errors="replace"), 503)

    async def _events(self, request: Request) -> Response:
        followed = self._asked_for(request)
        if followed is None:
            return _nothing_here()
        if sum(map(len, self._listeners)) >= MOST_LISTENERS:
            return PlainTextResponse(
                f"{MOST_LISTENERS} pages are open already: close one, then reload this one.", 503
            )
        return StreamingResponse(
            self._versions(self.followed.index(followed)), media_type="text/event-stream"
        )

    async def _versions(self, number: int) -> AsyncIterator[str]:
        """The current version, and every later one."""
        listener = asyncio.Event()
        listener.set()
        self._listeners[number].add(listener)
        try:
            while not self._server.should_exit:
                try:
                    await asyncio.wait_for(listener.wait(), HEARTBEAT)
                except TimeoutError:
                    yield ": no change\n\n"
                    continue
                listener.clear()
                view = self.followed[number].view
                yield f"event: view\ndata: {0 if view is None else view.version}\n\n"
        finally:
            self._listeners[number].discard(listener)

    def _place(self, number: int) -> str:
        return f"/{self.token}/run/{number}/"

    def _asked_for(self, request: Request) -> Followed | None:
        number = request.path_params["number"]
        known = [str(place) for place in range(len(self.followed))]
        return self.followed[known.index(number)] if number in known else None


class AccessGuard:
    """Accepts only requests that read, with the right Host header and the right token.

    Args:
        app: The application to protect.
        live: The server that has the token and the port.
    """

    def __init__(self, app: ASGIApp, live: Live) -> None:
        self.app = app
        self.live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        refusal = self._refusal(scope)
        await (self.app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if hosts not in ([f"{LOOPBACK}:{self.live.port}"], [f"localhost:{self.live.port}"]):
            return PlainTextResponse("This address is for this machine only.", 403)
        _, _, below = scope["path"].partition("/")
        given = below.partition("/")[0]
        if not compare_digest(given.encode(errors="replace"), self.live.token.encode()):
            return PlainTextResponse(
                "Wrong token: use the address that gradiometer show --live printed.", 403
            )
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Only GET and HEAD are allowed.", 405)
        return None


def _changed(followed: Followed) -> bool:
    """True if there is a new view. A failure is logged, because the next attempt may succeed, or
    another run."""
    try:
        return followed.look()
    except (
        Exception
    ) as error:  # such as too little memory; it must not end the updates of all pages
        logger.warning("%s: %s", followed.name, _sentence(error))
    return False


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, GradiometerError | OSError) else f"{summary(error)}."


def _nothing_here() -> Response:
    return PlainTextResponse("There is no such run.", 404)


def _listening(port: int) -> socket.socket:
    if not 0 <= port < 65_536:
        raise BadArgument(f"`--port` must lie between 0 and 65535, got {port}.")
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((LOOPBACK, port))
        made.listen()
    except OSError as error:
        made.close()
        reason = (error.strerror or str(error)).lower()
        raise BadArgument(
            f"`--port` {port} cannot be used: {reason}. Leave it out to use a free port."
        ) from error
    return made
