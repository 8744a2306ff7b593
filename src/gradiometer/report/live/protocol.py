"""HTTP connections that are closed if a request is not complete in time."""

import asyncio
from operator import itemgetter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0
"""Time for a whole request, from the opening of the connection or from its first byte."""

MOST_WAITING = 64
"""Connections whose request is not complete. One more closes the oldest: with 300 that a program
left half-sent, nobody else was served for `SECONDS`. A browser opens six, and sends its requests at
once."""


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
            waiting = [(each._late.when(), each) for each in self._others if each._late is not None]
            if len(waiting) > MOST_WAITING:
                min(waiting, key=itemgetter(0))[1]._close()

    @property
    def _others(self) -> "set[TimedProtocol]":
        """The open connections of the server."""
        return self.connections  # type: ignore[return-value]

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._stop()
        if not self.transport.is_closing():
            self.transport.close()
