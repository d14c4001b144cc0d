"""What serving costs: actions per second of `bitrl serve` for many clients at once, beside `Agent.act_batch` alone.

    python benchmarks/serve_throughput.py [--clients 200] [--rounds 7] [--seconds 3] [--agent FILE]

Each client has a connection, sends one observation at a time and waits for its action. All observations differ, so
that nothing comes from the cache of features. Both act by the same agent with the same threads, in turns of one run;
act_batch is handed as many observations at once as there are clients. The clients take their share of the same
processor. The figures go to results/serve-throughput.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import RESULTS, save

import bitrl

ENV = "CartPole-v1"
BITRL = Path(sys.executable).with_name("bitrl")


class Client(asyncio.Protocol):
    """Sends an observation, waits for the action, and sends the next until it is told to stop."""

    going = True
    came = b""

    def __init__(self, generator: np.random.Generator):
        self.generator, self.answered, self.failed, self.seconds = generator, 0, 0, []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        body = b'{"observation":[%f,%f,%f,%f]}' % tuple(self.generator.normal(0, 0.5, 4).tolist())
        head = b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.began = time.perf_counter()
        self.transport.write(head % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self.came += data
        if not self.came.endswith(b"}"):
            return
        good = self.came.startswith(b"HTTP/1.1 200 ") and b'{"action":' in self.came
        self.came = b""
        self.answered += good
        self.failed += not good
        self.seconds.append(time.perf_counter() - self.began)
        if Client.going:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def ask(port: int, clients: int, seconds: float) -> dict[str, float]:
    """Actions per second for so many clients at once."""
    loop, Client.going = asyncio.get_running_loop(), True
    each = [np.random.default_rng() for _ in range(clients)]
    began = time.perf_counter()
    pairs = [await loop.create_connection(lambda g=g: Client(g), "127.0.0.1", port) for g in each]
    await asyncio.sleep(seconds)
    Client.going = False
    made = [client for _, client in pairs]
    await asyncio.gather(*(client.done for client in made))
    took = time.perf_counter() - began
    latencies = sorted(second for client in made for second in client.seconds)
    answered = sum(client.answered for client in made)
    return {
        "per_second": answered / took,
        "answered": answered,
        "failed": sum(client.failed for client in made),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(0.99 * len(latencies))],
    }


def alone(agent: bitrl.Agent, together: int, seconds: float) -> tuple[float, int]:
    """Actions per second of act_batch, and how many it took."""
    generator, acted, began = np.random.default_rng(), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        agent.act_batch(generator.normal(0, 0.5, (together, 4)).tolist())
        acted += together
    return acted / (time.perf_counter() - began), acted


def processor_seconds(pid: int) -> float:
    """Processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def compare(file: Path, clients: int, rounds: int, seconds: float, threads: int) -> dict[str, object]:
    """Rounds of both, one after the other."""
    agent = bitrl.load_agent(file, threads=threads)
    command = [BITRL, "serve", file, "--port", "0", "--rate", "1000000", "-o", f"backbone.threads={threads}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().split("http://127.0.0.1:")[1].split()[0])
        asyncio.run(ask(port, clients, 1.0))
        found = []
        for _ in range(rounds):
            began = time.process_time()
            encoder, acted = alone(agent, clients, seconds)
            own, before = time.process_time() - began, processor_seconds(server.pid)
            served = asyncio.run(ask(port, clients, seconds))
            took = processor_seconds(server.pid) - before
            found.append(
                {
                    "act_batch_per_second": encoder,
                    **served,
                    "share": served["per_second"] / encoder,
                    "act_batch_processor_us": 1e6 * own / acted,
                    "processor_us": 1e6 * took / served["answered"],
                }
            )
            print(f"act_batch {encoder:,.0f}, served {served['per_second']:,.0f} a second: {found[-1]['share']:.0%}")
        memory = resident_mb(server.pid)
    finally:
        server.terminate()
        server.wait()
    medians = {
        name: round(statistics.median(each[name] for each in found), 3) for name in found[0] if name != "answered"
    }
    shares = [round(each["share"], 3) for each in found]
    return {
        **medians,
        "failed": sum(each["failed"] for each in found),
        "shares": shares,
        "server_rss_mb": round(memory, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1, help="of the encoder, in both")
    parser.add_argument("--agent", type=Path, help=f"of {ENV}; by default one that is trained for a moment")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = given.agent
        if file is None:
            file = Path(folder) / "agent.safetensors"
            bitrl.run(ENV, steps=4096, out=Path(folder) / "run", options={"run.eval_episodes": 0})
            bitrl.export(Path(folder) / "run", file)
        found = compare(file, given.clients, given.rounds, given.seconds, given.threads)
    found = {"env": ENV, "clients": given.clients, "rounds": given.rounds, "threads": given.threads, **found}
    print(json.dumps(found, indent=2))
    save("serve-throughput", found, given.out)


if __name__ == "__main__":
    main()
