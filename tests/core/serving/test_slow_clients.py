"""Clients that take too long or are too many, and a server with little patience."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, serving

HEAD = b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 27\r\n"
BODY = b'{"observation": [0,0,0,0]} '


@pytest.fixture(scope="module")
def impatient(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("impatient") / "log"
    with serving(agent, log=log, receiving=1.0, timeout=1.0, idle=2.0, connections=6) as server:
        yield server
    assert log.read_text() == ""


def open_connections(server: Served) -> float:
    """How many the server has, this one too; on a machine under load even this may be too slow for it."""
    while True:
        with contextlib.suppress(ValueError, OSError):
            return server.metric("bitrl_open_connections")


def test_a_request_that_does_not_come_whole_is_answered_all_the_same(impatient: Served) -> None:
    parts = [b"", b"POST", HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + BODY[:-1]]
    connections = [impatient.socket() for _ in parts]
    for connection, sent in zip(connections, parts, strict=True):
        connection.sendall(sent)
    for connection in connections:
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'{"error": "expected the whole request within 1 seconds"}')
        assert connection.recv(1) == b""
        connection.close()


def test_a_byte_now_and_then_does_not_help(impatient: Served) -> None:
    with impatient.socket() as connection:
        connection.sendall(HEAD + b"\r\n")
        connection.settimeout(0.1)
        for letter in BODY[:-1]:
            with contextlib.suppress(TimeoutError):
                assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
                return
            connection.sendall(bytes([letter]))
    raise AssertionError("it waited")


def test_a_client_that_does_not_read_is_left(impatient: Served) -> None:
    while open_connections(impatient) > 1:
        time.sleep(0.02)
    connections = [impatient.socket() for _ in range(3)]
    for connection in connections:
        connection.setblocking(False)
        try:
            for _ in range(100):
                connection.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
        except (BlockingIOError, ConnectionResetError, BrokenPipeError):
            pass  # nothing more is taken, or a slow machine was left before that
    while open_connections(impatient) > 1:
        time.sleep(0.02)
    for connection in connections:
        connection.close()


def test_more_clients_than_may_be_take_the_place_of_those_that_only_wait(impatient: Served) -> None:
    while open_connections(impatient) > 1:
        time.sleep(0.02)
    waiting = [impatient.socket() for _ in range(9)]
    assert open_connections(impatient) <= 6
    while impatient.ask("POST", "/act", {"observation": [0, 0, 0, 0]})[0] == 408:
        pass
    for connection in waiting:
        connection.close()


def test_a_connection_is_kept_between_requests_for_a_while(impatient: Served) -> None:
    with impatient.socket() as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"\r\n" + BODY)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            time.sleep(1.2)  # longer than a request may take to come, and not as long as a connection may be idle
        assert connection.recv(1) == b""


def test_a_head_without_an_end_is_refused(impatient: Served) -> None:
    with impatient.socket() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        answer = b""
        for _ in range(20):
            time.sleep(0.005)
            try:
                connection.sendall(b"x: " + b"y" * 8000 + b"\r\n")
            except OSError:
                break
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 431 ")
