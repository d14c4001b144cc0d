"""Connections of clients: uvicorn's, with limits of time and number, and errors as JSON.

uvicorn waits for the rest of a request for as long as a client likes, for a client that does not read its answer, and
takes any number of connections. Knows HTTP as far as uvicorn does not.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD, MOST_HEADERS = 65536, 100
"""Bytes of a request before its body, and its headers, trailers included."""

PIPELINED = 32
"""Requests of a connection that wait for the answers to those before them: each takes memory before it is begun."""

FAREWELL = 0.5
"""Seconds that idle connections are kept when the server stops."""


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


NO_HTTP = (400, "expected HTTP/1.1, got something else")
TOO_LARGE = (431, f"expected at most {MOST_HEADERS} headers and {LONGEST_HEAD:,} bytes before the body, got more")
TOO_MANY = (400, f"expected at most {PIPELINED} requests before their answers are read, got more")


class _Stop(Exception):
    """Stops the parser, with a status and a message for the client."""


class Connection(HttpToolsProtocol):
    """A connection. Its application is a `bitrl.core.serving.app.Service`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._service: Any = self.app
        self._idle, self._in_head, self._broken, self._ended, self._stopping = False, True, False, False, False
        self._since = self.loop.time()  # when the request began to come, or the last answer was sent
        self._closing: float | None = None
        self._head = 0
        self._fields = self._size = 0
        self._wrong: tuple[Any, ...] = NO_HTTP

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
        self._unset_keepalive_if_required()
        self._read(data)
        if self._in_head and self._head > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse(*TOO_LARGE)

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self.send_400_response("")
            else:
                self._decline(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _Stop):
                self._wrong = error.__context__.args
            self.send_400_response("")

    def _decline(self, rest: bytes) -> None:
        """A client offers another protocol, as some do with every first request: it is read as if it did not. The
        parser would take the body for the other protocol.
        """
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._read(b"\r\n".join([*lines, b"\r\n"]) + rest)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Nothing more will come: close once what came has been answered."""
        self._ended = True
        if self.waits:
            self.transport.close()
        return True  # the loop would close it without what was written in this turn

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._fields, self._size = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._count(0, len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._count(1, len(name) + len(value))
        super().on_header(name, value)

    def _count(self, fields: int, size: int) -> None:
        self._fields += fields
        self._size += size
        if self._fields > MOST_HEADERS or self._size > LONGEST_HEAD:
            raise _Stop(*TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The body begins."""
        self._in_head, self._head = False, 0
        if len(self.pipeline) >= PIPELINED:
            raise _Stop(*TOO_MANY)
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.cycle.keep_alive = self.cycle.keep_alive and not self._stopping

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was sent."""
        self._since = self.loop.time()
        super().on_response_complete()
        self._idle = self.cycle.response_complete
        if not self._idle or self.transport.is_closing():
            return
        if self._broken:
            self._refuse(*self._wrong)
        elif self._ended:
            self.transport.close()

    def shutdown(self) -> None:
        """The server stops. A client that is between two requests may be sending the next one: if it comes soon, it is
        answered, and told that it was the last.
        """
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(FAREWELL, self._part)
        else:
            super().shutdown()

    def _part(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP: say so, after the answers to what came before it."""
        self._broken = True
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            self._refuse(*self._wrong)
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
