"""Runs the service: sockets, signals, and the agent's file read anew. Knows uvicorn; nothing of what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from bitrl.core.acting.agents import Agent, read
from bitrl.core.errors import BitrlError, RunFailed, UsageError, cause
from bitrl.core.serving.app import Service
from bitrl.core.serving.connections import Connection
from bitrl.core.serving.service_limits import ServiceLimits, Token
from bitrl.core.terminal import tell
from bitrl.core.wording import setting

SWITCHING = 0.0005
"""Seconds between two threads' turns at Python's lock: the one that acts would wait ten times as long for it."""

EVERY = 1.0
"""Seconds between two looks for clients that take too long, and for what nobody uses."""


BACKLOG = 1024
"""Connections that the system holds until they are taken."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets for all addresses of `host`, bound and not listening yet; port 0 is a free one.

    Raises:
        UsageError: there is no such host here.
        RunFailed: the port is in use, or not for this user.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{setting('host')}: no address of this machine: {host} ({error})") from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        bound = socket.socket(family, kind, protocol)
        sockets.append(bound)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind((address[0], port, *address[2:]))
        except OSError as error:
            for each in sockets:
                each.close()
            raise _not_bound(host, port, error) from None
        port = port or bound.getsockname()[1]
    return sockets


def _not_bound(host: str, port: int, error: OSError) -> BitrlError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return RunFailed(
            f"{where}: another program listens there: stop it, or choose another port ({setting('port', 'N')})"
        )
    if error.errno == errno.EACCES:
        return RunFailed(f"{where}: this user may not listen there: choose a port above 1023 ({setting('port', 'N')})")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{setting('host')}: no address of this machine: {host}")
    return RunFailed(f"{where}: cannot be listened at: {error.strerror}")


def is_loopback(sockets: Sequence[socket.socket]) -> bool:
    """Whether all of them are reached from this machine alone."""
    return all(ipaddress.ip_address(each.getsockname()[0].partition("%")[0]).is_loopback for each in sockets)


def url(sockets: Sequence[socket.socket]) -> str:
    """Where the first of them is reached."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def load(file: Path, options: Mapping[str, Any]) -> Agent:
    """The agent in a file, with backbone `options`, once it has acted on the example that it brings.

    Raises:
        BitrlError: it cannot be used; says why.
    """
    agent = Agent(read(file), options, typed=True)
    agent.explain([agent.example], [agent.episode()])
    return agent


def serve(
    file: Path,
    options: Mapping[str, Any],
    sockets: Sequence[socket.socket],
    limits: ServiceLimits,
    token: Token | None,
    ready: Callable[[], None],
) -> None:
    """Serve an agent until SIGTERM or SIGINT, which lets requests in hand be answered; a second one does not. SIGHUP
    reads the file anew.

    Args:
        file, options: of `load`.
        sockets: of `bind`.
        limits: what not to go beyond.
        token: what clients must know; None: nothing.
        ready: called when clients can connect.

    Raises:
        BitrlError: the agent cannot be used, or the port is in use meanwhile.
    """
    agent = load(file, options)
    for each in sockets:
        host, port = each.getsockname()[:2]
        try:
            each.listen(BACKLOG)
        except OSError as error:  # bound by another program at the same time
            raise _not_bound(host, port, error) from None
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCHING)
    try:
        asyncio.run(_serve(agent, file, options, [*sockets], limits, token, ready))
    finally:
        sys.setswitchinterval(before)


async def _serve(
    agent: Agent,
    file: Path,
    options: Mapping[str, Any],
    sockets: list[socket.socket],
    limits: ServiceLimits,
    token: Token | None,
    ready: Callable[[], None],
) -> None:
    service = Service(agent, limits, token)
    config = uvicorn.Config(
        service, http=Connection, ws="none", lifespan="off", interface="asgi3", log_config=None, log_level="critical",
        access_log=False, proxy_headers=False, server_header=False, backlog=BACKLOG,
        timeout_keep_alive=int(limits.idle),
    )  # fmt: skip
    server = Server(config)
    open_connections = server.server_state.connections
    service.metrics.gauges["bitrl_open_connections"] = ("Connections of clients.", lambda: len(open_connections))
    with _signals(server, Reader(file, options, service)):
        looking = asyncio.create_task(_look(server, service, ready))
        try:
            await server.serve(sockets)
        finally:
            looking.cancel()
            await service.close()


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_signals`."""
        yield


class Reader:
    """Reads the agent's file anew, one time after the other."""

    def __init__(self, file: Path, options: Mapping[str, Any], service: Service):
        self._file, self._options, self._service, self._again = file, options, service, False
        self._reading: asyncio.Task[None] | None = None

    def read(self) -> None:
        """Begin to; where that is under way, once more after it."""
        if self._reading is not None and not self._reading.done():
            self._again = True
        else:
            self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            try:
                agent = await asyncio.to_thread(load, self._file, self._options)
            except Exception as error:
                self._service.metrics.swaps["refused"] += 1
                why = str(error) if isinstance(error, BitrlError) else cause(error)
                tell(f"bitrl serve: the agent that was read before goes on: {why}")
            else:
                self._service.follow(agent)
                self._service.metrics.swaps["accepted"] += 1
                tell(f"bitrl serve: {self._file} was read anew")
                del agent


@contextlib.contextmanager
def _signals(server: Server, reader: Reader) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reader.read}
    for signum, handler in handlers.items():
        loop.add_signal_handler(signum, handler)
    try:
        yield
    finally:
        for signum in handlers:
            loop.remove_signal_handler(signum)


async def _look(server: Server, service: Service, ready: Callable[[], None]) -> None:
    """Tell when clients can connect; then look after connections, episodes and the demonstration."""
    while not server.started:
        await asyncio.sleep(0.01)
    ready()
    while True:
        await asyncio.sleep(EVERY)
        for connection in [*server.server_state.connections]:
            assert isinstance(connection, Connection)
            connection.check()
        await service.tidy()
