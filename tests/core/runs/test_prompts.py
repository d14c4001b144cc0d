"""Environments that hand out prompts: texts observed, texts acted, a scorer's reward; run, resumed, evaluated."""

import string

import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl.core.config import resolve
from bitrl.core.interfaces import Algorithm
from bitrl.core.records import AlgorithmRecord, EnvironmentRecord
from bitrl.core.registry import registry
from bitrl.core.runs import train
from bitrl.testing import check_environment

WORDS = ("stone", "lamp", "river", "öl")


class Reverse(gymnasium.Env):
    """Asks for a word backwards; after a wrong answer it asks once more. The reward is the share of right letters."""

    observation_space = gymnasium.spaces.Text(60, charset=string.printable + "ö")
    action_space = gymnasium.spaces.Text(20, min_length=0, charset=string.printable + "ö")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word, self.tries = str(self.np_random.choice(WORDS)), 0
        return f"Write {self.word} backwards:", {}

    def step(self, action):
        assert isinstance(action, str)
        right, self.tries = self.word[::-1], self.tries + 1
        score = sum(a == b for a, b in zip(action, right, strict=False)) / len(right)
        done = action == right
        return f"{action!r} is wrong. Again, {self.word}:", score, done, self.tries == 2 and not done, {"success": done}


class Prompts(bitrl.Environment):
    def make(self, render_mode=None):
        return Reverse()


class Scripted(Algorithm):
    """Answers by a rule: the first word after "Write " backwards, and right only the second time."""

    def __init__(self, options, task):
        super().__init__(options, task)
        self.seen = np.zeros(2)

    def answer(self, text, right):
        word = text.removesuffix(" backwards:").removeprefix("Write ") if "Write" in text else text.split()[-1][:-1]
        return word[::-1] if right or "Again" in text else word

    def update(self):
        def act(states, t):
            return np.array([self.answer(text, right=False) for text in states.texts])

        rollout = self.task.collector.rollout(act, 6)
        self.seen += [rollout.rewards.sum(), len(rollout.returns)]
        texts = [each.texts for each in rollout.states]
        assert all("Write" in text or "Again" in text for text in texts[-1])
        return {"reward": float(rollout.rewards.mean()), "total": float(self.seen[0]), "ended": float(self.seen[1])}

    def act(self, states):
        return np.array([self.answer(text, right=True) for text in states.texts])

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"].copy()


@pytest.fixture
def values(monkeypatch):
    """Settings of a run of both, which are installed for this test."""
    entries = registry().entries
    record = EnvironmentRecord(
        name="reverse",
        summary="a word backwards",
        target=f"{__name__}:Prompts",
        defaults={"run.serializer": "prompt", "run.num_envs": 3, "run.eval_episodes": 4},
    )
    scripted = AlgorithmRecord(name="scripted", summary="a rule", target=f"{__name__}:Scripted")
    for kind, each in (("environment", record), ("algorithm", scripted)):
        monkeypatch.setitem(entries, kind, [*entries[kind], type(entries[kind][0])("test", each)])
    return {
        "run": {"env": "reverse", "algo": "scripted", "steps": 72, "checkpoint_every": 1},
        "backbone": {"layers": 1, "threads": 1},
    }


def test_the_environment_conforms(values):
    check_environment("reverse")
    assert bitrl.load_environment("reverse").observation_spec().prompt


def test_a_scripted_policy_is_run_resumed_and_evaluated(values, tmp_path):
    whole = train.start(resolve(values), tmp_path / "whole", force=False)
    assert whole["eval"]["success_rate"] == 1.0
    assert whole["serializer"] == "prompt"

    class Stop(Exception): ...

    def stop(event):
        if isinstance(event, bitrl.core.events.CheckpointSaved) and event.step >= 36:
            raise Stop

    with pytest.raises(Stop):
        train.start(resolve(values), tmp_path / "stopped", force=False, listeners=(stop,))
    assert bitrl.resume(tmp_path / "stopped")["eval"] == whole["eval"]
    metrics = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("whole", "stopped")]
    assert metrics[0] == metrics[1]
    shown = []
    found = bitrl.evaluate(tmp_path / "whole", episodes=2, show=shown.append)
    assert found["returns"] == [1.0, 1.0]
    assert shown[0].prompt == f"Write {shown[0].completion[::-1]} backwards:"


def test_other_serializers_refuse_prompts_and_prompt_refuses_numbers(values):
    for name in ("json", "compact", "natural", "bins", "codes", "template", "vector"):
        options = {"template": "x"} if name == "template" else {}
        with pytest.raises(bitrl.UsageError, match="gives prompts, not numbers: use --serializer prompt"):
            bitrl.load_serializer(name, env="reverse", **options)
    with pytest.raises(bitrl.UsageError, match="CartPole-v1 gives no prompts"):
        bitrl.load_serializer("prompt", env="CartPole-v1")
