"""Odd Gymnasium environments, each after a public report (README.md): with this folder on PYTHONPATH,
`bitrl run --env odd_environments:NAME-v0`.

All play the same task: four steps; the observation after t of them is [t/10, -t/10, 0], or that of the class's own
`observe`; every step is rewarded with 1. What is odd is the class's own.
"""

from __future__ import annotations

import contextlib
import os
import sys

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Text, Tuple

LENGTH = 4


class Plain(gym.Env):
    """Nothing is odd: what the others are compared with."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Discrete(2)

    def __init__(self, render_mode=None):
        pass

    def observe(self):
        return np.array([self.t / 10, -self.t / 10, 0], np.float32)

    def reward(self, action):
        return 1.0

    def ends(self):
        return False, self.t >= LENGTH

    def info(self):
        return {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), self.info()

    def step(self, action):
        self.t += 1
        return self.observe(), self.reward(action), *self.ends(), self.info()


# Observations


class Buffer(Plain):
    def __init__(self, render_mode=None):
        self.buffer = np.zeros(3, np.float32)

    def observe(self):
        self.buffer[:] = super().observe()
        return self.buffer


class SharedBuffer(Plain):
    """One array for the observations of all parallel environments."""

    buffer = np.zeros(3, np.float32)

    def observe(self):
        self.buffer[:] = super().observe()
        return self.buffer


class ListObservation(Plain):
    def observe(self):
        return super().observe().tolist()


class DoublePrecision(Plain):
    def observe(self):
        return np.array([self.t / 10, -self.t / 10, 0])


class OutOfBounds(Plain):
    observation_space = Box(0, 0.1, (3,), np.float32)


class StateNumber(Plain):
    """A Discrete observation as int32 or as an array without dimensions."""

    observation_space = Discrete(5, start=3)

    def observe(self):
        return np.int32(3 + self.t) if self.t % 2 else np.array(3 + self.t)


class ManyStates(Plain):
    observation_space = Discrete(10**12)

    def observe(self):
        return 10**11 + self.t


class MaskedNumbers(Plain):
    """Numbers that are not there: a masked array."""

    def observe(self):
        return np.ma.array(super().observe(), mask=[False, self.t == 2, False])


class LongNumbers(Plain):
    observation_space = Box(-1, 1, (3,), np.longdouble)


class Booleans(Plain):
    observation_space = Box(0, 1, (3,), np.bool_)

    def observe(self):
        return np.array([self.t % 2, 1, 0], np.bool_)


class BooleanTable(Plain):
    observation_space = MultiBinary((2, 2))

    def observe(self):
        return np.array([[self.t % 2, 1], [0, 1]], np.int8)


class Counts(Plain):
    observation_space = MultiDiscrete([5, 300])

    def observe(self):
        return np.array([self.t, 50 * self.t])


class Image(Plain):
    observation_space = Box(0, 255, (2, 3, 3), np.uint8)

    def observe(self):
        return np.full((2, 3, 3), 182 + self.t, np.uint8)


class TransposedImage(Image):
    def observe(self):
        return super().observe().transpose(2, 0, 1)


class Shape(Plain):
    def observe(self):
        return np.zeros(3 if self.t < 3 else 5, np.float32)


class Ragged(Plain):
    def observe(self):
        return [0.1, [0.2, 0.3], 0.4] if self.t == 2 else super().observe()


class ScalarObservation(Plain):
    def observe(self):
        return 0.5


class HalfNumbers(Plain):
    """Fractions where the space says integers."""

    observation_space = Box(-9, 9, (3,), np.int32)


class WideBounds(Plain):
    """Bounds that say that there are none, on one side; and a count that could be large."""

    observation_space = Dict({"money": Box(0, 1e10, (2,), np.float64), "count": MultiDiscrete([2**31, 9])})

    def observe(self):
        return {"money": np.array([self.t, self.t / 2]), "count": np.array([self.t, self.t])}


class HalfPrecision(Plain):
    observation_space = Box(-np.inf, np.inf, (3,), np.float16)

    def observe(self):
        return np.array([self.t, 0, 40_000.0 * self.t])


class StateOutside(StateNumber):
    def observe(self):
        return 3 + 2 * self.t


class NanAtStep3(Plain):
    def observe(self):
        return super().observe() + np.float32([0, 0, np.nan if self.t == 3 else 0])


class InfinityAtStep2(Plain):
    def observe(self):
        return super().observe() + np.float32([0, np.inf if self.t == 2 else 0, 0])


class GrowingSpace(Plain):
    def reset(self, *, seed=None, options=None):
        self.observation_space = Box(-1, 1, (4,), np.float32)
        return super().reset(seed=seed)

    def observe(self):
        return np.zeros(4, np.float32)


class SpaceOfEach(Plain):
    """Parallel environments whose observations differ in length."""

    made = 0

    def __init__(self, render_mode=None):
        SpaceOfEach.made += 1
        self.observation_space = Box(-1, 1, (SpaceOfEach.made,), np.float32)

    def observe(self):
        return np.zeros(self.observation_space.shape, np.float32)


class TupleSpace(Plain):
    """As Gymnasium's Blackjack has it; given as a list."""

    observation_space = Tuple((Discrete(32), Discrete(11, start=1)))

    def observe(self):
        return [np.int64(self.t), 1 + self.t]


