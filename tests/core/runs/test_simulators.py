"""What becomes of simulators: none is left open by an error or a signal, and an evaluation says that it has few."""

import hashlib
import signal

import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl.core import events
from bitrl.core.acting import agents
from bitrl.core.runs.interrupts import StoppedAtOnce

OPTIONS = {"run.num_envs": 2, "run.eval_episodes": 2, "algo.rollout_steps": 16, "algo.epochs": 1, "algo.anneal": True}


class Simulator(gymnasium.Env):
    """Episodes of four steps. `most`: how many can be open at a time; `broken`: what fails in the one that is opened
    beside `beside` others.
    """

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    open, most, broken, beside = 0, 99, "", 1

    def __init__(self):
        if Simulator.open == Simulator.most:
            raise OSError("no licence is left")
        self.beside, self.t = Simulator.open, 0
        Simulator.open += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe("reset")

    def step(self, action):
        self.t += 1
        observation, info = self._observe("step")
        return observation, 1.0, self.t == 4, False, info

    def _observe(self, where):
        if Simulator.broken == where and self.beside == Simulator.beside:
            raise OSError("not ready")
        return np.full(2, self.t / 4, np.float32), {}

    def close(self):
        Simulator.open -= 1


gymnasium.register("Simulator-v0", Simulator, disable_env_checker=True)


@pytest.fixture(autouse=True)
def simulators(monkeypatch):
    """None open, and those to come are whole."""
    for name, value in (("open", 0), ("most", 99), ("broken", ""), ("beside", 1)):
        monkeypatch.setattr(Simulator, name, value)


@pytest.fixture
def trained(tmp_path):
    """A run, whose agent is beside it."""
    bitrl.run("Simulator-v0", backbone="mlp", steps=32, out=tmp_path / "run", options=OPTIONS)
    bitrl.export(tmp_path / "run", tmp_path / "agent.safetensors")
    assert Simulator.open == 0
    return tmp_path / "run"


def interrupting(kind, signum=signal.SIGINT):
    """A listener that interrupts the run when it hears of `kind`."""

    def listener(event):
        if isinstance(event, kind):
            signal.raise_signal(signum)

    return listener


def test_a_signal_before_the_first_update_closes_them(trained, tmp_path):
    """`learn_on` has told of its new optimizer, and training has not begun."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped:
        bitrl.learn_on(
            tmp_path / "agent.safetensors", steps=64, out=tmp_path / "on", listeners=(interrupting(events.Chosen),)
        )
    assert (type(stopped.value), Simulator.open) == (StoppedAtOnce, 0)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_while_a_run_is_taken_up_again_closes_them(trained):
    """It has told of its schedules."""
    with pytest.raises(KeyboardInterrupt) as stopped:
        bitrl.resume(trained, (interrupting(events.Warned),), steps=64)
    assert (type(stopped.value), Simulator.open) == (StoppedAtOnce, 0)


def test_a_signal_to_an_evaluation_closes_them(trained):
    """Also SIGTERM, by which the process would end where it stands."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            bitrl.evaluate(trained, listeners=(interrupting(events.Evaluating, signal.SIGTERM),))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (type(stopped.value), Simulator.open) == (StoppedAtOnce, 0)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_a_crash_of_one_closes_the_others(tmp_path, monkeypatch, where):
    monkeypatch.setattr(Simulator, "broken", where)
    with pytest.raises(bitrl.RunFailed, match="not ready"):
        bitrl.run("Simulator-v0", backbone="mlp", steps=32, out=tmp_path / "run", options=OPTIONS)
    assert Simulator.open == 0


def test_one_that_cannot_be_made_closes_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Simulator, "most", 1)
    with pytest.raises(bitrl.BitrlError, match="no licence is left"):
        bitrl.run("Simulator-v0", backbone="mlp", steps=32, out=tmp_path / "run", options=OPTIONS)
    assert Simulator.open == 0


@pytest.mark.parametrize("where", ["reset", "step"])
def test_a_crash_in_an_evaluation_closes_all(trained, monkeypatch, where):
    monkeypatch.setattr(Simulator, "broken", where)
    monkeypatch.setattr(Simulator, "beside", 2)  # of which training has none
    with pytest.raises(bitrl.RunFailed, match="not ready"):
        bitrl.evaluate(trained, episodes=4)
    assert Simulator.open == 0


def test_an_evaluation_with_fewer_says_so(trained, monkeypatch):
    expected = bitrl.evaluate(trained, episodes=4)["returns"]
    monkeypatch.setattr(Simulator, "most", 2)
    heard = []
    assert bitrl.evaluate(trained, episodes=4, listeners=(heard.append,))["returns"] == expected
    [warned] = [event.message for event in heard if isinstance(event, events.Warned)]
    assert "evaluates in 2 environments at a time, since no more can be made" in warned
    assert "no licence is left" in warned


def test_the_agent_that_is_recorded_is_the_one_that_was_read(trained, tmp_path, monkeypatch):
    """Another may have taken its file's place by the time that the run begins."""
    file, read = tmp_path / "agent.safetensors", agents.read
    before = hashlib.sha256(file.read_bytes()).hexdigest()

    def replaced(path):
        found = read(path)
        path.write_bytes(b"another agent")
        return found

    monkeypatch.setattr("bitrl.core.runs.learn_on.agents.read", replaced)
    bitrl.learn_on(file, steps=64, out=tmp_path / "on", options={"run.eval_episodes": 0})
    assert before in (tmp_path / "on" / "config.toml").read_text()
