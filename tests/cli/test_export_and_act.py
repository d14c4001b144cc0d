"""`bitrl export` and `bitrl act`: from a run to a file to actions, and what is said when that cannot be."""

from __future__ import annotations

import json

import pytest

from bitrl.cli.export import cost_of_bitdelta


@pytest.fixture
def agent(bitrl, quick_run, tmp_path):
    """The file of an agent that was trained for a second."""
    assert bitrl(*quick_run, "--quiet").code == 0
    file = tmp_path / "agent.safetensors"
    assert bitrl("export", tmp_path / "run", "--out", file).code == 0
    return file


def test_export_says_what_it_wrote_and_how_to_try_it(bitrl, quick_run, tmp_path) -> None:
    bitrl(*quick_run, "--quiet")
    file = tmp_path / "agent.safetensors"
    done = bitrl("export", tmp_path / "run", "--out", file)
    assert done.code == 0
    assert f"{file}: {file.stat().st_size:,} bytes, CartPole-v1 after 128 steps, reads no model" in done.out
    assert f"bitrl act {file} --example | bitrl act {file}" in done.out
    again = bitrl("export", tmp_path / "run", "--out", file, "--force", "--json")
    found = json.loads(again.out)
    assert found == {
        "file": str(file),
        "bytes": file.stat().st_size,
        "run": str(tmp_path / "run"),
        "env": "CartPole-v1",
        "step": 128,
        "serializer": "vector",
        "backbone": None,
    }


def test_the_cost_of_bitdelta_is_a_line() -> None:
    cost = {"adapter_bytes": 14_336, "bytes": 464, "feature_error_untuned": 0.0948, "feature_error": 0.0655}
    cost |= {"equal_actions": 0.986, "mean_return_in_full": 399.1, "mean_return": 413.54, "episodes": 10}
    assert cost_of_bitdelta(cost) == (
        "adapters in 464 bytes instead of 14,336: features differ by 6.55% (9.48% before tuning the scales), 98.6% of "
        "greedy actions are the same, mean return 413.5 instead of 399.1 (greedy actions, 10 episodes)"
    )


