"""A server as its clients meet it: over real sockets, in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import COMMAND, Served, running, serving

import bitrl

STATES = np.random.default_rng(0).normal(0, 1, (64, 4)).round(6).tolist()


@pytest.fixture(scope="module")
def expected(agent: Path) -> list[int]:
    """What the agent does in STATES, asked in this process."""
    return bitrl.load_agent(agent).act_batch(STATES)


def test_actions_are_those_of_the_agent(served: Served, expected: list[int]) -> None:
    assert {0, 1} == {*expected}
    assert [served.act(state) for state in STATES[:8]] == expected[:8]
    status, found = served.ask("POST", "/act", {"observations": STATES})
    assert (status, found) == (200, {"actions": expected})


def test_what_it_knows_about_itself(served: Served) -> None:
    status, found = served.ask("GET", "/agent")
    assert (status, found["env"], found["step"], found["history"]) == (200, "CartPole-v1", 128, 1)
    assert served.ask("POST", "/act", {"observation": found["example"]})[0] == 200
    assert served.ask("GET", "/healthz") == (200, {"status": "ok"})


def test_an_action_is_explained(served: Served, expected: list[int]) -> None:
    status, found = served.ask("POST", "/act", {"observation": STATES[0], "explain": True})
    [part] = found["explanation"]["parts"]
    assert (status, found["action"], part["values"], found["explanation"]["text"]) == (200, expected[0], [0, 1], None)
    assert sum(part["probabilities"]) == pytest.approx(1)
    assert part["probabilities"][expected[0]] == max(part["probabilities"])


BAD = [
    (b"{", 400, "expected JSON"),
    (b"\xff", 400, "expected UTF-8: byte 1 is not"),
    (b'{"observation": [0, 0, 0, NaN]}', 400, "NaN is no JSON number"),
    (b'{"observation": [0, 0, 0, -Infinity]}', 400, "-Infinity is no JSON number"),
    (b'{"observation": "\\ud800"}', 400, "half of a surrogate pair"),
    (b"[" * 100_000, 400, "nested too deeply"),
    (b'{"observation": [0,0,0,0], "observation": [0,0,0,0]}', 400, "is there twice"),
    (b"[]", 422, 'expected {"observation": '),
    (b"{}", 422, 'expected {"observation": '),
    (b'{"observation": [0,0,0,0], "observations": []}', 422, 'expected {"observation": '),
    (b'{"observation": [0,0,0]}', 422, "expected 4 numbers, got [0, 0, 0]"),
    (b'{"observation": [0,0,0,1e999]}', 422, "no NaN or infinity"),
    (b'{"observation": {"a": 1}}', 422, "expected 4 numbers, got {'a': 1}"),
    (b'{"observation": null}', 422, "expected 4 numbers"),
    (b'{"observations": []}', 422, "expected a list of them, got []"),
    (b'{"observations": {}}', 422, "expected a list of them, got {}"),
    (b'{"observations": [[0,0,0,0], [0]]}', 422, "expected 4 numbers, got [0]"),
    (b'{"observation": [0,0,0,0], "explain": 1}', 422, '"explain": expected true or false, got 1'),
    (b'{"observation": [0,0,0,0], "extra\\u001b": 1}', 422, "expected the keys observation, episode, explain"),
    (b'{"observation": [0,0,0,0], "episode": 7}', 422, '"episode": expected the id of one, got 7'),
    (b'{"observation": [0,0,0,0], "episode": "unknown"}', 404, 'no episode "unknown"'),
]


@pytest.mark.parametrize(("body", "status", "error"), BAD)
def test_what_is_no_observation_is_answered_by_a_line(served: Served, body: bytes, status: int, error: str) -> None:
    code, headers, answer = served.ask_whole("POST", "/act", body)
    found = json.loads(answer)
    assert (code, headers["Content-Type"], list(found)) == (status, "application/json", ["error"])
    assert error in found["error"]
    assert len(found["error"]) <= 500
    assert found["error"].isprintable()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "error"),
    [
        ("GET", "/act", {}, 405, "Method Not Allowed"),
        ("GET", "/nowhere", {}, 404, "no such path"),
        ("GET", "/../../etc/passwd", {}, 404, "no such path"),
        ("DELETE", "/episodes/unknown", {}, 404, 'no episode "unknown"'),
        ("POST", "/act", {"Content-Type": "text/plain"}, 415, 'application/json, got "text/plain"'),
        ("POST", "/act", {"Host": "evil.example"}, 421, 'got "evil.example"'),
        (
            "POST",
            "/act",
            {"Origin": "http://evil.example"},
            403,
            'a page of another site, "http://evil.example", may not',
        ),
        ("POST", "/act", {"Origin": "null"}, 403, 'a page of another site, "null", may not'),
        ("POST", "/act", {"Origin": "http://[::1"}, 403, 'a page of another site, "http://[::1", may not'),
        ("POST", "/demonstration", {}, 400, "expected JSON"),
    ],
)
def test_what_is_no_request_to_act_is_answered_by_a_line(
    served: Served, method: str, path: str, headers: dict[str, str], status: int, error: str
) -> None:
    code, found = served.ask(method, path, b"", headers)
    assert (code, list(found)) == (status, ["error"])
    assert error in found["error"]


def test_a_page_of_the_server_itself_may_ask(served: Served) -> None:
    own = {"Host": f"localhost:{served.port}", "Origin": f"http://localhost:{served.port}"}
    assert served.ask("POST", "/act", {"observation": STATES[0]}, own)[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_in_words_and_not_kept(served: Served, chunked: bool) -> None:
    body = b'{"observation": [' + b"0, " * 700_000 + b"0]}"
    with served.socket() as connection:
        kind = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
        connection.sendall(
            b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%b\r\n\r\n" % kind
        )
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"expected a body of at most 1,048,576 bytes" in answer
    assert served.act(STATES[0]) in (0, 1)


def test_a_client_that_waits_for_permission_is_not_asked_for_a_body_that_is_too_large(served: Served) -> None:
    head = b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
    with served.socket() as connection:
        connection.sendall(head + b"content-length: 99999999\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with served.socket() as connection:
        connection.sendall(head + b"content-length: 27\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b'{"observation": [0,0,0,0]} ')
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_requests_that_follow_each_other_at_once_are_answered_in_order(served: Served, expected: list[int]) -> None:
    bodies = [json.dumps({"observation": state}).encode() for state in STATES[:30]]
    head = b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    with served.socket() as connection:
        connection.sendall(b"".join(head % (len(body), body) for body in bodies) + b"no HTTP at all\r\n\r\n")
        answers = b""
        while part := connection.recv(65536):
            answers += part
    found = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in answers.split(b"HTTP/1.1 ")[1:]]
    assert [each.get("action") for each in found[:-1]] == expected[:30]
    assert found[-1] == {"error": "expected HTTP/1.1, got something else"}


def test_so_many_requests_may_follow_each_other_at_once(served: Served) -> None:
    before = served.metric("process_resident_memory_bytes")
    with served.socket() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 9000)
        answers = b""
        while part := connection.recv(65536):
            answers += part
    assert answers.count(b"HTTP/1.1 200 ") == 33
    assert answers.endswith(b'{"error": "expected at most 32 requests before their answers are read, got more"}')
    assert served.metric("process_resident_memory_bytes") < before + 2**23


@pytest.mark.parametrize(
    "offer",
    [
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13",
    ],
    ids=["h2c", "websocket"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(
    served: Served, expected: list[int], offer: str, chunked: bool
) -> None:
    bodies = [json.dumps({"observation": state}).encode() for state in STATES[:5]]
    if chunked:
        parts = [b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) for body in bodies]
    else:
        parts = [b"content-length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
    head = f"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{offer}\r\n".encode()
    with served.socket() as connection:
        for data in (b"".join(head + part for part in parts[:3]), (head + parts[3])[:-9], parts[3][-9:]):
            connection.sendall(data)
            time.sleep(0.01)
        connection.sendall(
            head.replace(b"pgrade", b"PGRADE").replace(b"connection: ", b"connection: close, ") + parts[4]
        )
        answers = b""
        while part := connection.recv(65536):
            answers += part
    found = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in answers.split(b"HTTP/1.1 ")[1:]]
    assert [each.get("action") for each in found] == expected[:5]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 65536 + b"\r\n\r\n",
        b"GET /" + b"y" * 65536 + b" HTTP/1.1\r\n\r\n",
        b"POST /act HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"x: y\r\n" * 101 + b"\r\n",
    ],
    ids=["headers", "header", "path", "trailers"],
)
def test_there_is_only_so_much_before_and_after_a_body(served: Served, data: bytes) -> None:
    with served.socket() as connection:
        connection.sendall(data)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"expected at most 100 headers and 65,536 bytes before the body, got more" in answer


def test_it_is_no_proxy(served: Served) -> None:
    with served.socket() as connection:
        connection.sendall(b"CONNECT example.com:80 HTTP/1.1\r\nhost: example.com\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    before = served.metric("bitrl_observations_total"), served.metric("bitrl_act_seconds_count")
    served.ask("POST", "/act", {"observations": STATES})
    status, headers, text = served.ask_whole("GET", "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert served.metric("bitrl_observations_total") == before[0] + len(STATES)
    assert served.metric("bitrl_act_seconds_count") == before[1] + 1
    kinds = {name: family.type for name, family in families.items()}
    assert kinds["bitrl_requests"] == kinds["bitrl_observations"] == "counter"
    assert kinds["bitrl_act_seconds"] == kinds["bitrl_batch_observations"] == "histogram"
    resident = int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    assert families["process_resident_memory_bytes"].samples[0].value == pytest.approx(resident, rel=0.2)


def test_episodes_remember_their_own_states(remembering: Path, tmp_path: Path) -> None:
    agent = bitrl.load_agent(remembering)
    with serving(remembering, "--episodes", 2, log=tmp_path / "log") as served:
        status, found = served.ask("POST", "/act", {"observation": STATES[0]})
        assert (status, "the last 3 states of an episode" in found["error"]) == (422, True)
        ids = [served.ask("POST", "/episodes")[1]["episode"] for _ in range(2)]
        status, found = served.ask("POST", "/episodes")
        assert (status, "2 episodes are open" in found["error"]) == (503, True)
        alone = [agent.episode() for _ in ids]
        for index, state in enumerate(STATES):
            which = index % 3 % 2
            # What is no observation leaves the episode alone.
            assert served.ask("POST", "/act", {"observation": state[:3], "episode": ids[which]})[0] == 422
            status, found = served.ask("POST", "/act", {"observation": state, "episode": ids[which]})
            assert (status, found["action"]) == (200, alone[which].act(state))
        assert served.ask("DELETE", f"/episodes/{ids[0]}") == (204, None)
        assert served.ask("DELETE", f"/episodes/{ids[0]}")[0] == 404
        assert served.ask("POST", "/act", {"observation": STATES[0], "episode": ids[0]})[0] == 404
        assert served.ask("POST", "/act", {"observation": STATES[0], "episode": ids[1]})[0] == 200
        assert served.ask("POST", "/episodes")[0] == 201


def test_a_client_over_its_rate_is_told_so(agent: Path, tmp_path: Path) -> None:
    with serving(agent, "--rate", 0.001, log=tmp_path / "log") as served:
        assert served.ask("GET", "/healthz")[0] == 200
        status, headers, _ = served.ask_whole("GET", "/healthz")
        assert (status, headers["Retry-After"]) == (429, "1")


def test_a_token_is_asked_of_everybody(agent: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-secret-of-some-length\n")
    (tmp_path / "token").chmod(0o600)
    with serving(agent, "--host", "0.0.0.0", "--token-file", tmp_path / "token", log=tmp_path / "log") as served:
        status, headers, _ = served.ask_whole("POST", "/act", {"observation": STATES[0]})
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        for wrong in (
            "Bearer a-secret-of-some-lengtH",
            "Bearer",
            "a-secret-of-some-length",
            "Basic a-secret-of-some-length",
        ):
            assert served.ask("GET", "/agent", headers={"Authorization": wrong})[0] == 401
        right = {"Authorization": "Bearer a-secret-of-some-length", "Host": "any.example"}
        assert served.ask("POST", "/act", {"observation": STATES[0]}, right)[0] == 200
        assert served.ask("GET", "/healthz")[0] == 200
        assert served.ask_whole("GET", "/")[0] == 200
        assert b"a-secret" not in Path(f"/proc/{served.process.pid}/cmdline").read_bytes()
    assert (tmp_path / "log").read_text() == ""


class Load(threading.Thread):
    """A client that asks until it is told to stop, and keeps what was answered."""

    def __init__(self, served: Served):
        super().__init__()
        self.served, self.going, self.answers = served, True, []
        self.start()

    def run(self) -> None:
        while self.going:
            self.answers.append(self.served.ask("POST", "/act", {"observation": STATES[len(self.answers) % 64]}))


def test_another_agent_takes_over_without_a_lost_request(
    agent: Path, opposite: Path, expected: list[int], tmp_path: Path
) -> None:
    file, log = tmp_path / "agent.safetensors", tmp_path / "log"
    shutil.copy(agent, file)
    with serving(file, log=log) as served:
        clients = [Load(served) for _ in range(4)]
        for count in range(1, 7):
            other = tmp_path / "other"
            shutil.copy((agent, opposite)[count % 2], other)
            other.replace(file)
            served.process.send_signal(signal.SIGHUP)
            while served.metric("bitrl_agent_swaps_total") < count:
                time.sleep(0.01)
            assert served.act(STATES[0]) == (expected[0] + count) % 2
        file.write_bytes(agent.read_bytes()[:-100])
        served.process.send_signal(signal.SIGHUP)
        while served.metric("bitrl_agent_swaps_total") < 7:
            time.sleep(0.01)
        assert served.act(STATES[0]) == expected[0]
        for client in clients:
            client.going = False
            client.join()
    for client in clients:
        assert len(client.answers) > 10
        for index, (status, found) in enumerate(client.answers):
            assert status == 200, found
            assert found["action"] in (expected[index % 64], 1 - expected[index % 64])
    lines = log.read_text().splitlines()
    assert len(lines) == 7
    assert lines[:6] == [f"bitrl serve: reloaded {file}"] * 6
    assert lines[6].startswith("bitrl serve: not reloaded, the agent before goes on: ")
    assert "damaged" in lines[6]


def test_a_reload_that_comes_while_it_starts_is_done_once_it_serves(agent: Path, tmp_path: Path) -> None:
    """The default action of the signal ends a process, which systemd calls a success."""
    token, notified = tmp_path / "token", tmp_path / "notify"
    os.mkfifo(token, 0o600)
    command = [sys.executable, "-c", COMMAND, "serve", str(agent), "--port", "0", "--token-file", str(token)]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        open(tmp_path / "log", "w", encoding="utf-8") as log,
    ):
        manager.bind(str(notified))
        manager.setblocking(False)
        environment = os.environ | {"NOTIFY_SOCKET": str(notified)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert process.stdout is not None
            with open(token, "w", encoding="utf-8") as file:  # which waits until the server reads it
                process.send_signal(signal.SIGHUP)
                with pytest.raises(BlockingIOError):
                    manager.recv(100)
                file.write("a-secret-of-some-length")
            assert "serving at" in process.stdout.readline()
            while "reloaded" not in (tmp_path / "log").read_text():
                assert process.poll() is None
                time.sleep(0.01)
            manager.settimeout(60)  # the two are told one after the other
            assert manager.recv(100) == b"READY=1"
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_an_episode_goes_on_with_an_agent_that_remembers_alike(remembering: Path, agent: Path, tmp_path: Path) -> None:
    file = tmp_path / "agent.safetensors"
    shutil.copy(remembering, file)
    alone = bitrl.load_agent(remembering).episode()
    with serving(file, log=tmp_path / "log") as served:
        name = served.ask("POST", "/episodes")[1]["episode"]
        for count, state in enumerate(STATES[:6]):
            assert served.ask("POST", "/act", {"observation": state, "episode": name})[1] == {
                "action": alone.act(state)
            }
            served.process.send_signal(signal.SIGHUP)
            while served.metric("bitrl_agent_swaps_total") <= count:
                time.sleep(0.01)
        shutil.copy(agent, file)
        served.process.send_signal(signal.SIGHUP)
        while served.metric("bitrl_agent_swaps_total") <= 6:
            time.sleep(0.01)
        assert served.ask("POST", "/act", {"observation": STATES[0], "episode": name})[0] == 404


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_hand_are_answered_before_it_stops(agent: Path, tmp_path: Path, signum: int) -> None:
    body = json.dumps({"observations": STATES * 16}).encode()
    head = (
        b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % len(body)
    )
    with serving(agent, log=tmp_path / "log") as served:
        connections = [served.socket() for _ in range(3)]
        for connection in connections:
            connection.sendall(head + body[:-1])
        idle = served.socket()
        while served.metric("bitrl_open_connections") < 5:
            time.sleep(0.01)
        served.process.send_signal(signum)
        time.sleep(0.2)  # it is stopping, and waits for these
        for connection in connections:
            connection.sendall(body[-1:])
        for connection in connections:
            answer = b""
            while part := connection.recv(65536):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["actions"]) == 1024
            connection.close()
        assert idle.recv(1) == b""
        idle.close()
        assert served.process.wait(60) == 0
    assert (tmp_path / "log").read_text() == ""


def test_clients_lose_no_request_when_it_stops(agent: Path, tmp_path: Path) -> None:
    closed = []

    def ask(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        last = False
        while not last:
            connection.request("POST", "/act", b'{"observation": [0, 0, 0, 0]}', {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, b"action" in answer.read()) == (200, True)
            last = answer.headers["Connection"] == "close"
        closed.append(connection)

    with serving(agent, log=tmp_path / "log") as served:
        clients = [threading.Thread(target=ask, args=(served.port,)) for _ in range(16)]
        for client in clients:
            client.start()
        while served.metric("bitrl_observations_total") < 100:
            time.sleep(0.01)
        assert served.stop() == 0
        for client in clients:
            client.join()
    assert len(closed) == 16


def test_a_server_ends_with_its_terminal(agent: Path, tmp_path: Path) -> None:
    main, other = os.openpty()
    command = [sys.executable, "-c", COMMAND, "serve", str(agent), "--port", "0"]

    def begin() -> None:
        os.setsid()
        fcntl.ioctl(other, termios.TIOCSCTTY, 0)

    with subprocess.Popen(command, stdin=other, stdout=other, stderr=other, preexec_fn=begin) as process:
        os.close(other)
        said = b""
        while b"serving at" not in said:
            said += os.read(main, 1024)
        process.send_signal(signal.SIGHUP)
        while b"reloaded" not in said:
            said += os.read(main, 1024)
        os.close(main)
        assert process.wait(60) == 0


def test_few_files_are_room_for_few_connections(agent: Path, tmp_path: Path) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); {COMMAND}"
    command = [sys.executable, "-c", limited, "serve", str(agent), "--port", "0"]
    with running(command, tmp_path / "log") as served:
        connections = [served.socket() for _ in range(150)]
        assert served.act(STATES[0]) in (0, 1)
        for connection in connections:
            connection.close()
    assert (tmp_path / "log").read_text() == ""


def test_large_bodies_have_room_for_so_many_at_a_time(served: Served) -> None:
    kind = b"content-type: application/json\r\ncontent-length: 1000000"
    before = served.metric("process_resident_memory_bytes")
    connections = [served.socket() for _ in range(80)]
    for connection in connections:
        connection.sendall(b"POST /act HTTP/1.1\r\nhost: localhost\r\n%b\r\n\r\n" % kind + b" " * 999_999)
    assert served.act(STATES[0]) in (0, 1), "a small one is always taken"
    assert served.metric("process_resident_memory_bytes") < before + 2 * 2**26
    answers = []
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(b" ")
        answers.append(connection.recv(4096)[9:12])
        connection.close()
    assert {b"400", b"503"} == {*answers}
    assert 50 <= answers.count(b"400") <= 2**26 // 10**6


def test_a_program_that_starts_it_reads_where_it_is(agent: Path) -> None:
    command = [sys.executable, "-c", COMMAND, "serve", str(agent), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        text = ""
        while "}" not in text:
            text += process.stdout.readline()
        told = json.loads(text)
        assert (told["agent"], told["process"]) == (str(agent), process.pid)
        with urllib.request.urlopen(f"{told['url']}/healthz") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert (process.stdout.read(), process.wait(60)) == ("", 0)
