"""A server of an exported agent as a process of its own, and a client of it: `bitrl serve` from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

COMMAND = "from bitrl.cli import main; main()"
LIMITED = """
import sys
from pathlib import Path
from bitrl.core.serving import server
from bitrl.core.serving.service_limits import ServiceLimits
server.EVERY = 0.05
sockets = server.bind("127.0.0.1", 0)
limits = ServiceLimits(**{name: float(value) for name, value in (each.split("=") for each in sys.argv[2:])})
server.serve(Path(sys.argv[1]), {}, sockets, limits, None, lambda: print("serving at", server.url(sockets), flush=True))
"""


@attrs.define
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def ask(self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """The status and JSON of an answer; `data` is sent as JSON, bytes as they are."""
        status, _, body = self.ask_whole(method, path, data, headers)
        return status, json.loads(body) if body else None

    def ask_whole(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """The status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        try:
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, path, sent, given)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def act(self, observation: Any) -> Any:
        """The action for an observation."""
        status, found = self.ask("POST", "/act", {"observation": observation})
        assert status == 200, found
        return found["action"]

    def socket(self) -> socket.socket:
        """A connection to write anything to."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metric(self, name: str) -> float:
        """The value of a metric, as Prometheus' own parser reads it; of several the sum."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.ask_whole("GET", "/metrics")[2].decode()
        values = [
            each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
            if each.name == name
        ]
        assert values, name
        return sum(values)

    def files(self) -> int:
        """Open file descriptors of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal → the exit code."""
        self.process.send_signal(signum)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(file: Path, *flags: object, log: Path, **limits: float) -> Iterator[Served]:
    """A server of the agent in `file`, whose stderr goes to `log`; or with other `limits` than flags can say."""
    command = [sys.executable, "-c", COMMAND, "serve", str(file), "--port", "0", *map(str, flags)]
    if limits:
        command = [sys.executable, "-c", LIMITED, str(file), *(f"{name}={value}" for name, value in limits.items())]
    with running(command, log) as served:
        yield served


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[Served]:
    """A server that `command` starts, which says where it serves on stdout; its stderr goes to `log`."""
    with open(log, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "serving at" in line, log.read_text(encoding="utf-8")
        yield Served(process, int(line.split("http://", 1)[1].split()[0].rpartition(":")[2]), log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
