"""The live page: the page of a run, served to this machine only, and updated while the run
continues.

The server listens on the loopback address only, at a free port, and answers only requests with a
random token. A page of another site that finds the port is refused, because its Host header is
wrong and it does not know the token. Runs are requested by number, so that no file path can be
requested. The server only reads files of the run, so training is not affected.
"""

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hmac import compare_digest
from operator import itemgetter
from pathlib import Path
from typing import Any

import h11
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
from uvicorn.protocols.http.h11_impl import H11Protocol

from gradiometer.errors import BadArgument, GradiometerError, summary
from gradiometer.report.page.document import document, fragment, json_for_script, specs
from gradiometer.report.page.first import without_home
from gradiometer.report.page.page import CONTENT, content, figures_of
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.section import Figure
from gradiometer.run.reader import Run
from gradiometer.run.recorder import SECONDS_BETWEEN_WRITES
from gradiometer.storage.journal import being_written
from gradiometer.verdict.diagnosis import diagnose

# Time for a whole request, from the opening of the connection or from its first byte.
SECONDS = 10.0


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, with a limit of time for half-sent requests. More bytes do
    not extend it."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._watch()

    def handle_events(self) -> None:
        """Read what has come, and start or stop the clock."""
        super().handle_events()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(SECONDS, self._close)
            connections: set[Any] = self.connections  # of this class, all of the server
            waiting = [(each._late.when(), each) for each in connections if each._late is not None]
            # With 300 requests that a program left half-sent, nobody else was served for `SECONDS`.
            # A browser opens six connections, and sends its requests at once.
            if len(waiting) > 64:
                min(waiting, key=itemgetter(0))[1]._close()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._stop()
        if not self.transport.is_closing():
            self.transport.close()


# Share of one core that reading and drawing may use. It is smaller for a long run, whose page
# changes slowly: with waiting and sending the page, the total should stay below 0.01 for a long
# run.
SHARE, SHARE_OF_LONG = 0.05, 0.004

# Number of steps above which a run is long.
LONG = 100_000


@dataclass(frozen=True)
class View:
    """The content of the page of a run at one moment.

    Attributes:
        version: Number of the view, from 1.
        figures: The charts.
        values: The variables of the template.
    """

    version: int
    figures: tuple[Figure, ...]
    values: dict[str, Any]

    def page(self, live: str, runs: list[tuple[str, str]]) -> str:
        """The whole page, which gets its updates from the address `live`."""
        run = self.values["run"]
        page = document(
            CONTENT,
            run.name,
            self.figures,
            live,
            view=self.version,
            runs=runs,
            **self.values,
        )
        return without_home(page, run.path)

    def update(self, live: str) -> str:
        """The update of a page that is already open, as JSON."""
        html = without_home(fragment(CONTENT, live=live, **self.values), self.values["run"].path)
        return json_for_script(
            {"version": self.version, "html": html, "specs": specs(self.figures)}
        )


class Followed:
    """One run and its latest view. Several threads may use it.

    Args:
        path: The run's folder.

    Raises:
        RunNotFound: There is no run in the folder.
    """

    def __init__(self, path: Path) -> None:
        self.run = Run.open(path)
        self.view: View | None = None
        self.not_before = 0.0
        self._seen: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def latest(self) -> View:
        """The latest view. The first call draws it."""
        if self.view is None:
            self.look()
        assert self.view is not None
        return self.view

    def look(self) -> bool:
        """Draw the run again if its files have changed and its share of a core allows. Returns True
        if it was drawn."""
        with self._lock:
            if self.view is not None and time.monotonic() < self.not_before:
                return False
            seen = self._state()
            if self.view is not None and (
                seen == self._seen or not self.run.manifest_path.is_file()
            ):
                return False  # a run that was moved or deleted keeps its last view
            began = time.thread_time()
            run = self.run.refreshed()
            share = SHARE_OF_LONG if run.steps > LONG else SHARE
            if self.view is None:
                began = time.thread_time()  # the first reading from the start is not counted
            self.view = self._draw(run)
            self._seen = seen
            self.not_before = time.monotonic() + max(
                SECONDS_BETWEEN_WRITES, (time.thread_time() - began) / share
            )
            return True

    def _draw(self, run: Run) -> View:
        diagnosis = diagnose(run)
        shown = sections(run, diagnosis)
        values = content(run, diagnosis, shown)
        figures = figures_of(values["first"], shown)
        self.run = run
        return View(1 if self.view is None else self.view.version + 1, figures, values)

    def _state(self) -> tuple[object, ...]:
        """A value that changes when something is written or the writer ends; no file is read."""
        run = self.run
        paths = (
            run.readings_path(),
            run.events_path,
            run.path / "curvature",
            run.manifest_path,
            *sorted(run.path.glob("forks/*/*.json*")),
        )
        stamps: list[object] = []
        for path in paths:
            try:
                stat = path.stat()
                stamps.append((stat.st_size, stat.st_mtime_ns))
            except OSError:
                stamps.append(None)
        return (*stamps, being_written(run.events_path))


logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

# Pages that are open at the same time.
MOST_LISTENERS = 100

# Headers of every response. They keep other sites from framing or reading the page, and from
# learning the token in its address.
HEADERS = {
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
}


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
        if not 0 <= port < 65_536:
            raise BadArgument(f"`--port` must lie between 0 and 65535, got {port}.")
        try:
            self.socket = socket.create_server((LOOPBACK, port))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise BadArgument(
                f"`--port` {port} cannot be used: {reason}. Leave it out to use a free port."
            ) from error
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
                limit_concurrency=300,
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
            await asyncio.sleep(SECONDS_BETWEEN_WRITES)
            for followed, listeners in zip(self.followed, self._listeners, strict=True):
                if bool(listeners) and await asyncio.to_thread(_look_again, followed):
                    for listener in listeners:
                        listener.set()

    async def _first(self, _: Request) -> Response:
        return RedirectResponse(f"/{self.token}/run/0/")

    async def _page(self, request: Request) -> Response:
        runs = [(self._place(number), each.run.name) for number, each in enumerate(self.followed)]
        return await self._draw(
            request,
            lambda view, place: HTMLResponse(view.page(place, runs).encode(errors="replace")),
        )

    async def _update(self, request: Request) -> Response:
        return await self._draw(
            request, lambda view, place: Response(view.update(place), media_type="application/json")
        )

    async def _draw(self, request: Request, respond: Callable[[View, str], Response]) -> Response:
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
                    # A message at least every 15 seconds detects lost connections.
                    await asyncio.wait_for(listener.wait(), 15.0)
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
        return None


def _look_again(followed: Followed) -> bool:
    """True if there is a new view. A failure, such as too little memory, is logged: the next
    attempt may succeed, and the other pages get their updates."""
    try:
        return followed.look()
    except Exception as error:
        logger.warning("%s: %s", followed.run.name, _sentence(error))
        return False


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, GradiometerError | OSError) else f"{summary(error)}."


def _nothing_here() -> Response:
    return PlainTextResponse("There is no such run.", 404)
