"""`bitrl serve`: what keeps it from serving is one line, and nothing listens then."""

from __future__ import annotations

import socket

import pytest

TOKEN = "BITRL_SERVE_TOKEN"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an agent, and files that are none."""
    from bitrl.core.runs.export import export
    from bitrl.core.runs.train import run

    folder = tmp_path_factory.mktemp("serve")
    options = {"run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 32}
    run("CartPole-v1", backbone="mlp", serializer="vector", steps=128, out=folder / "run", options=options)
    export(folder / "run", folder / "agent")
    (folder / "cut").write_bytes((folder / "agent").read_bytes()[:-50])
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    (folder / "short").write_text("too-short")
    (folder / "spaced").write_text("a token of several words")
    (folder / "binary").write_bytes(b"\xff" * 32)
    return folder


@pytest.fixture
def in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["agent", "--host", "0.0.0.0"], 2, f"other machines, which takes a token: --token-file FILE, or ${TOKEN}"),
        (["agent", "--host", "::"], 2, "--host :: is reached from other machines"),
        (["agent", "--host", "203.0.113.7"], 2, "--host: no address of this machine: 203.0.113.7"),
        (["agent", "--host", "no such host"], 2, "--host: no address of this machine: no such host"),
        (["agent", "--port", "70000"], 2, "--port"),
        (["agent", "--port", "IN_USE"], 1, ": another program listens there: stop it, or choose another port"),
        (["agent", "--max-body", "much"], 2, "--max-body: expected a size such as 300KB or 1MB, got much"),
        (["agent", "--rate", "0"], 2, "--rate"),
        (["agent", "--timeout", "nan"], 2, "--timeout: expected a finite number, got nan"),
        (["agent", "--rate", "inf"], 2, "--rate: expected a finite number, got inf"),
        (["agent", "--token-file", "nothing"], 2, "--token-file nothing: cannot be read: No such file"),
        (["agent", "--token-file", "run"], 2, "--token-file run: cannot be read: Is a directory"),
        (["agent", "--token-file", "short"], 2, "expected a token of at least 16 letters, digits and signs"),
        (["agent", "--token-file", "spaced"], 2, "expected a token of at least 16 letters, digits and signs"),
        (["agent", "--token-file", "binary"], 2, "expected a token, got a file that is no text"),
        (["agent", "-o", "backbone.threads=1"], 2, "this agent uses no language model"),
        (["agent", "-o", "algo.gamma=1"], 2, "only options of the backbone can be set"),
        (["nothing"], 2, "nothing: no such file"),
        (["run"], 2, "run: is a directory: if it holds a run, export it first with bitrl export"),
        (["cut"], 2, "cut: not an agent, or damaged"),
        (["model.gguf"], 2, "a language model (GGUF), not an agent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_one_line(bitrl, folder, monkeypatch, in_use, args, code, error) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv(TOKEN, raising=False)
    for name in ("short", "spaced", "binary"):
        (folder / name).chmod(0o600)
    before = sorted(folder.rglob("*"))
    port = [] if "--port" in args else ["--port", "0"]
    monkeypatch.setattr("asyncio.run", None)  # it must not come to that
    done = bitrl("serve", *(str(in_use) if arg == "IN_USE" else arg for arg in args), *port)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert error in done.err
    assert sorted(folder.rglob("*")) == before


def test_a_short_token_in_the_environment_is_refused_and_not_repeated(bitrl, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv(TOKEN, "a-secret")
    done = bitrl("serve", "agent", "--port", "0")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"${TOKEN}: expected a token of at least 16" in done.err
    assert "a-secret" not in done.err


def test_a_token_that_others_may_read_is_warned_of(bitrl, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "short").chmod(0o644)
    done = bitrl("serve", "agent", "--port", "0", "--token-file", "short")
    assert done.err.splitlines()[0] == "warning: short: other users may read the token: chmod 600 it"
