"""The conformance kit for environments and algorithms: good ones pass, each way of breaking a contract is named."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conformance_helpers import refusal, target

import bitrl
from bitrl.core.acting.policies import Discrete, Network, Policy
from bitrl.core.registry import Entry, registry
from bitrl.testing import check_algorithm, check_environment, make_task
from bitrl.testing.environments import environment_outcomes


def test_the_built_in_algorithms_conform():
    check_algorithm("ppo", rollout_steps=64, minibatch_size=16)


def test_the_built_in_algorithms_of_language_models_conform():
    check_algorithm("grpo", group_size=2, max_tokens=6, learning_rate=1e-2, rollout="int8", kl="k3")


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_the_built_in_environments_conform(name: str):
    check_environment(name)


@pytest.mark.parametrize("id", ["Pendulum-v1", "FrozenLake-v1"])
def test_other_gymnasium_environments_conform(id: str):
    check_environment("gymnasium", id=id)


@pytest.mark.parametrize("name", ["addition", "sort-digits", "reverse-word"])
def test_the_built_in_prompt_tasks_conform(name: str):
    check_environment(name)


# Environments.


class Walk(gymnasium.Env):
    """An environment without faults."""

    def __init__(self) -> None:
        self.observation_space: Any = gymnasium.spaces.Box(-50, 50, (2,), np.float32)
        self.action_space: Any = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.time = self.np_random.standard_normal(), 0
        return self.look(), {}

    def step(self, action: Any) -> Any:
        self.place += self.np_random.standard_normal() + action
        self.time += 1
        return self.look(), float(self.place), self.time >= 20, False, {}

    def look(self) -> Any:
        return np.array([np.clip(self.place, -50, 50), self.time], np.float32)


def environment_record(env: type, **attributes: Any) -> bitrl.EnvironmentRecord:
    defaults = attributes.pop("defaults", {})
    body = {"make": lambda self, render_mode=None: env(), **attributes}
    component = type(f"Component{env.__name__}", (bitrl.Environment,), body)
    return bitrl.EnvironmentRecord(name="Test-v0", summary="a test", target=target(component), defaults=defaults)


def test_a_good_environment_passes():
    check_environment(environment_record(Walk, defaults={"run.steps": 10}, tuned={"ppo": {"algo.clip_coef": 0.2}}))


class OwnChance(Walk):
    def step(self, action: Any) -> Any:
        self.place += np.random.default_rng().standard_normal()
        return super().step(action)


class GlobalNoise(Walk):
    def step(self, action: Any) -> Any:
        self.place += random.random()
        return super().step(action)


class OutOfSpace(Walk):
    def look(self) -> Any:
        return super().look() + np.float32(100)


class CountsEpisodes(Walk):
    """What happens depends on how many episodes were played before."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        _, info = super().reset(seed=seed)
        self.episodes = 0 if seed is not None else self.episodes + 1
        self.place += self.episodes
        return self.look(), info


class Switches(Walk):
    """Observed as bits or as positions, which bitrl reads as numbers."""

    def look(self) -> np.ndarray:
        return self.np_random.integers(0, 2, 3).astype(self.observation_space.dtype)


class Bits(Switches):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.MultiBinary(3)


class Positions(Switches):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.MultiDiscrete([2, 2, 3])


