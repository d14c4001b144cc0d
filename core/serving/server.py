"""Runs the service: sockets, signals, and reloading the agent. Knows uvicorn; nothing of what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
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

FILES, OTHER_FILES = 1024, 96
"""Files that a server may want open, and how many of them are no connections of clients."""

BACKLOG, AT_ONCE = 1024, 16
"""Connections that the system holds until they are taken, and how many are taken in a turn of the event loop: each has
an open file some turns before it is counted.
"""


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
        try:
            bound = socket.socket(family, kind, protocol)
        except OSError as error:  # a family of addresses that this system does not have
            refused = error
            continue
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address[0], port, *address[2:]))
        except OSError as error:
            bound.close()
            refused = error
            if error.errno == errno.EADDRNOTAVAIL:
                continue
            break
        sockets.append(bound)
        port = port or bound.getsockname()[1]
    else:
        if sockets:
            return sockets
    for each in sockets:
        each.close()
    raise _not_bound(host, port, refused) from None


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


def _room() -> int:
    """For how many connections there is room among the files that this process may have open, which are made more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        with contextlib.suppress(OSError, ValueError):
            most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, soft - OTHER_FILES)


def load(file: Path, options: Mapping[str, Any]) -> Agent:
    """The agent in a file, with backbone `options`, once it has acted on the example that it brings.

    Raises:
        BitrlError: it cannot be used; says why.
    """
    agent = Agent(read(file), options, typed=True)
    try:
        agent.explain([agent.example], [agent.episode()])
    except BitrlError as error:
        raise RunFailed(f"{file}: cannot act on the example that it brings: {error}") from None
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
    reloads the file, or stops the server where it comes because the terminal was closed.

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
    limits = attrs.evolve(limits, connections=min(limits.connections, _room()))
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
        access_log=False, proxy_headers=False, server_header=False, backlog=AT_ONCE,
        timeout_keep_alive=int(limits.idle),
    )  # fmt: skip
    server = Server(config)
    open_connections = server.server_state.connections
    service.metrics.gauges["bitrl_open_connections"] = ("Connections of clients.", lambda: len(open_connections))
    with _signals(server, Reloader(file, options, service)):
        maintenance = asyncio.create_task(_maintain(server, service, sockets, ready))
        try:
            await server.serve(sockets)
        finally:
            maintenance.cancel()
            await service.close()


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_signals`."""
        yield


class Reloader:
    """Reads the agent's file again, one time after the other."""

    def __init__(self, file: Path, options: Mapping[str, Any], service: Service):
        self._file, self._options, self._service, self._again = file, options, service, False
        self._task: asyncio.Task[None] | None = None

    def reload(self) -> None:
        """Begin to; where that is under way, once more after it."""
        if self._task is not None and not self._task.done():
            self._again = True
        else:
            self._task = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            try:
                agent = await asyncio.to_thread(load, self._file, self._options)
            except (asyncio.CancelledError, KeyboardInterrupt):
                raise
            except BaseException as error:  # whatever a plugin raises, sys.exit() too
                self._service.metrics.swaps["refused"] += 1
                why = str(error) if isinstance(error, BitrlError) else cause(error)
                tell(f"bitrl serve: not reloaded, the agent before goes on: {why}")
            else:
                self._service.follow(agent)
                self._service.metrics.swaps["accepted"] += 1
                tell(f"bitrl serve: reloaded {self._file}")
                del agent


def has_terminal() -> bool:
    """Whether this process belongs to a terminal, which is there still."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _signals(server: Server, reloader: Reloader) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    terminal = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # which nohup has it

    def hang_up() -> None:
        if terminal and not has_terminal():
            stop()
        else:
            reloader.reload()

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hang_up}
    for signum, handler in handlers.items():
        loop.add_signal_handler(signum, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one that came while the agent was loaded
    try:
        yield
    finally:
        for signum in handlers:
            loop.remove_signal_handler(signum)


async def _maintain(
    server: Server, service: Service, sockets: Sequence[socket.socket], ready: Callable[[], None]
) -> None:
    """Tell when clients can connect; then look after connections, episodes and the demonstration."""
    while not server.started:
        await asyncio.sleep(0.01)
    for each in sockets:  # which the event loop has set to AT_ONCE
        each.listen(BACKLOG)
    ready()
    while True:
        await asyncio.sleep(EVERY)
        for connection in [*server.server_state.connections]:
            assert isinstance(connection, Connection)
            connection.check()
        await service.tidy()
