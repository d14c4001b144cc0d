"""A million hostile requests to `bitrl serve`, with good ones in between that must get the right answer.

    python benchmarks/serve_hostile.py --count 1_000_000 [--state build/serve-hostile-state.json]

Hostile is what is malformed, huge, slow, of the wrong types, cut off, pipelined, or never reads its answers. Where an
answer is due it must be HTTP, and its error a line of JSON without a traceback. Every tenth is followed by a good
request. Several attackers send at a time, so that the server need not wait for any of them. A run that was stopped goes
on where it was. At the end the server must hold no more files than at the start, and its memory is compared with that
after the first 5,000. The figures go to results/serve-hostile.json.

Everything is sent within this machine, from many addresses of 127.0.0.0/8.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bitrl
from bitrl.core.files import write_atomically

BITRL = Path(sys.executable).with_name("bitrl")
PATIENCE = 60.0
"""Seconds until an answer that does not come is a hang."""

ATTACKERS = 4
"""At a time."""

HELD = 50
"""Slow connections of each, and those that do not read, at a time."""

STATES = [[random.Random(index).uniform(-2, 2) for _ in range(4)] for index in range(64)]


class Wrong(Exception):
    """The server did something that it must not."""


def request(body: bytes, method: bytes = b"POST", path: bytes = b"/act", more: bytes = b"") -> bytes:
    """A well-formed request."""
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    return head % (method, path, more, len(body)) + body


def some_json(generator: random.Random, depth: int = 0) -> Any:
    """Any value of JSON, and some that are none."""
    kinds: list[Callable[[], Any]] = [
        lambda: generator.choice([None, True, False, "", "\x00", "\ud800", "é" * 50, "0" * 5000, float("nan")]),
        lambda: generator.choice([0, -1, 2**63, 10**400, 1e308, -1e308, float("inf"), 0.1]),
        lambda: [0.1] * generator.choice([0, 3, 4, 5, 1000]),
    ]
    if depth < 4:
        kinds += [
            lambda: [some_json(generator, depth + 1) for _ in range(generator.randrange(6))],
            lambda: {
                generator.choice(["observation", "commands", "action_mask", "a", ""]): some_json(generator, depth + 1)
                for _ in range(generator.randrange(4))
            },
        ]
    return generator.choice(kinds)()


def wrong_types(generator: random.Random) -> bytes:
    """JSON, or nearly, that is nothing to act on, mostly."""
    names = ["observation", "observations", "episode", "explain", "observation ", "__class__"]
    found = {name: some_json(generator) for name in generator.sample(names, generator.randrange(4))}
    text = json.dumps(generator.choice([found, some_json(generator), {"observation": some_json(generator)}]))
    return request(text.encode("utf-8", "surrogatepass"), more=generator.choice([b"", b"Connection: close\r\n"]))


def wrong_routes(generator: random.Random) -> bytes:
    """Paths, methods and headers of all kinds."""
    path = generator.choice(
        [b"/act", b"/", b"/metrics", b"/episodes", b"/episodes/x", b"/episodes/%00", b"/%2e%2e/%2e%2e/etc/passwd",
         b"//", b"/act/", b"/act?x=1", b"/agent", b"/openapi.json", b"/healthz", b"/" + b"a" * 5000, b"/\xc3\xa9", b"*"]
    )  # fmt: skip
    method = generator.choice([b"GET", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"TRACE", b"get", b"BREW"])
    more = generator.choice(
        [b"", b"Host: evil.example\r\n", b"Origin: http://evil.example\r\n", b"Authorization: Bearer x\r\n",
         b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"X: " + b"y" * 9000 + b"\r\n",
         b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"Content-Encoding: gzip\r\n", b"Connection: close\r\n",
         b"Range: bytes=0-\r\n"]
    )  # fmt: skip
    return request(generator.choice([b"", b"{}"]), method, path, more)


def malformed(generator: random.Random) -> bytes:
    """What is no HTTP, or breaks its rules."""
    whole = request(json.dumps({"observation": [0, 0, 0, 0]}).encode())
    damaged = bytearray(whole)
    for _ in range(generator.randrange(1, 9)):
        damaged[generator.randrange(len(damaged))] = generator.randrange(256)
    return generator.choice(
        [
            bytes(damaged),
            generator.randbytes(generator.randrange(1, 3000)),
            b"POST /act HTTP/9.9\r\n\r\n",
            b"POST /act\r\n\r\n",
            b"POST /act HTTP/1.1\r\nHost localhost\r\n\r\n",
            b"POST /act HTTP/1.1\r\nContent-Length: -1\r\n\r\n{}",
            b"POST /act HTTP/1.1\r\nContent-Length: 9" + b"9" * generator.randrange(40) + b"\r\n\r\n{}",
            b"POST /act HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
            b"POST /act HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            b"POST /act HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + generator.randbytes(200),
            b"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X" * 100 + b"\x00: y\r\n\r\n",
            b"\r\n" * generator.randrange(1, 50) + b"\x00",
        ]
    )


@functools.cache
def enormous() -> Sequence[Sequence[bytes]]:
    """More than a server should hold, of several kinds."""
    digits = [b'{"observation":[0,0,0,1' + b"0" * count + b"]}" for count in (400, 5000, 900_000)]
    rows = [json.dumps({"observations": [[0.0] * 4] * count}).encode() for count in (1025, 30_000)]
    return [
        [request(b"[" * count) for count in (1000, 200_000)],
        [request(body) for body in digits],
        [request(b"{" + b"".join(b'"%d":0,' % index for index in range(20_000)) + b'"0":1}')],
        [request(body) for body in rows],
        [request(b'{"observation":"' + b"x" * 1_100_000 + b'"}')],
        [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"],
        [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % index for index in range(9000)) + b"\r\n"],
    ]


def huge(generator: random.Random) -> bytes:
    """One of these."""
    return generator.choice(generator.choice(enormous()))


class Attack:
    """Hostile requests to a server, one kind after the other.

    Attributes:
        answered: status codes that came back, and "closed" where there was no answer.
        good: good requests that got the right answer.
    """

    def __init__(self, port: int, expected: Sequence[int], seed: object):
        """`expected` are the right answers to STATES."""
        self.port, self.expected, self.generator = port, expected, random.Random(str(seed))
        self.answered: Counter[str] = Counter()
        self.good = 0
        self.held: list[socket.socket] = []

    def run(self, count: int) -> None:
        """Send so many.

        Raises:
            Wrong: an answer is not as it must be, or there is none.
        """
        kinds = [self._answered(wrong_types)] * 6 + [self._answered(wrong_routes)] * 3
        kinds += [self._answered(malformed)] * 5 + [self._answered(huge)]
        kinds += [self._cut_off] * 3 + [self._slow, self._pipelined, self._unread]
        try:
            for index in range(count):
                self.generator.choice(kinds)()
                if index % 10 == 9:
                    self._good()
        finally:
            while self.held:
                self.held.pop().close()

    def _connect(self) -> socket.socket:
        source = ".".join(["127", *(str(self.generator.randrange(1, 255)) for _ in range(3))])
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))
        # Closed without a trace in the system's table of connections, which has no room for a million.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return connection

    def _answered(self, made: Callable[[random.Random], bytes]) -> Callable[[], None]:
        def send() -> None:
            data = made(self.generator)
            with self._connect() as connection:
                with contextlib.suppress(OSError):  # it may close before it has read everything
                    connection.sendall(data)
                if b"Connection: close\r\n" not in data:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                answer = received(connection)
            if not answer and made in (wrong_types, huge):
                raise Wrong(f"{data[:200]!r} was not answered")
            self._check(data, answer)

        return send

    def _check(self, data: bytes, answer: bytes) -> None:
        if not answer:
            self.answered["closed"] += 1
            return
        while answer.startswith(b"HTTP/1.1 100"):
            answer = answer.partition(b"\r\n\r\n")[2]
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 ") or b"Traceback" in body:
            raise Wrong(f"{data[:200]!r} was answered by {answer[:500]!r}")
        status = head[9:12].decode()
        self.answered[status] += 1
        if status >= "500" and status != "503":
            raise Wrong(f"{data[:200]!r} was answered by {answer[:500]!r}")
        if status >= "400" and body and b"HTTP/1.1 " not in body:
            found = json.loads(body)
            if list(found) != ["error"] or not isinstance(found["error"], str) or "\n" in found["error"]:
                raise Wrong(f"{data[:200]!r} was answered by {answer[:500]!r}")

    def _cut_off(self) -> None:
        data = self.generator.choice([wrong_types, wrong_routes, malformed, huge])(self.generator)
        with self._connect() as connection, contextlib.suppress(OSError):
            connection.sendall(data[: self.generator.randrange(len(data) + 1)])

    def _slow(self) -> None:
        """A byte now, and another when it is this one's turn again."""
        for connection in self.held[:: self.generator.randrange(1, 8)]:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        data = request(b'{"observation":[0,0,0,0]}')
        self._hold(data[: self.generator.randrange(1, len(data))])

    def _pipelined(self) -> None:
        count = self.generator.randrange(2, 60)
        parts = [self.generator.choice([wrong_types, wrong_routes])(self.generator) for _ in range(count)]
        which = self.generator.randrange(len(STATES))
        good = request(json.dumps({"observation": STATES[which]}).encode())
        with self._connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(good * 3 + b"".join(parts))
            answer = b""
            while answer.count(b'{"action":') < 3 and (part := receive(connection)):
                answer += part
        if answer.count(b'{"action":%d}' % self.expected[which]) < 3:
            raise Wrong(f"three good requests before others were answered by {answer[:500]!r}")

    def _unread(self) -> None:
        """Answers that nobody reads."""
        one = self.generator.choice([request(b"", b"GET", b"/"), b"GET /healthz HTTP/1.1\r\n\r\n"])
        self._hold(one * self.generator.choice([1, 10, 200, 5000]))

    def _hold(self, data: bytes) -> None:
        if len(self.held) >= HELD:
            self.held.pop(self.generator.randrange(len(self.held))).close()
        connection = self._connect()
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(data)
        self.held.append(connection)

    def _good(self) -> None:
        which = self.generator.randrange(len(STATES))
        with self._connect() as connection:
            body = json.dumps({"observation": STATES[which]}).encode()
            connection.sendall(request(body, more=b"Connection: close\r\n"))
            answer = received(connection)
        if not answer.endswith(b'\r\n\r\n{"action":%d}' % self.expected[which]):
            raise Wrong(f"a good request was answered by {answer[:500]!r}")
        self.good += 1


