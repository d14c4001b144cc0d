"""Evaluations from Python: what is asked for is checked, and steps are shown by the names of their actions."""

import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl.core.acting.states import StateReader
from bitrl.core.runs.parts import Parts
from bitrl.core.runs.watch import watch

OPTIONS = {"run.num_envs": 2, "run.eval_episodes": 1, "algo.rollout_steps": 16, "algo.epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "run"
    bitrl.run(backbone="mlp", steps=32, out=out, options=OPTIONS)
    return out


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"seed": -1}, "run.seed: expected an integer of at least 0, got -1"),
        ({"seed": 0.5}, "run.seed: expected an integer of at least 0, got 0.5"),
        ({"episodes": -1}, "run.eval_episodes: expected an integer of at least 0, got -1"),
        ({"max_steps": 0}, "run.eval_max_steps: expected an integer above 0 or none, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(run, given, error):
    with pytest.raises(bitrl.UsageError) as caught:
        bitrl.evaluate(run, **given)
    assert str(caught.value) == error


def test_numpys_integers_are_integers(run):
    found = bitrl.evaluate(run, seed=np.int64(3), episodes=np.int32(1))
    assert (type(found["seed"]), found["seed"], len(found["returns"])) == (int, 3, 1)


def test_an_agent_that_cannot_be_written_is_told_what_to_do(run, tmp_path):
    with pytest.raises(bitrl.RunFailed, match=r"cannot be written: Is a directory: name another file$"):
        bitrl.export(run, tmp_path)


class Turns(bitrl.Environment):
    """Two actions, 10 and 11, with names."""

    def make(self, render_mode=None):
        env = gymnasium.make("CartPole-v1")
        return gymnasium.wrappers.TransformAction(
            env, lambda action: action - 10, gymnasium.spaces.Discrete(2, start=10)
        )

    def action_names(self):
        return ("left", "right")


def test_names_of_actions_are_counted_from_the_first():
    shown = []
    reader = StateReader(bitrl.load_serializer("json", env="CartPole-v1"), bitrl.load_backbone("mlp", width=4))
    env = watch(Parts(Turns(None, "Turns"), reader), shown.append, None)
    env.reset(seed=0)
    for action in (10, 11, 10):
        env.step(action)
    assert [(step.action, step.action_name) for step in shown] == [(10, "left"), (11, "right"), (10, "left")]


class OneName(Turns):
    def action_names(self):
        return ("left",)


def test_names_of_other_actions_than_there_are_are_the_environments_fault():
    reader = StateReader(bitrl.load_serializer("json", env="CartPole-v1"), bitrl.load_backbone("mlp", width=4))
    with pytest.raises(bitrl.RunFailed, match=r"^environment OneName: its action_names\(\) are 1, its actions 2: tell"):
        watch(Parts(OneName(None, "OneName"), reader), print, None)