class TupleTooShort(TupleSpace):
    def observe(self):
        return super().observe()[: 1 if self.t == 2 else 2]


class GraphSpace(Plain):
    observation_space = Graph(Box(-1, 1, (3,)), None)


class DictSpace(Plain):
    observation_space = Dict({"place": Box(-1, 1, (3,)), "battery": Box(0, 1, ())})

    def observe(self):
        return {"battery": 0.5, "place": super().observe(), "not declared": self}


class NestedSpace(Plain):
    """Parts in parts, a text among them, and a key with spaces."""

    observation_space = Dict(
        {
            "my arm": Tuple((Box(-1, 1, (1, 2), np.float64), Dict({"closed": MultiBinary(2), "mode": Discrete(9)}))),
            "task": Dict({"words": Text(20)}),
            "numbers": MultiDiscrete([9, 9], start=[-4, 0]),
        }
    )

    def observe(self):
        arm = (np.array([[self.t / 10, 0]]), {"closed": np.array([1, self.t % 2], np.int8), "mode": self.t})
        return {"my arm": arm, "task": {"words": f"step {self.t}"}, "numbers": np.array([self.t - 4, self.t])}


class KeyGone(DictSpace):
    def observe(self):
        return {name: part for name, part in super().observe().items() if self.t != 3 or name != "place"}


class EmptyDict(Plain):
    observation_space = Dict({})


class DeepParts(Plain):
    """Parts in parts, 200 levels deep."""

    observation_space = Dict({"a": Box(-1, 1, (3,))})
    for _ in range(200):
        observation_space = Dict({"a": observation_space})


class EmptyPart(Plain):
    observation_space = Dict({"place": Box(-1, 1, (3,)), "more": Tuple(())})


class NumberedKeys(Plain):
    observation_space = Dict({0: Box(-1, 1, (3,)), 1: Box(0, 1, (1,))})


class GraphInside(Plain):
    observation_space = Dict({"place": Box(-1, 1, (3,)), "map": Graph(Box(-1, 1, (3,)), None)})


class NamedAlike(Plain):
    observation_space = Dict({"a": Box(-1, 1, (2,)), "a.1": Box(-1, 1, ())})


class CommandsOfNumbers(Plain):
    """A state and what the robot was told to do: no admissible commands."""

    observation_space = Dict({"observation": Box(-1, 1, (3,)), "commands": Box(-1, 1, (2,))})


class Camera(Plain):
    observation_space = Dict({"camera": Box(0, 255, (32, 32, 3), np.uint8), "speed": Box(-1, 1, ())})

    def observe(self):
        return {"camera": np.full((32, 32, 3), self.t, np.uint8), "speed": self.t / 10}


class NoSpace(Plain):
    observation_space = (3,)


class PartOfAnotherShape(NestedSpace):
    def observe(self):
        observation = super().observe()
        if self.t == 2:
            observation["my arm"][1]["closed"] = np.zeros(3, np.int8)
        return observation


class PartOfFractions(NestedSpace):
    """Fractions in a part of integers."""

    def observe(self):
        return super().observe() | ({"numbers": [0.5, 0]} if self.t == 3 else {})


class NanInside(NestedSpace):
    def observe(self):
        arm = (np.array([[0, np.nan if self.t == 3 else 0]]), super().observe()["my arm"][1])
        return super().observe() | {"my arm": arm}


class SurrogateInside(NestedSpace):
    """A text decoded with surrogateescape, as Python reads file names."""

    def observe(self):
        return super().observe() | {"task": {"words": b"caf\xe9".decode(errors="surrogateescape") if self.t else ""}}