def test_actions_answer_observations_line_by_line(bitrl, agent, monkeypatch, tmp_path) -> None:
    example = bitrl("act", agent, "--example")
    assert len(json.loads(example.out)) == 4
    (tmp_path / "lines").write_text(f"{example.out}\nnull\n[0, 0, 0, 0]\n")
    with open(tmp_path / "lines", encoding="utf-8") as lines:
        monkeypatch.setattr("sys.stdin", lines)
        done = bitrl("act", agent)
    assert (done.code, done.err) == (0, "")
    first, second, third = map(json.loads, done.out.splitlines())
    assert (first in (0, 1), second, third in (0, 1)) == (True, None, True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of an agent that reads the last three states."""
    from bitrl.core.runs.export import export
    from bitrl.core.runs.train import run

    folder = tmp_path_factory.mktemp("history")
    options = {"run.history": 3, "run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 32}
    run("CartPole-v1", backbone="mlp", steps=128, out=folder / "run", options=options)
    export(folder / "run", folder / "agent.safetensors")
    return folder / "agent.safetensors"


def answers(bitrl, monkeypatch, tmp_path, agent, lines: bytes, *flags: str):
    (tmp_path / "lines").write_bytes(lines)
    with open(tmp_path / "lines", encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        done = bitrl("act", agent, *flags)
    return done, [json.loads(line) for line in done.out.splitlines()]


BAD = [
    (b"{", "line 3: expected JSON"),
    (b"[0, 0]", "line 3: observation: expected 4 numbers, got [0, 0]"),
    (b"[" * 100_000, "line 3: expected JSON: nested too deeply"),
    (b"[0, 0, 0, \xff]", "line 3: expected UTF-8: byte 11 is not"),
    (b"[0, 0, 0, NaN]", "line 3: expected JSON: NaN is no JSON number"),
    (b"[0, 0, -Infinity, 0]", "line 3: expected JSON: -Infinity is no JSON number"),
    (b'{"a": 1, "a": 2}', "line 3: expected JSON: the key 'a' is there twice"),
    # Finding it takes a moment, not the square of the number of keys.
    pytest.param(
        b"{" + b"".join(b'"%d": 1,' % i for i in range(300_000)) + b'"299999": 2}',
        "the key '299999' is there twice",
        id="many-keys",
    ),
    (b"[0, 0, 0, 1" + b"0" * 5000 + b"]", "line 3: expected JSON: an integer of too many digits"),
    (
        b"[0, 0, 0, 1" + b"0" * 400 + b"]",
        "line 3: observation: expected finite numbers, no NaN or infinity, got [0, 0, 0, 1000",
    ),
    (b'"\x1b[31m"', "line 3: expected JSON"),
    (b'"\\ud800"', "line 3: expected Unicode: a string holds half of a surrogate pair"),
    (b"\xef\xbb\xbfnul", "line 3: expected JSON"),
]


@pytest.mark.parametrize(("line", "error"), BAD)
def test_a_line_that_is_no_observation_is_answered_by_its_error_and_leaves_the_episode_alone(
    bitrl, trained, monkeypatch, tmp_path, line, error
) -> None:
    states = [b"[0, 0, 0, 0]", b"[0.1, 0.4, 0.02, 0.3]", b"[-1, -0.4, 0.1, -2]", b"[1, 0.4, -0.1, 2]"]
    done, found = answers(bitrl, monkeypatch, tmp_path, trained, b"\n".join([*states[:2], line, *states[2:]]) + b"\n")
    assert (done.code, done.err, len(found)) == (0, "", 5)
    assert list(found[2]) == ["error"]
    assert error in found[2]["error"]
    assert len(found[2]["error"]) <= 500
    assert "\x1b" not in found[2]["error"]
    _, without = answers(bitrl, monkeypatch, tmp_path, trained, b"\n".join(states))
    assert found[:2] + found[3:] == without


def test_an_observation_that_cannot_be_acted_on_leaves_the_history_alone(trained, monkeypatch) -> None:
    from bitrl.core.acting.agents import load_agent
    from bitrl.core.errors import RunFailed

    agent = load_agent(trained)
    episode, policy = agent.episode(), agent.policy
    episode.act([0.0, 0.0, 0.0, 0.0])

    def failing(states):
        raise RunFailed("no")

    agent.policy = failing
    with pytest.raises(RunFailed):
        episode.act([9.0, 9.0, 9.0, 9.0])
    agent.policy = policy
    assert [state.tolist() for state in episode.memory._states] == [[0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("line", "error"), BAD[:3])
def test_strict_stops_at_a_line_that_is_no_observation(bitrl, trained, monkeypatch, tmp_path, line, error) -> None:
    lines = b"\n\n" + line + b"\n[0, 0, 0, 0]\n"
    done, found = answers(bitrl, monkeypatch, tmp_path, trained, lines, "--strict")
    assert (done.code, found, done.err.count("\n")) == (1, [], 1)
    assert error.replace("line 3", "line 3 of the input") in done.err


def test_a_line_too_long_is_answered_and_the_next_one_served(bitrl, trained, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("bitrl.cli.act.LONGEST_LINE", 64)
    lines = b"[0, 0, 0, 0]\n[" + b"0, " * 100 + b"0]\n[0, 0, 0, 0]"
    _, found = answers(bitrl, monkeypatch, tmp_path, trained, lines)
    assert (found[0] in (0, 1), found[1], found[2] in (0, 1)) == (
        True,
        {"error": "line 2: expected at most 64 bytes"},
        True,
    )


def test_facts_are_json(bitrl, agent) -> None:
    facts = json.loads(bitrl("act", agent, "--facts").out)
    assert (facts["env"], facts["step"], facts["serializer"]["name"]) == ("CartPole-v1", 128, "vector")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["export", "nothing", "--out", "a"], "nothing: not a run"),
        (["export", "run", "--out", "nowhere/a"], "there is no directory nowhere"),
        (
            ["export", "run", "--out", "agent.safetensors"],
            "already exists: choose another name, or replace it with --force",
        ),
        (["export", "run", "--out", "run"], "is a directory"),
        (["export", "run", "--out", "/dev/stdout", "--force"], "--out /dev/stdout: not a regular file"),
        (["export", "run", "--out", "bits", "--bitdelta"], "run: the run has no adapters, which --bitdelta compresses"),
        (["export", "run", "--out", "agent", "--episodes", "3"], "--episodes is how long --bitdelta measures"),
        (["act", "nothing"], "nothing: no such file"),
        (["act", "/dev/null"], "/dev/null: not a regular file"),
        (["act", "/proc/self/mem"], "/proc/self/mem: not an agent, or damaged: not readable"),
        (["act", "run"], "run: is a directory: if it holds a run, export it first with bitrl export"),
        (["act", "agent.safetensors", "-o", "algo.gamma=1"], "only options of the backbone can be set"),
        (["act", "agent.safetensors", "-o", "backbone.threads=1"], "uses no language model"),
    ],
)
def test_mistakes_are_one_line(bitrl, agent, tmp_path, monkeypatch, args, error) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = bitrl(*args)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert error in done.err
    assert sorted(tmp_path.rglob("*")) == before
