"""`bitrl export` and `bitrl act`: from a run to a file to actions, and what is said when that cannot be."""

from __future__ import annotations

import json

import pytest


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


@pytest.mark.parametrize(
    ("lines", "answers", "error"),
    [
        ("[0, 0, 0, 0]\n{\n", 1, "line 2 of the input: expected JSON"),
        ("\n[0, 0]\n", 0, "line 2 of the input: observation: expected 4 numbers, got [0, 0]"),
        ("[" * 100_000, 0, "line 1 of the input: expected JSON"),
    ],
)
def test_a_line_that_is_no_observation_is_named(bitrl, agent, monkeypatch, tmp_path, lines, answers, error) -> None:
    (tmp_path / "lines").write_text(lines)
    with open(tmp_path / "lines", encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        done = bitrl("act", agent)
    assert (done.code, len(done.out.splitlines()), done.err.count("\n")) == (1, answers, 1)
    assert error in done.err


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
        (["act", "nothing"], "nothing: no such file"),
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