class DictActions(Walk):
    """Observed in parts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Dict({"push": gymnasium.spaces.Discrete(2)})
        self.observation_space = gymnasium.spaces.Dict(
            {"walk": self.observation_space, "words": gymnasium.spaces.Text(9)}
        )

    def look(self) -> Any:
        return {"walk": super().look(), "words": f"step{self.time}"}

    def step(self, action: Any) -> Any:
        return super().step(int(action["push"]))


class SequenceActions(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))

    def step(self, action: Any) -> Any:
        return super().step(len(action) % 2)


class TextInside(DictActions):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Dict(
            {"push": gymnasium.spaces.Discrete(2), "say": gymnasium.spaces.Text(3)}
        )


class SeveralActions(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def step(self, action: Any) -> Any:
        return super().step(int(action[0]))


class Switches(SeveralActions):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.MultiBinary(2)


class OtherGenerator(Walk):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self.np_random = np.random.Generator(np.random.MT19937(seed))
        self.place, self.time = self.np_random.standard_normal(), 0
        return self.look(), {}


class NanReward(Walk):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return (observation, float("nan"), *rest)


@pytest.mark.parametrize("cls", [Bits, Positions, DictActions])
def test_an_environment_of_switches_passes(cls: type):
    check_environment(environment_record(cls))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (OwnChance, "all randomness must come from np_random"),
        (GlobalNoise, "random changed state"),
        (OutOfSpace, "Gymnasium's own checker finds nothing wrong: it says: "),
        (CountsEpisodes, "the observation restored by replaying differs"),
        (
            SequenceActions,
            "expected actions of Discrete or MultiDiscrete or MultiBinary or Box or Text or Dict or Tuple",
        ),
        (TextInside, "its action_space['say'] is a Text space: actions of several parts are made of Box, Discrete"),
        (OtherGenerator, "it must be numpy's default, PCG64"),
        (NanReward, "the reward of step 1 is nan"),
    ],
)
def test_an_environment_that_breaks_its_contract_is_refused(cls: type, message: str):
    assert message in refusal(check_environment, environment_record(cls))


@pytest.mark.parametrize(("cls", "space"), [(SeveralActions, "MultiDiscrete"), (Switches, "MultiBinary"), (Walk, None)])
def test_actions_that_no_algorithm_supports_are_a_note_and_no_fault(
    cls: type, space: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = environment_record(cls)

    def notes() -> list[str]:
        return [outcome.note for outcome in environment_outcomes(record, record.name) if outcome.note]

    assert notes() == []
    able = bitrl.AlgorithmRecord(name="able", summary="", target="a:b", actions=("Discrete", "Box"))
    monkeypatch.setitem(registry().entries, "algorithm", [Entry("able", able)])
    check_environment(record)
    words = f"its actions are a {space} space, which no installed algorithm declares to support"
    assert [note.startswith(words) for note in notes()] == ([] if space is None else [True])


def test_the_parts_of_a_spec_are_those_of_the_observation_space():
    for parts, message in (
        ((("walk",), ("talk",)), "the spec has the part [('talk',)], and the observation space has none there"),
        ((("walk",),), "expected the strings (), as its parts say, got ('words',)"),
        ((("words",),), "expected a field for each of the 0 numbers, got 2"),
    ):
        own = bitrl.ObservationSpec("Test-v0", (bitrl.Field("x"), bitrl.Field("y")), texts=("words",), parts=parts)
        record = environment_record(DictActions, observation_spec=lambda self, own=own: own)
        assert message in refusal(check_environment, record)


def spec(*fields: bitrl.Field, discrete: int | None = None) -> Any:
    return lambda self: bitrl.ObservationSpec("Test-v0", fields, discrete)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"observation_spec": spec(bitrl.Field("x"))}, "a field for each of the 2 numbers of an observation, got 1"),
        ({"observation_spec": spec(bitrl.Field("x"), bitrl.Field("x"))}, "two fields have the same name"),
        ({"observation_spec": spec(bitrl.Field("x", 1, 0), bitrl.Field("y"))}, "x: its low bound 1 is not below"),
        ({"observation_spec": spec(bitrl.Field("x", 0, float("inf")), bitrl.Field("y"))}, "x: write None for a bound"),
        ({"observation_spec": spec(bitrl.Field("x"), discrete=2)}, "expected discrete=None in a Box space, got 2"),
        ({"observation_spec": lambda self: None}, "expected an ObservationSpec, got NoneType"),
        ({"make": lambda self, render_mode=None: object()}, "make() must return a gymnasium.Env, got object"),
        ({"defaults": {"steps": 3}}, '"steps" is not of the form part.option'),
        (
            {"defaults": {"run.steps": "many"}},
            "run.steps: expected an integer between 0 and",
        ),
        ({"defaults": {"env.size": 3}}, 'unknown option "env.size"'),
    ],
)
def test_an_environment_that_says_wrong_things_of_itself_is_refused(attributes: dict[str, Any], message: str):
    assert message in refusal(check_environment, environment_record(Walk, **attributes))


# Algorithms.


class Climb(bitrl.Algorithm):
    """An algorithm without faults: a linear policy that a random step is added to."""

    def __init__(self, options: Any, task: bitrl.Task):
        super().__init__(options, task)
        space = task.collector.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise bitrl.UsageError("discrete actions only")
        self.weights = self.draw().standard_normal((task.reader.width, int(space.n)))

    def draw(self) -> np.random.Generator:
        return np.random.default_rng([self.task.seed, self.step])

    def update(self) -> Any:
        reward = 0.0
        for _ in range(10):
            reward += self.play().mean()
        self.weights = self.weights + self.draw().standard_normal(self.weights.shape) * 0.1
        return {"reward": float(reward)}

    def play(self) -> np.ndarray:
        collector = self.task.collector
        return collector.step(self.act(collector.states)).rewards

    def act(self, states: bitrl.States) -> np.ndarray:
        return states.best(states.features @ self.weights)

    def state(self) -> Any:
        return {"weights": self.weights}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.weights = state["weights"]


def algorithm_record(cls: type, critic_backbone: bool = False, **fields: Any) -> bitrl.AlgorithmRecord:
    return bitrl.AlgorithmRecord(
        name="test", summary="a test", target=target(cls), critic_backbone=critic_backbone, **fields
    )


def test_a_good_algorithm_passes():
    check_algorithm(algorithm_record(Climb))
    check_algorithm(algorithm_record(Climb), env="MountainCar-v0")


def test_an_algorithm_may_refuse_environments_but_not_the_one_it_is_checked_in():
    assert "discrete actions" in refusal(check_algorithm, algorithm_record(Climb), env="Pendulum-v1")


class Forgets(Climb):
    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        pass


class OwnCounter(Climb):
    updates = 0

    def update(self) -> Any:
        self.updates += 1
        return {**super().update(), "updates": float(self.updates)}


class StepsByItself(Climb):
    def update(self) -> Any:
        self.task.collector.envs.step(np.zeros(4, int))
        return super().update()


class CountsSteps(Climb):
    def update(self) -> Any:
        metrics = super().update()
        self.step = self.step + 40
        return metrics


class ReadsTheOldTask(Climb):
    def update(self) -> Any:
        return {"reward": float(np.mean(self.task.observations))}


class NanMetric(Climb):
    def update(self) -> Any:
        return {**super().update(), "loss": float("nan")}


class ArrayMetric(Climb):
    def update(self) -> Any:
        return {**super().update(), "loss": np.float32(1)}


class Explores(Climb):
    calls = 0

    def act(self, states: bitrl.States) -> np.ndarray:
        self.calls += 1
        return np.full(len(states), self.calls % 2)


class Traces(Climb):
    def act(self, states: bitrl.States) -> np.ndarray:
        self.weights = self.weights * 1.01
        return super().act(states)


class OutOfActions(Climb):
    def act(self, states: bitrl.States) -> np.ndarray:
        return super().act(states) + 0.5

    def play(self) -> np.ndarray:
        return self.task.collector.step(np.zeros(self.task.collector.num_envs, int)).rewards


class UnseededStart(Climb):
    def draw(self) -> np.random.Generator:
        return np.random.default_rng()


class GlobalTorch(Climb):
    def update(self) -> Any:
        torch.rand(1)
        return super().update()


class Lists(Climb):
    def state(self) -> Any:
        return {**super().state(), "weights": self.weights.tolist()}


class Objects(Climb):
    def state(self) -> Any:
        return {**super().state(), "who": np.array([object()])}


class NanSummary(Climb):
    def summary(self) -> Any:
        return {"best": float("nan")}


class Idle(Climb):
    def update(self) -> Any:
        return {}


class Exports(Climb):
    def plain_policy(self, sign: int = 1) -> Policy:
        zeros = np.zeros(self.task.reader.width)
        return Discrete(Network(zeros, zeros + 1, np.inf, ((sign * self.weights.T, np.zeros(2)),)))


class ExportsAnother(Exports):
    def plain_policy(self, sign: int = -1) -> Policy:
        return super().plain_policy(sign)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Forgets, "differs from an uninterrupted run"),
        (OwnCounter, "updates differs from an uninterrupted run"),
        (StepsByItself, "44 environment steps were taken, 40 by task.collector"),
        (CountsSteps, "sets `step`, which the collector counts since bitrl 0.2"),
        (ReadsTheOldTask, "task.observations has been removed: task.collector.states is a view"),
        (NanMetric, "loss is nan"),
        (ArrayMetric, "loss is a float32: make it a float"),
        (Explores, "a second call gave different actions"),
        (Traces, "it changed weights"),
        (OutOfActions, "is not in Discrete(2)"),
        (UnseededStart, "weights differs: draw from the task's seed only"),
        (GlobalTorch, "torch's generator changed state"),
        (Lists, "state(): weights: expected a numpy array, got list"),
        (Objects, "state() cannot be saved"),
        (NanSummary, "summary(): expected finite numbers by name, got 'best': nan"),
        (Idle, "an update took no step"),
        (ExportsAnother, "its numpy policy gives array("),
    ],
)
def test_an_algorithm_that_breaks_its_contract_is_refused(cls: type, message: str):
    assert message in refusal(check_algorithm, algorithm_record(cls), env="CartPole-v1")


def test_an_algorithm_of_the_old_interface_is_told_what_has_changed():
    with pytest.raises(bitrl.UsageError, match=r"act\(features, choices\) has become act\(states\)"):

        class Old(bitrl.Algorithm):
            def act(self, features: np.ndarray, choices: Any = None) -> np.ndarray: ...  # type: ignore[override]


def test_an_algorithm_may_say_what_it_acts_by():
    check_algorithm(algorithm_record(Exports), env="CartPole-v1")


class Judges(Climb):
    """Keeps the mean of the critic's features."""

    def __init__(self, options: Any, task: bitrl.Task):
        super().__init__(options, task)
        self.mean = np.zeros(task.reader.critic_width)

    def update(self) -> Any:
        metrics = super().update()
        self.mean = self.task.collector.states.critic_features.mean(axis=0)
        return {**metrics, "mean": float(self.mean.sum())}

    def state(self) -> Any:
        return {**super().state(), "mean": self.mean}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        super().load_state(state)
        self.mean = state["mean"]


