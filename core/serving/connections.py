"""Connections of clients: uvicorn's, with limits of time and number, and errors as JSON.

uvicorn waits for the rest of a request for as long as a client likes, for a client that does not read its answer, and
takes any number of connections. Knows HTTP as far as uvicorn does not.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 65536
"""Bytes of a request before its body."""


class Coalescing(asyncio.Transport):
    """A transport that sends at once what is written in a turn of the event loop: head and body of an answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        super().__init__()
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []
        for name in ("abort", "get_extra_info", "is_closing", "pause_reading", "resume_reading"):
            setattr(self, name, getattr(transport, name))

    def write(self, data: Any) -> None:
        """Send `data` before the loop's next turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written:
            self._transport.write(b"".join(written))


class Connection(HttpToolsProtocol):
    """A connection. Its application is a `bitrl.core.serving.app.Service`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._service: Any = self.app
        self._idle, self._in_head, self._broken, self._ended = False, True, False, False
        self._since = self.loop.time()  # when the request began to come, or the last answer was sent
        self._closing: float | None = None
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, in the place of one that only waits if there are too many, or refuse it."""
        super().connection_made(Coalescing(transport, self.loop))
        most = self._service.limits.connections
        if len(self.connections) <= most:
            return
        others: list[Any] = [each for each in self.connections if each is not self and not each.transport.is_closing()]
        if len(others) < most:
            return
        if waiting := [each for each in others if each.waits]:
            min(waiting, key=lambda each: each._since).transport.abort()
        else:
            self._refuse(503, f"{most:,} connections are open, as many as there may be: try again later")

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._broken or self.transport.is_closing():
            return
        if self._idle:
            self._idle, self._since = False, self.loop.time()
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse(431, f"expected at most {LONGEST_HEAD:,} bytes before the body, got more")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Nothing more will come: close once what came has been answered."""
        self._ended = True
        if self.waits:
            self.transport.close()
        return True  # the loop would close it without what was written in this turn

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The body begins."""
        super().on_headers_complete()
        self._in_head, self._head = False, 0

    def on_response_complete(self) -> None:
        """An answer was sent."""
        self._since = self.loop.time()
        super().on_response_complete()
        self._idle = self.cycle.response_complete
        if not self._idle or self.transport.is_closing():
            return
        if self._broken:
            self._refuse(400, "expected HTTP/1.1, got something else after the last request")
        elif self._ended:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP: say so, after the answers to what came before it."""
        self._broken = True
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            self._refuse(400, "expected HTTP/1.1, got something else")
        else:
            self.flow.pause_reading()

    def check(self) -> None:
        """End the connection if the client takes too long; called every now and then."""
        now, limits = self.loop.time(), self._service.limits
        if self.transport.is_closing():
            self._closing = self._closing or now
            if now - self._closing > limits.receiving:
                self.transport.abort()  # it does not read what it is sent
        elif self.waits and not self._idle:
            if now - self._since > limits.receiving:
                self._refuse(408, f"expected the whole request within {limits.receiving:g} seconds")
        elif not self._idle and now - self._since > 2 * limits.receiving + limits.timeout:
            self.transport.abort()

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn: to begin a request, to send the rest of one, or to read an answer."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body or self.flow.write_paused

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error, and close the connection."""
        self._service.metrics.requests[status] += 1
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