class SurrogateKey(Plain):
    observation_space = Dict({"place": Box(-1, 1, (3,)), "\ud800": Discrete(2)})


class SameParts(DictSpace):
    """One dict for all observations, with arrays that are changed in place."""

    def __init__(self, render_mode=None):
        self.parts = {"place": np.zeros(3, np.float32), "battery": np.array(0.5, np.float32)}

    def observe(self):
        self.parts["place"][:] = [self.t / 10, -self.t / 10, 0]
        return self.parts


class InfoBesideParts(DictSpace):
    """What no vector environment could stack, and names that it uses itself."""

    def info(self):
        return {"path": [np.zeros((self.t, 2))], self.t: "step", "final_obs": 3, "_path": None}


class GrowingParts(DictSpace):
    """`reset` replaces the space by one with another part, which was not declared."""

    def reset(self, *, seed=None, options=None):
        self.observation_space = Dict({**DictSpace.observation_space.spaces, "more": Discrete(2)})
        return super().reset(seed=seed)

    def observe(self):
        return super().observe() | {"more": 1}


class NarrowCounts(Plain):
    """Counts beyond what their dtype holds."""

    observation_space = MultiDiscrete([200, 3], dtype=np.uint8, start=[100, 0])


class TooLargeNumbers(Plain):
    """Beyond float32."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float64)

    def observe(self):
        return np.array([1e39 if self.t == 2 else 1, 0, 0])


# Rewards, ends and information


class IntegerReward(Plain):
    def reward(self, action):
        return np.int32(1)


class BooleanReward(Plain):
    def reward(self, action):
        return True


class ArrayReward(Plain):
    def reward(self, action):
        return np.array([1.0])


class TableReward(Plain):
    def reward(self, action):
        return np.ones((1, 1), np.float32)


class NoReward(Plain):
    def reward(self, action):
        return None if self.t == 2 else 1.0


class TextReward(Plain):
    def reward(self, action):
        return "1.0"


class TwoRewards(Plain):
    def reward(self, action):
        return np.array([1.0, 2.0])


class NanReward(Plain):
    def reward(self, action):
        return float("nan") if self.t == 3 else 1.0


class HugeReward(Plain):
    def reward(self, action):
        return 1e60


class NumpyEnds(Plain):
    def ends(self):
        return np.bool_(self.t >= LENGTH), np.False_


class IntegerEnds(Plain):
    def ends(self):
        return int(self.t >= LENGTH), 0


class EndUnsaid(Plain):
    def ends(self):
        return None, self.t >= LENGTH


class TextEnds(Plain):
    def ends(self):
        return False, "TimeLimit" if self.t >= LENGTH else ""


class NoInfo(Plain):
    def info(self):
        return None


class InfoShapes(Plain):
    def info(self):
        return {"path": np.zeros((self.t if self.np_random.random() < 0.5 else self.t + 1, 2)), "t": [self.t][: self.t]}


class HalfSuccess(Plain):
    def info(self):
        return {"success": np.float32(0.5)}


class SuccessOfEach(Plain):
    def info(self):
        return {"success": [True, False]}


class MaskGone(Plain):
    def info(self):
        return {"action_mask": np.ones(2, np.int8)} if self.t < 3 else {}


# Actions


class StartsAtTen(Plain):
    action_space = Discrete(2, start=10)

    def reward(self, action):
        return float(action in (10, 11))


class OneNumber(Plain):
    """A continuous action without dimensions."""

    action_space = Box(-1, 1, (), np.float32)

    def reward(self, action):
        return float(self.action_space.contains(np.asarray(action)))


class Table(Plain):
    """Integers in two dimensions."""

    action_space = Box(0, 1, (2, 3), np.int64)

    def reward(self, action):
        return float(self.action_space.contains(action))


class Switches(Plain):
    action_space = Box(0, 1, (3,), np.bool_)

    def reward(self, action):
        return float(self.action_space.contains(action))


class NoBounds(Plain):
    action_space = Box(-np.inf, np.inf, (2,), np.float64)

    def reward(self, action):
        return float(self.action_space.contains(action))


class ChangesActions(Plain):
    action_space = Box(-1, 1, (2,), np.float32)

    def step(self, action):
        action *= 100
        return super().step(action)


class TooManyActions(Plain):
    """One of so many that no network scores each."""

    action_space = Discrete(10**12)


class NothingToChoose(Plain):
    action_space = Box(-1, 1, (0,), np.float32)


class GrowingActions(Plain):
    """The number of actions is known only once an episode has begun."""

    def reset(self, *, seed=None, options=None):
        self.action_space = Discrete(5)
        return super().reset(seed=seed)


class WeightsAsMask(Plain):
    def info(self):
        return {"action_mask": np.array([0.0, -np.inf])}


class NothingAllowed(Plain):
    def info(self):
        return {"action_mask": np.array([self.t < 2, self.t < 2])}


class NothingAllowedAtTheEnd(Plain):
    """As board games have it: no move is left."""

    def info(self):
        return {"action_mask": np.full(2, self.t < LENGTH)}


class Factored(Plain):
    """Every step is rewarded with 1 if the action is in its space, as Gymnasium says."""

    def reward(self, action):
        return float(self.action_space.contains(action) and type(action) is type(self.action_space.sample()))


class SeveralActions(Factored):
    action_space = MultiDiscrete([3, 2])


class SeveralFromFive(Factored):
    """In two dimensions, counted from elsewhere; one of them has nothing to choose."""

    action_space = MultiDiscrete([[3, 1], [2, 5]], start=[[5, -3], [0, 10]])


class SeveralSwitches(Factored):
    action_space = MultiBinary((2, 2))


class NestedActions(Factored):
    action_space = Dict(
        {
            "gear": Discrete(3, start=2),
            "arm": Tuple((Box(-np.inf, np.inf, (2, 3), np.float64), Dict({"grip": MultiBinary(2)}))),
            "push": Box(-1, 1, ()),
            "slot": Box(0, 4, (2,), np.int64),
        }
    )


class TupleActions(Factored):
    action_space = Tuple((MultiDiscrete([2, 3]), Discrete(1)))


class MaskedFactors(Factored):
    """Masks as Gymnasium's own `sample(mask=…)` takes them, of which each step forbids others."""

    action_space = Dict(
        {"gear": Discrete(3), "keys": MultiDiscrete([2, 4]), "lamps": MultiBinary(2), "push": Box(-1, 1, (2,))}
    )

    def info(self):
        gear = np.array([1, self.t % 2, 0], np.int8)
        keys = (np.array([0, 1], np.int8), np.array([1, 0, self.t % 2, 0], np.int8))
        return {"action_mask": {"gear": gear, "keys": keys, "lamps": np.array([1, 2], np.int8), "push": None}}

    def reward(self, action):
        t = self.t - 1  # the mask of the state that it was chosen in
        admitted = action["gear"] in (0, t % 2) and action["keys"][0] == 1 and action["keys"][1] in (0, 2 * (t % 2))
        return float(super().reward(action) and admitted and action["lamps"][0] == 1)


