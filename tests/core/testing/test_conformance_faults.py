"""The conformance kit: faults that showed only in a run. Each component here breaks one rule, and is refused for it."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from conformance_helpers import refusal, target

import bitrl
from bitrl.testing import check_algorithm, check_backbone, check_environment, check_plugin, check_serializer
from bitrl.testing.plugins import plugin_outcomes

# Serializers that learn.


class Scale:
    """A serializer that learns the largest number, without faults."""

    def __init__(self, options: Any, observation: bitrl.ObservationSpec):
        self.largest: Any = None

    def fit(self) -> np.ndarray:
        if self.largest is None:
            self.largest = np.array([4.0, 8.0])
        return self.largest

    def __call__(self, observation: Any) -> str:
        return " ".join(f"{number / self.fit().sum():.3f}" for number in np.ravel(observation))

    def batch(self, observations: Any) -> list[str]:
        return [self(observation) for observation in observations]

    def state(self) -> dict[str, np.ndarray]:
        return {"largest": self.fit().copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.largest = state["largest"].copy()


class NeverLoads(Scale):
    load_state = None  # type: ignore[assignment]


class HandsOutItsArray(Scale):
    def state(self) -> dict[str, np.ndarray]:
        return {"largest": self.fit()}


class KeepsTheArray(Scale):
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.largest = state["largest"]


class ForgetsToLoad(Scale):
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.largest = np.array([1.0, 1.0])


class WritesObjects(Scale):
    def state(self) -> dict[str, Any]:
        return {"largest": [4.0, 8.0]}


class Fixed(Scale):
    state = load_state = None  # type: ignore[assignment]


def serializer_record(cls: type, **fields: Any) -> bitrl.SerializerRecord:
    return bitrl.SerializerRecord(**{"name": "test", "summary": "a test", "target": target(cls), **fields})


def test_a_serializer_that_learns_passes():
    check_serializer("codes", states=200, codes=4)
    check_serializer(serializer_record(Scale, learns=True))
    check_serializer(serializer_record(Fixed))


@pytest.mark.parametrize(
    ("cls", "learns", "message"),
    [
        (NeverLoads, True, "it has state(), but no load_state()"),
        (NeverLoads, False, "it has state(), but no load_state()"),
        (Scale, False, "its record must say learns=True"),
        (Fixed, True, "its record says learns=True, but it has no state()"),
        (HandsOutItsArray, True, "state() returns the component's own array largest: return a copy"),
        (KeepsTheArray, True, "load_state() keeps the array largest that it is given: copy it"),
        (ForgetsToLoad, True, "load_state() does not restore largest"),
        (WritesObjects, True, "state(): largest: expected a numpy array, got list"),
    ],
)
def test_a_serializer_whose_learning_would_be_lost_is_refused(cls: type, learns: bool, message: str):
    assert message in refusal(check_serializer, serializer_record(cls, learns=learns), env="CartPole-v1")


# Backbones.


class Gain:
    """A backbone of texts that learns a gain, without faults."""

    def __init__(self, options: Any, width: int | None):
        self.width, self.identity, self.version = 2, {"counts": "letters"}, 0
        self.gain = np.ones(1, np.float32)
        self._module: Any = None

    def counts(self, inputs: Any) -> np.ndarray:
        return np.array([[len(text), text.count(" ")] for text in inputs], np.float32).reshape(-1, 2)

    def encode(self, inputs: Any) -> np.ndarray:
        features: np.ndarray = self.counts(inputs) * self.gain
        return features

    def module(self) -> Any:
        import torch

        class Multiply(torch.nn.Module):
            def __init__(self, counts: Any, gain: np.ndarray):
                super().__init__()
                self.counts, self.gain = counts, torch.nn.Parameter(torch.tensor(gain))

            def forward(self, texts: list[str]) -> Any:
                return torch.from_numpy(self.counts(texts)) * self.gain

        if self._module is None:
            self._module = Multiply(self.counts, self.gain)
        return self._module

    def sync(self) -> None:
        self.gain, self.version = self.module().gain.detach().numpy().copy(), self.version + 1

    def learned(self) -> dict[str, np.ndarray]:
        return {"gain": self.gain.copy()}

    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.gain, self.version = arrays["gain"].copy(), self.version + 1


class HandsOutItsGain(Gain):
    def learned(self) -> dict[str, np.ndarray]:
        return {"gain": self.gain}


class KeepsTheGain(Gain):
    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.gain, self.version = arrays["gain"], self.version + 1


def learning_record(cls: type) -> bitrl.BackboneRecord:
    return bitrl.BackboneRecord(name="test", summary="a test", target=target(cls), provides=("gradients",))


def test_a_backbone_that_learns_gives_and_takes_copies():
    check_backbone(learning_record(Gain))
    assert "learned() returns the component's own array gain" in refusal(
        check_backbone, learning_record(HandsOutItsGain)
    )
    assert "load_learned() keeps the array gain" in refusal(check_backbone, learning_record(KeepsTheGain))


class Rounds:
    """A frozen backbone whose features differ by a millionth with the size of the batch."""

    def __init__(self, options: Any, width: int | None):
        self.width, self.identity = 2, {"counts": "letters"}

    def encode(self, inputs: Any) -> np.ndarray:
        features = np.array([[len(text), text.count(" ")] for text in inputs], np.float32).reshape(-1, 2)
        return features * np.float32(1 + 1e-6 * len(inputs))


def test_features_are_the_same_in_every_batch_unless_a_tolerance_is_declared():
    record = bitrl.BackboneRecord(name="test", summary="a test", target=target(Rounds))
    refused = refusal(check_backbone, record)
    assert (
        "the features of an input differ when it is encoded alone (by 5.1e-06 of the largest; they must be equal)"
        in refused
    )
    tolerant = bitrl.BackboneRecord(name="test", summary="a test", target=target(Rounds), batch_tolerance=1e-5)
    check_backbone(tolerant)
    with pytest.raises(ValueError, match="batch_tolerance: expected a number of at least 0 and below 1, got '1e-5'"):
        bitrl.BackboneRecord(name="test", summary="", target="a:b", batch_tolerance="1e-5")  # type: ignore[arg-type]


# Options.


@bitrl.options
class ListOptions:
    """An option that cannot be set."""

    sizes: list[int] = bitrl.option([1, 2], "sizes")


@bitrl.options
class ListDefault:
    """A default that all objects share."""

    sizes: tuple[int, ...] = bitrl.option([1, 2], "sizes")


@bitrl.options
class PathOptions:
    """An option of a type that cannot be set."""

    place: Path = bitrl.option(Path(), "where")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ListOptions,
            "sizes is a list, which is mutable and shared: declare a tuple, as sizes: tuple[int, ...]",
        ),
        (
            ListDefault,
            "sizes is a list, which is mutable and shared: declare a tuple, as sizes: tuple[int, ...]",
        ),
        (PathOptions, "place is of type <class 'pathlib.Path'>: expected bool, int, float, str"),
    ],
)
def test_an_option_that_cannot_be_set_or_is_mutable_is_refused(options: type, message: str):
    with pytest.raises(ValueError, match=re.escape(f"options: {options.__name__}.{message}")) as refused:
        serializer_record(Fixed, options=options)
    assert "got [1, 2]" not in str(refused.value)


# Environments.


class Flag(gymnasium.Env):
    """An environment whose `info` is what a class attribute says."""

    given: ClassVar[Any] = {"success": True, "metrics": {"distance": 3.5, "falls": 2}}

    def __init__(self) -> None:
        self.observation_space: Any = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space: Any = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.low.copy(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.observation_space.low.copy(), 1.0, self.time == 5, False, self.given if self.time == 5 else {}


class NumpyFlag(Flag):
    given: ClassVar[Any] = {"success": np.bool_(False), "metrics": {"distance": np.float32(3.5)}}


class NumberFlag(Flag):
    given: ClassVar[Any] = {"success": 1.0}


class TextFlag(Flag):
    given: ClassVar[Any] = {"success": "yes"}


class NanNumber(Flag):
    given: ClassVar[Any] = {"metrics": {"distance": float("nan")}}


class ListOfNumbers(Flag):
    given: ClassVar[Any] = {"metrics": [3.5]}


def environment_record(env: type, **fields: Any) -> bitrl.EnvironmentRecord:
    component = type(f"Component{env.__name__}", (bitrl.Environment,), {"make": lambda self, render_mode=None: env()})
    return bitrl.EnvironmentRecord(name="Test-v0", summary="a test", target=target(component), **fields)


def test_what_an_environment_reports_at_the_end_of_an_episode_passes():
    check_environment(environment_record(Flag))
    check_environment(environment_record(NumpyFlag))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NumberFlag, 'info["success"] is 1.0, a float: expected True or False'),
        (TextFlag, "info[\"success\"] is 'yes', a str: expected True or False"),
        (NanNumber, "info[\"metrics\"]: expected finite numbers by name, got 'distance': nan"),
        (ListOfNumbers, 'info["metrics"]: expected a dict of numbers by name, got [3.5]'),
    ],
)
def test_an_environment_that_reports_something_else_is_refused(cls: type, message: str):
    assert message in refusal(check_environment, environment_record(cls))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"defaults": {"run.stps": 10}}, 'defaults: unknown option "run.stps": did you mean "run.steps"'),
        ({"defaults": {"serializer.decimal": 3}}, 'defaults: unknown option "serializer.decimal"'),
        ({"defaults": {"run.serializer": "jsno"}}, 'defaults: run.serializer: unknown serializer "jsno"'),
        ({"defaults": {"run.serializer": "vector", "serializer.decimals": 3}}, 'unknown option "serializer.decimals"'),
        ({"defaults": {"backbone.layers": "many"}}, "defaults: backbone.layers: expected an integer"),
        ({"defaults": {"run.backbone": "mlp", "backbone.layers": 3}}, 'unknown option "backbone.layers"'),
        ({"defaults": {"critic_backbone.layer": 3}}, 'defaults: unknown option "critic_backbone.layer"'),
        (
            {"tuned": {"ppo": {"algo.gama": 0.9}}},
            'tuned for ppo: unknown option "algo.gama": did you mean "algo.gamma"',
        ),
        ({"tuned": {"ppo": {"algo.gamma": 2}}}, "tuned for ppo: algo.gamma: expected a number between 0 and 1, got 2"),
        ({"tuned": {"ppo": {"gamma": 0.9}}}, 'tuned for ppo: "gamma" is not of the form part.option'),
    ],
)
def test_defaults_of_an_environment_that_no_component_has_are_refused(fields: dict[str, Any], message: str):
    assert message in refusal(check_environment, environment_record(Flag, **fields))


def test_defaults_that_a_component_has_pass():
    defaults = {"run.steps": 10, "serializer.decimals": 3, "backbone.layers": 2, "critic_backbone.layers": 2}
    tuned = {"ppo": {"algo.gamma": 0.9}, "not-installed": {"algo.anything": 1}}
    check_environment(environment_record(Flag, defaults=defaults, tuned=tuned))


# Algorithms.


class Linear(bitrl.Algorithm):
    """An actor-critic of numpy on linear features, without faults: softmax policy, one-step advantages."""

    rate = 0.05

    def __init__(self, options: Any, task: bitrl.Task):
        super().__init__(options, task)
        self.values = np.full(task.reader.width, 0.1)
        self.weights = np.random.default_rng(task.seed).standard_normal((task.reader.width, self.actions))

    @property
    def actions(self) -> int:
        return int(self.task.collector.action_space.n)  # type: ignore[attr-defined]

    def scores(self, states: bitrl.States) -> np.ndarray:
        return states.features @ self.weights

    def update(self) -> Any:
        rollout = self.task.collector.rollout(lambda states, t: states.best(self.scores(states)), 12)
        values = rollout.features @ self.values
        after = self.after(rollout, values)
        errors = rollout.rewards + 0.9 * after - values[:-1]
        self.values = self.values + self.rate * np.einsum("tn,tnd->d", errors, rollout.features[:-1]) / errors.size
        return {"error": float(np.abs(errors).mean())}

    def after(self, rollout: bitrl.Rollout, values: np.ndarray) -> np.ndarray:
        after = values[1:].copy()
        after[rollout.terminated] = 0
        if rollout.final_states is not None:
            after[tuple(rollout.final_steps.T)] = rollout.final_states.features @ self.values
        return after

    def act(self, states: bitrl.States) -> np.ndarray:
        return states.best(self.scores(states))

    def state(self) -> dict[str, np.ndarray]:
        return {"values": self.values.copy(), "weights": self.weights.copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.values, self.weights = state["values"].copy(), state["weights"].copy()


class StartsAtZero(Linear):
    """Its values do not depend on the state before something is learned."""

    def __init__(self, options: Any, task: bitrl.Task):
        super().__init__(options, task)
        self.values = np.zeros(task.reader.width)


class TruncationIsTheEnd(Linear):
    def after(self, rollout: bitrl.Rollout, values: np.ndarray) -> np.ndarray:
        after = values[1:].copy()
        after[rollout.terminated | rollout.truncated] = 0
        return after


class TruncationLeadsToTheReset(Linear):
    def after(self, rollout: bitrl.Rollout, values: np.ndarray) -> np.ndarray:
        after = values[1:].copy()
        after[rollout.terminated] = 0
        return after


class RewardsAlone(Linear):
    def after(self, rollout: bitrl.Rollout, values: np.ndarray) -> np.ndarray:
        return np.zeros_like(values[1:])


class ForgetsMasks(Linear):
    def act(self, states: bitrl.States) -> np.ndarray:
        return self.scores(states).argmax(axis=1)


class ExploresForbidden(Linear):
    def update(self) -> Any:
        self.task.collector.rollout(lambda states, t: np.full(len(states), t % self.actions), 12)
        return {}


class CannotScoreCommands(Linear):
    def act(self, states: bitrl.States) -> np.ndarray:
        if states.admissible is not None and states.admissible.commands is not None:
            raise TypeError("features of commands?")
        return super().act(states)


class LearnsInPlace(Linear):
    def update(self) -> Any:
        metrics, weights = super().update(), self.weights
        weights += 0.01
        return metrics

    def state(self) -> dict[str, np.ndarray]:
        return {"values": self.values, "weights": self.weights}


def algorithm_record(cls: type, **fields: Any) -> bitrl.AlgorithmRecord:
    return bitrl.AlgorithmRecord(name="test", summary="a test", target=target(cls), actions=("Discrete",), **fields)


def test_an_actor_critic_passes_everywhere():
    check_algorithm(algorithm_record(Linear, commands=True, bootstraps=True))
    check_algorithm(algorithm_record(Linear))
    check_algorithm(algorithm_record(RewardsAlone))
    check_algorithm(algorithm_record(StartsAtZero, bootstraps=True))


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (TruncationIsTheEnd, {}, "values depends on the state after a rollout's last step, but not on the last"),
        (TruncationLeadsToTheReset, {"bootstraps": True}, "but not on the last state of a truncated episode"),
        (
            RewardsAlone,
            {"bootstraps": True},
            "bootstraps=True, but nothing depends on the last state of a truncated episode",
        ),
        (ForgetsMasks, {}, "in an environment with action masks on a frozen backbone: act() took action "),
        (ExploresForbidden, {"bootstraps": False}, "which its state does not admit: choose by states.admissible"),
        (CannotScoreCommands, {"commands": True}, "raised TypeError: features of commands?"),
        (LearnsInPlace, {}, "the next update changed values, weights of an earlier state(): return copies"),
    ],
)
def test_an_algorithm_that_would_learn_wrongly_is_refused(cls: type, fields: dict[str, Any], message: str):
    assert message.replace("values, weights", "weights") in refusal(check_algorithm, algorithm_record(cls, **fields))


def test_an_algorithm_may_declare_that_it_does_not_bootstrap():
    check_algorithm(algorithm_record(TruncationIsTheEnd, bootstraps=False))


def test_an_algorithm_is_not_tried_with_actions_that_its_record_leaves_out():
    assert "its record says that it supports Discrete actions, not Box" in refusal(
        check_algorithm, algorithm_record(Linear), env="Pendulum-v1"
    )


@pytest.mark.parametrize("env", ["BabyAI-GoToRedBall-v0", "SmartHome-Light"])
def test_an_algorithm_can_be_checked_in_environments_of_texts(env: str):
    check_algorithm("ppo", env=env, rollout_steps=32, minibatch_size=16, epochs=1)


# Plugins.


class Broken(bitrl.Environment):
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        raise RuntimeError("no display")


class Leaves:
    def __init__(self, options: Any, observation: bitrl.ObservationSpec):
        sys.exit("good bye")


def test_one_broken_component_fails_its_own_checks_alone():
    module = types.ModuleType("broken_plugin")
    module.bitrl_serializers = bitrl.hookimpl(  # type: ignore[attr-defined]
        lambda: [serializer_record(Fixed, name="fine"), serializer_record(Leaves, name="leaves")]
    )
    broken = bitrl.EnvironmentRecord(name="Broken-v0", summary="a test", target=target(Broken))
    module.bitrl_environments = bitrl.hookimpl(lambda: [broken])  # type: ignore[attr-defined]
    sys.modules["broken_plugin"] = types.ModuleType("broken_plugin")
    sys.modules["broken_plugin"].plugin = module  # type: ignore[attr-defined]
    try:
        outcomes = [*plugin_outcomes("broken_plugin:plugin")]
    finally:
        del sys.modules["broken_plugin"]
    failures = {each.component: each.failure for each in outcomes if not each.passed and "plugin" not in each.component}
    assert failures == {
        'serializer "leaves"': "raised SystemExit: good bye",
        'environment "Broken-v0"': "raised RuntimeError: no display",
    }


@pytest.mark.parametrize("end", ["\\n", ""])
def test_a_plugin_that_prints_when_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str):
    source = f"import bitrl\nprint('hello', end='{end}')\n\n@bitrl.hookimpl\ndef bitrl_event(event): ...\n"
    (tmp_path / "loud_hooks.py").write_text(source)
    (tmp_path / "loud_plugin.py").write_text("import sys\nimport loud_hooks\nplugin = sys.modules['loud_hooks']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loud_plugin", raising=False)  # another test's
    assert "reading loud_plugin:plugin prints 'hello', as every command would" in refusal(
        check_plugin, "loud_plugin:plugin"
    )