def attack(port: int, expected: Sequence[int], seed: object, count: int) -> tuple[Counter[str], int]:
    """Send so many, by all attackers together → what was answered, and how many good requests were answered rightly.

    Raises:
        Wrong: as `Attack.run` does.
    """
    attacks = [Attack(port, expected, f"{seed} {number}") for number in range(ATTACKERS)]
    shares = [len(range(number, count, ATTACKERS)) for number in range(ATTACKERS)]
    with ThreadPoolExecutor(ATTACKERS) as pool:
        for _ in pool.map(Attack.run, attacks, shares):
            pass
    return sum((each.answered for each in attacks), Counter()), sum(each.good for each in attacks)


def receive(connection: socket.socket) -> bytes:
    """What comes next; nothing where the other side has closed.

    Raises:
        Wrong: nothing comes.
    """
    try:
        return connection.recv(65536)
    except TimeoutError:
        raise Wrong(f"no answer within {PATIENCE:g} seconds") from None
    except OSError:
        return b""


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    answer = b""
    while part := receive(connection):
        answer += part
    return answer


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def open_files(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled_files(pid: int, most: int) -> int:
    """The same once it has closed what was closed at the other end, or after a minute."""
    end = time.monotonic() + 60
    while open_files(pid) > most and time.monotonic() < end:
        time.sleep(0.1)
    return open_files(pid)


def main() -> None:
    from record import RESULTS, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--state", type=Path, default=Path("build/serve-hostile-state.json"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    state: dict[str, Any] = {"sent": 0, "good": 0, "seconds": 0.0, "answered": {}, "growth_mb": [], "processes": 0}
    if given.state.is_file():
        state = json.loads(given.state.read_text(encoding="utf-8"))
    given.state.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "agent.safetensors"
        bitrl.run("CartPole-v1", steps=1024, out=Path(name) / "run", seed=0, options={"run.eval_episodes": 0})
        bitrl.export(Path(name) / "run", file)
        expected = bitrl.load_agent(file).act_batch(STATES)
        command = [BITRL, "serve", file, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline().split("http://127.0.0.1:")[1].split()[0])
                state["processes"] += 1
                files, memory = open_files(server.pid), 0.0
                attack(port, expected, "first", 1000)
                while state["sent"] < given.count:
                    count, began = min(5000, given.count - state["sent"]), time.monotonic()
                    answered, good = attack(port, expected, state["sent"], count)
                    state["sent"] += count
                    state["good"] += good
                    state["seconds"] += time.monotonic() - began
                    state["answered"] = dict(sorted((Counter(state["answered"]) + answered).items()))
                    memory = memory or resident_mb(server.pid)
                    write_atomically(given.state, json.dumps(state).encode())
                    print(f"{state['sent']:,} sent, {resident_mb(server.pid):.1f} MB", flush=True)
                left = settled_files(server.pid, files)
                if left > files:
                    raise SystemExit(f"the server holds {left} files, {files} at the start")
                state["growth_mb"].append(round(resident_mb(server.pid) - memory, 1))
            finally:
                server.terminate()
            if server.wait(60) != 0:
                raise SystemExit(f"the server ended with exit code {server.returncode}")
    found = {**state, "seconds": round(state["seconds"]), "wrong_answers": 0}
    print(json.dumps(found, indent=2))
    save("serve-hostile", found, given.out)


if __name__ == "__main__":
    main()