class FlatMask(Factored):
    """All masks one after another, as sb3-contrib's MaskablePPO takes them."""

    action_space = MultiDiscrete([2, 3])

    def info(self):
        return {"action_mask": np.array([0, 1, 1, 1, 0], bool)}

    def reward(self, action):
        return float(super().reward(action) and action[0] == 1 and action[1] < 2)


class MaskInObservation(Factored):
    """As PettingZoo has it, in the observation."""

    observation_space = Dict({"observation": Box(-1, 1, (3,)), "action_mask": MultiBinary(5)})
    action_space = MultiDiscrete([2, 3])

    def observe(self):
        return {"observation": super().observe(), "action_mask": np.array([0, 1, 1, 1, 0], np.int8)}

    def reward(self, action):
        return float(super().reward(action) and action[0] == 1 and action[1] < 2)


class MaskOfUnknownPart(MaskedFactors):
    """A key that is misspelt: gaer."""

    def info(self):
        return {"action_mask": {"gaer": np.array([1, 0, 0], np.int8)}}


class MaskOfThreeParts(Factored):
    """One mask more than there are parts."""

    action_space = Tuple((Discrete(2), Discrete(3)))

    def info(self):
        return {"action_mask": ([1, 0], [1, 1, 0], [0, 0])}


class MaskOfThree(Plain):
    """A mask of three actions, of which there are four."""

    action_space = Discrete(4)

    def info(self):
        return {"action_mask": np.array([1, 0, 0], np.int8)}


class MaskInStepsAlone(Plain):
    """A reset gives no mask."""

    def info(self):
        return {"action_mask": np.array([1, 0], np.int8)} if self.t else {}


class MaskByMethod(Plain):
    """As sb3-contrib's MaskablePPO asks for it."""

    def action_masks(self):
        return np.array([True, False])