class JudgesTheWrongWidth(Judges):
    def update(self) -> Any:
        return {**super().update(), "value": float(self.mean @ np.ones(self.task.reader.width))}


class JudgesToAct(Judges):
    def act(self, states: bitrl.States) -> np.ndarray:
        assert len(states.critic_features) == len(states)
        return super().act(states)


def test_an_algorithm_with_a_critic_of_its_own_is_tried_with_a_backbone_for_it():
    check_algorithm(algorithm_record(Judges, critic_backbone=True, bootstraps=False))
    check_algorithm(algorithm_record(JudgesTheWrongWidth, bootstraps=False), env="CartPole-v1")


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Climb, "with a critic's own beside it: states.critic_features was never read"),
        (JudgesTheWrongWidth, "mismatch"),
        (JudgesToAct, "act() read the critic's features"),
    ],
)
def test_an_algorithm_that_makes_wrong_use_of_its_critics_backbone_is_refused(cls: type, message: str):
    assert message in refusal(check_algorithm, algorithm_record(cls, critic_backbone=True), env="CartPole-v1")


def test_a_task_for_an_algorithms_own_tests_is_the_same_every_time():
    one, two = make_task("MountainCar-v0", num_envs=3, seed=5), make_task("MountainCar-v0", num_envs=3, seed=5)
    other = make_task("MountainCar-v0", num_envs=3, seed=6)
    observations = [task.collector.states.observations for task in (one, two, other)]
    np.testing.assert_array_equal(observations[0], observations[1])
    assert one.collector.states.features.shape == (3, 2)
    assert not np.array_equal(observations[0], observations[2])