class MaskOfThreeInObservation(Plain):
    observation_space = Dict({"observation": Box(-1, 1, (3,)), "action_mask": MultiBinary(3)})
    action_space = Discrete(4)


class MaskOfHalves(Plain):
    observation_space = Dict({"observation": Box(-1, 1, (3,)), "action_mask": Box(0, 1, (2,))})

    def observe(self):
        return {"observation": super().observe(), "action_mask": [1, 0.5 if self.t == 2 else 0]}


class GoalBesideMask(Plain):
    """A part beside state and mask, which would not be read."""

    observation_space = Dict({name: MultiBinary(2) for name in ("observation", "action_mask", "goal")})


class CommandsForNumbers(Plain):
    """Commands beside actions that are none of them."""

    observation_space = Dict({"observation": Box(-1, 1, (3,)), "commands": Text(20)})
    action_space = Box(-1, 1, (2,))


class Commanded(Plain):
    """Admissible commands beside numbers."""

    observation_space = Dict({"observation": Box(-1, 1, (3,)), "commands": Text(20, charset="gosty\n")})
    action_space = Discrete(5)

    def observe(self):
        return {"observation": super().observe(), "commands": "go\nstay" if self.t % 2 else "go"}

    def reward(self, action):
        return float(action < (1 if self.t % 2 else 2))


class ForbiddenRaises(MaskedFactors):
    """An action that its state does not admit is an error."""

    def step(self, action):
        before, _ = self.t, self.observe()
        result = super().step(action)
        if result[1] != 1.0:
            raise ValueError(f"{action} is illegal in step {before}")
        return result


class ForbiddenDoorRaises(Plain):
    action_space = Discrete(3, start=4)

    def info(self):
        return {"action_mask": np.array([self.t % 2, 1, 0], np.int8)}

    def step(self, action):
        if not self.info()["action_mask"][action - 4]:
            raise ValueError(f"{action} is illegal")
        return super().step(action)


class NothingToMask(Factored):
    """Masks of their own meaning, where there is nothing to choose."""

    observation_space = Dict({"observation": Box(-1, 1, (3,)), "action_mask": MultiBinary(2)})
    action_space = Dict({"push": Box(-1, 1, (2,))})

    def observe(self):
        return {"observation": super().observe(), "action_mask": np.array([1, 0], np.int8)}

    def info(self):
        return {"action_mask": {"push": [1, 0]}}


class MaskTooShort(MaskedFactors):
    def info(self):
        info = super().info()
        return {"action_mask": info["action_mask"] | {"keys": ([0, 1], [1, 0, 1])}} if self.t == 2 else info


class MaskOfOneFactor(MaskedFactors):
    def info(self):
        return {"action_mask": super().info()["action_mask"] | {"keys": ([0, 1],)}}


class MaskForbidsAFactor(MaskedFactors):
    def info(self):
        info = super().info()
        return {"action_mask": info["action_mask"] | {"keys": ([0, 1], [0, 0, 0, 0])}} if self.t == 2 else info


class MaskInObservationTooShort(MaskInObservation):
    observation_space = Dict({"observation": Box(-1, 1, (3,)), "action_mask": MultiBinary(2)})


class TooManyValues(Factored):
    action_space = MultiDiscrete([10**9, 2])


class TextInside(Factored):
    action_space = Dict({"gear": Discrete(3), "say": Text(5)})


class NoActions(Factored):
    action_space = Dict({})


class NumberedActions(Factored):
    action_space = Dict({1: Discrete(2)})


class NothingInside(Factored):
    action_space = Dict({"gear": Discrete(3), "arm": Box(-1, 1, (0,))})


class ChangesParts(Plain):
    """Changes the arrays in the action that it is given."""

    action_space = Dict({"push": Box(-1, 1, (2,))})

    def step(self, action):
        action["push"] *= 100
        return super().step(action)


# The interface


class FourValues(Plain):
    def step(self, action):
        observation, reward, _, over, info = super().step(action)
        return observation, reward, over, info


class FourValuesLimited(FourValues):
    """The same in Gymnasium's TimeLimit, which takes the result apart first."""


class ListsForTuples(Plain):
    def reset(self, *, seed=None, options=None):
        return [*super().reset(seed=seed)]

    def step(self, action):
        return [*super().step(action)]


class StepOfNothing(Plain):
    def step(self, action):
        super().step(action)


class InfoGenerator(Plain):
    def info(self):
        return (key for key in ())


class NanMetrics(Plain):
    def info(self):
        return {"metrics": {"distance": float("nan")}} if self.t == LENGTH else {}


class OnlyObservation(Plain):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoSeed(Plain):
    def reset(self):
        return super().reset()[0]


class NoOptions(Plain):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class AnyArguments(Plain):
    def reset(self, **arguments):
        return super().reset(**arguments)


class OldGenerator(Plain):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.np_random = np.random.RandomState(seed)
        return result


class Twister(Plain):
    """Another of NumPy's generators, in whose state there is an array."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.np_random = np.random.Generator(np.random.MT19937(seed))
        self.t, self.offset = 0, self.np_random.random()
        return self.observe(), {}

    def observe(self):
        return np.array([self.t / 10, self.offset, self.np_random.random()], np.float32)


class Prints(Plain):
    def step(self, action):
        print("step", action)
        return super().step(action)


class NoRenderMode(Plain):
    def __init__(self):
        pass


class OnePort(Plain):
    """A simulator of which there can be one at a time."""

    running = 0

    def __init__(self, render_mode=None):
        if OnePort.running:
            raise RuntimeError("port 5005 is in use")
        OnePort.running += 1

    def close(self):
        OnePort.running -= 1


class SecondNotReady(Plain):
    """The second of all to be made fails in its reset; actions are masked."""

    action_space, made = Discrete(3), 0

    def __init__(self, render_mode=None):
        SecondNotReady.made += 1
        self.number = SecondNotReady.made

    def reset(self, *, seed=None, options=None):
        if self.number == 2:
            raise OSError("not ready yet")
        return super().reset(seed=seed)

    def info(self):
        return {"action_mask": np.array([1, 0, 1], np.int8)}

    def reward(self, action):
        return float(action != 1)


class ExitsInStep(Plain):
    """A simulator that ends the whole program, as pygame's examples do when their window is closed."""

    def reward(self, action):
        return sys.exit(0) if self.t == 2 else 1.0


class ExitsInReset(Plain):
    def observe(self):
        sys.exit()


class ExitsWhenMade(Plain):
    def __init__(self, render_mode=None):
        sys.exit("no licence")


class Panic(BaseException):
    """As pyo3 raises where Rust code panics: no Exception."""


class Panics(Plain):
    def reward(self, action):
        raise Panic("index out of bounds")


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class RaisesUnprintable(Plain):
    def reward(self, action):
        raise Unprintable


class CloseExits(Plain):
    def close(self):
        sys.exit(0)


class DoublesForAll(Plain):
    """A simulation in double precision, which it asks of the whole process."""

    def __init__(self, render_mode=None):
        import torch

        torch.set_default_dtype(torch.float64)


class NoGradientsForAll(Plain):
    def __init__(self, render_mode=None):
        import torch

        torch.set_grad_enabled(False)


class CloseFails(Plain):
    def close(self):
        raise AttributeError("'NoneType' object has no attribute 'disconnect'")


class Endless(Plain):
    def ends(self):
        return False, False


class Forks(Plain):
    """A child process, forked in the sixth step of all, comes back from it as the environment does; or it raises."""

    steps, child_raises = 0, False

    def step(self, action):
        Forks.steps += 1
        if Forks.steps == 6 and os.fork() == 0 and self.child_raises:
            raise ValueError("the child")
        return super().step(action)


class ForkRaises(Forks):
    """The child raises."""

    child_raises = True


class Drawn(Plain):
    """Renders 32 by 32 pixels."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)


class DrawnWithAlpha(Drawn):
    def render(self):
        return np.zeros((32, 32, 4), np.uint8)


class DrawnAsFractions(Drawn):
    def render(self):
        return np.zeros((32, 32, 3), np.float32)


class DrawnAsList(Drawn):
    def render(self):
        return [np.zeros((32, 32, 3), np.uint8)]


class DrawnAsOnePixel(Drawn):
    def render(self):
        return np.zeros((1, 1, 3), np.uint8)


class ClosesStreams(Plain):
    """Closes Python's stdout and stderr, and their descriptors."""

    def step(self, action):
        sys.stdout.close()
        sys.stderr.close()
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        return super().step(action)


LIMITED = (FourValuesLimited,)

for name, kind in list(globals().items()):
    if isinstance(kind, type) and issubclass(kind, Plain):
        limit = 100 if kind in LIMITED else None
        gym.register(f"{name}-v0", entry_point=f"odd_environments:{name}", max_episode_steps=limit)
