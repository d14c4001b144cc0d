"""Components that break their contracts are named while a run uses them, with what came and what was expected."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conformance_helpers import target

import bitrl
from bitrl.core.options import NoOptions
from bitrl.core.records import AlgorithmRecord, BackboneRecord, SerializerRecord
from bitrl.core.registry import Entry, registry
from bitrl.learning import Discrete, Network


class Texts:
    def __init__(self, options, observation):
        self.width = 4

    def __call__(self, observation):
        return " ".join(map(str, observation))

    def batch(self, observations):
        return [self(each) for each in observations]


class Mutating(Texts):
    def batch(self, observations):
        observations *= 2
        return super().batch(observations)


class OneTooFew(Texts):
    def batch(self, observations):
        return super().batch(observations)[1:]


class NoStrings(Texts):
    def batch(self, observations):
        return [None if index else "a" for index in range(len(observations))]


class NoList(Texts):
    def batch(self, observations):
        return "one text"


class Vectors(Texts):
    def batch(self, observations):
        return observations.astype(np.float32)


class NanVectors(Vectors):
    def batch(self, observations):
        vectors = super().batch(observations)
        vectors[1, 2] = np.nan
        return vectors


class DoubleVectors(Vectors):
    def batch(self, observations):
        return observations.astype(np.float64)


class MaskedVectors(Vectors):
    def batch(self, observations):
        return np.ma.masked_array(super().batch(observations), mask=observations > 0)


class HalfPairs(Texts):
    def batch(self, observations):
        return [f"{text} \udc80" for text in super().batch(observations)]


class WithoutWidth(Vectors):
    def __init__(self, options, observation):
        pass


class Lengths:
    """Reads texts as their lengths, and vectors as their first number."""

    def __init__(self, options, width):
        self.width, self.identity = 2, {}

    def encode(self, inputs):
        if isinstance(inputs, np.ndarray):
            return np.repeat(inputs[:, :1], 2, axis=1)
        return np.array([[len(text), 1] for text in inputs], np.float32)


class InfiniteFeatures(Lengths):
    def encode(self, inputs):
        return super().encode(inputs) * np.float32([1, np.inf])


class DoubleFeatures(Lengths):
    def encode(self, inputs):
        return super().encode(inputs).astype(float)


class TooWide(Lengths):
    def encode(self, inputs):
        return np.tile(super().encode(inputs), 2)


class MatrixFeatures(Lengths):
    def encode(self, inputs):
        return super().encode(inputs).view(np.matrix)


class WidthOfFloat(Lengths):
    def __init__(self, options, width):
        self.width, self.identity = 2.0, {}


class NoIdentity(Lengths):
    def __init__(self, options, width):
        self.width, self.identity = 2, None


class PathIdentity(Lengths):
    def __init__(self, options, width):
        self.width, self.identity = 2, {"files": [Path("a")]}


class PlainIdentity(Lengths):
    def __init__(self, options, width):
        self.width, self.identity = 2, {"shape": (2, np.int64(3)), "unset": None}


class Steady(bitrl.Algorithm):
    """Always takes action 1."""

    def update(self):
        self.task.collector.rollout(lambda states, t: self.act(states), 4)
        return self.metrics()

    def act(self, states):
        assert states.features.shape == (len(states), 2)
        return np.ones(len(states), np.int64)

    def metrics(self):
        return {"loss": np.float32(0.5), "count": np.int64(3), "zero": np.array(0.0)}

    def state(self):
        return {}

    def load_state(self, state):
        pass


class FloatActions(Steady):
    def act(self, states):
        return super().act(states) * 0.5


class OutsideActions(Steady):
    def act(self, states):
        return np.arange(len(states))


class ColumnActions(Steady):
    def act(self, states):
        return super().act(states)[:, None]


class FloatsWhenEvaluated(Steady):
    def update(self):
        self.task.collector.rollout(lambda states, t: np.ones(len(states), np.int64), 4)
        return {}

    def act(self, states):
        return np.zeros(len(states), np.float32)


class Idle(Steady):
    def update(self):
        return {}


class StepsByItself(Steady):
    def update(self):
        self.task.collector.envs.step(np.ones(self.task.collector.num_envs, np.int64))
        return {}


class UnderReports(Steady):
    @property
    def step(self):
        return self.task.collector.steps // 2


class NanMetric(Steady):
    def metrics(self):
        return {"loss": 1.0, "kl": np.float32("nan")}


class TextMetric(Steady):
    def metrics(self):
        return {"loss": "small"}


class StepMetric(Steady):
    def metrics(self):
        return {"step": 7}


class NoMetrics(Steady):
    def metrics(self):
        return None


class Panic(BaseException):
    """As pyo3 raises where Rust code panics: no Exception."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Fails(Texts):
    def batch(self, observations):
        raise KeyError("cart")


class Exits(Texts):
    def batch(self, observations):
        sys.exit(0)


class FailsWithoutWords(Texts):
    def batch(self, observations):
        raise Unprintable


class Panics(Lengths):
    def encode(self, inputs):
        raise Panic("index out of bounds")


class FailsWhenBuilt(Lengths):
    def __init__(self, options, width):
        raise TypeError("no width")


class FailsToLearn(Steady):
    def update(self):
        return [][0]


class ExitsWhileLearning(Steady):
    def update(self):
        sys.exit(0)


class FailsWhenEvaluated(FloatsWhenEvaluated):
    def act(self, states):
        raise ValueError("no policy")


class FailsToSave(Steady):
    def state(self):
        raise ValueError("no state")


class SavesObjects(Steady):
    def state(self):
        return {"best": np.array([None, {}], object)}


class SavesAWord(Steady):
    def state(self):
        return {"phase": np.array("warm")}


class SavesByNumber(Steady):
    def state(self):
        return {3: np.zeros(2)}


class SavesNothing(Steady):
    def state(self):
        return None


class Exported(Steady):
    def state(self):
        return {"best": np.array(-np.inf)}  # so far

    def plain_policy(self):
        return self.policy(np.zeros((2, 2), np.float32))

    def policy(self, weights):
        network = Network(
            np.zeros(2, np.float32), np.ones(2, np.float32), np.inf, ((weights, np.zeros(2, np.float32)),)
        )
        return Discrete(network, start=0)


class ExportsNothing(Exported):
    def plain_policy(self):
        return None


class ExportsTransposed(Exported):
    def plain_policy(self):
        return self.policy(np.zeros((2, 3), np.float32))


class ExportsNan(Exported):
    def plain_policy(self):
        return self.policy(np.full((2, 2), np.nan, np.float32))


class FailsToSum(Steady):
    def summary(self):
        raise ValueError("no summary")


def run(monkeypatch, tmp_path, serializer=Texts, backbone=Lengths, algorithm=Steady):
    """A run of these components, as a package called odd-package provides them."""
    emits = "vector" if issubclass(serializer, Vectors) else "text"
    common = {"summary": "a test", "options": NoOptions}
    records = {
        "serializer": SerializerRecord(name="odd", target=target(serializer), emits=emits, **common),
        "backbone": BackboneRecord(
            name="odd", target=target(backbone), accepts=("text", "vector"), provides=("features",), **common
        ),
        "algorithm": AlgorithmRecord(name="odd", target=target(algorithm), learns_from=("features",), **common),
    }
    for kind, record in records.items():
        entries = [*registry().entries[kind], Entry("odd-package", record)]
        monkeypatch.setitem(registry().entries, kind, entries)
    options = {"run.num_envs": 3, "run.eval_episodes": 2}
    return bitrl.run(
        "CartPole-v1", serializer="odd", backbone="odd", algo="odd", steps=36, out=tmp_path / "run", options=options
    )


@pytest.mark.parametrize("serializer", [Texts, Vectors])
def test_what_keeps_the_contract_runs(monkeypatch, tmp_path, serializer):
    run(monkeypatch, tmp_path, serializer)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "loss": 0.5, "count": 3, "zero": 0.0} for step in (12, 24, 36)]


SERIALIZER = 'serializer "odd" of package odd-package '
BACKBONE = 'backbone "odd" of package odd-package '
ALGORITHM = 'algorithm "odd" of package odd-package'


def test_an_agent_is_read_back_whatever_its_algorithm_keeps(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, algorithm=Exported)
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    assert bitrl.load_agent(tmp_path / "agent").act([0.0, 0.0, 0.0, 0.0]) == 0


def test_an_agent_names_what_is_wrong_as_its_run_does(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, algorithm=Exported)
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    agent = bitrl.load_agent(tmp_path / "agent")
    with monkeypatch.context() as broken:
        broken.setattr(Texts, "batch", NoList.batch)
        with pytest.raises(bitrl.RunFailed) as raised:
            agent.act([0.0, 0.0, 0.0, 0.0])
    assert str(raised.value).startswith(f"{SERIALIZER}wrote 'one text'")
    monkeypatch.setattr(Lengths, "encode", lambda self, inputs: np.ones((len(inputs), 2)))
    with pytest.raises(bitrl.RunFailed) as raised:
        agent.act([0.0, 0.0, 0.0, 0.0])
    assert str(raised.value).startswith(f"{BACKBONE}returned features of shape (1, 2) and dtype float64")


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (ExportsNothing, "plain_policy() gave a NoneType: expected a policy of bitrl.learning"),
        (ExportsTransposed, "plain_policy() makes no whole agent: policy.network"),
        (ExportsNan, "plain_policy() makes no whole agent: policy.network.0.weight holds 4 numbers that are NaN"),
    ],
)
def test_a_policy_that_no_agent_could_act_by_is_not_exported(monkeypatch, tmp_path, algorithm, message):
    run(monkeypatch, tmp_path, algorithm=algorithm)
    with pytest.raises(bitrl.RunFailed) as raised:
        bitrl.export(tmp_path / "run", tmp_path / "agent")
    assert str(raised.value).startswith(f"{ALGORITHM}: {message}")
    assert not (tmp_path / "agent").exists()


def test_an_identity_may_hold_tuples_and_numpys_numbers(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, backbone=PlainIdentity)
    assert bitrl.resume(tmp_path / "run", steps=48)["steps"] == 48  # with a backbone of the same identity


@pytest.mark.parametrize(
    ("part", "component", "message"),
    [
        ("serializer", Mutating, f"{SERIALIZER}changes the observations that it is given"),
        ("serializer", OneTooFew, f"{SERIALIZER}wrote 2 texts for 3 states: expected one for each"),
        ("serializer", NoStrings, f"{SERIALIZER}wrote None in its list: expected a list of strings"),
        ("serializer", NoList, f"{SERIALIZER}wrote 'one text': expected a list of strings"),
        ("serializer", NanVectors, f"{SERIALIZER}returned vectors with nan as number 2 of state 1 (counted from 0)"),
        (
            "serializer",
            DoubleVectors,
            f"{SERIALIZER}returned vectors of shape (3, 4) and dtype float64: expected (3, 4)",
        ),
        ("backbone", InfiniteFeatures, f"{BACKBONE}returned features with inf as number 1 of state 0"),
        ("backbone", DoubleFeatures, f"{BACKBONE}returned features of shape (3, 2) and dtype float64: expected (3, 2)"),
        ("backbone", TooWide, f"{BACKBONE}returned features of shape (3, 4) and dtype float32: expected (3, 2)"),
        ("algorithm", FloatActions, f"{ALGORITHM} chose actions of shape (3,) and dtype float64: expected integers"),
        ("algorithm", OutsideActions, f"{ALGORITHM} chose the action 2, which is not in Discrete(2)"),
        ("algorithm", ColumnActions, f"{ALGORITHM} chose actions of shape (3, 1) and dtype int64: expected integers"),
        ("algorithm", FloatsWhenEvaluated, f"{ALGORITHM} chose actions of shape (2,) and dtype float32"),
        ("algorithm", Idle, f"{ALGORITHM}: update() went from step 0 to 0, while the environments took 0 steps"),
        ("algorithm", StepsByItself, f"{ALGORITHM}: update() went from step 0 to 0"),
        ("algorithm", UnderReports, f"{ALGORITHM}: update() went from step 0 to 6, while the environments took 12"),
        ("algorithm", NanMetric, f'{ALGORITHM}: metric "kl" is nan: expected a finite number'),
        ("algorithm", TextMetric, f"{ALGORITHM}: metric \"loss\" is 'small': expected a number"),
        ("algorithm", StepMetric, f"{ALGORITHM}: a metric is named 'step': the run counts the steps itself"),
        ("algorithm", NoMetrics, f"{ALGORITHM}: update() returned None: expected a dict of metrics"),
        ("serializer", Fails, f"{SERIALIZER}failed: KeyError: 'cart': tell its authors"),
        ("serializer", Exits, f"{SERIALIZER}failed: SystemExit: 0: tell its authors"),
        ("serializer", FailsWithoutWords, f"{SERIALIZER}failed: Unprintable: tell its authors"),
        ("backbone", Panics, f"{BACKBONE}failed: Panic: index out of bounds: tell its authors"),
        ("backbone", FailsWhenBuilt, f"{BACKBONE}failed: TypeError: no width: tell its authors"),
        ("algorithm", FailsToLearn, f"{ALGORITHM} failed: IndexError: list index out of range: tell its authors"),
        ("algorithm", ExitsWhileLearning, f"{ALGORITHM} failed: SystemExit: 0: tell its authors"),
        ("algorithm", FailsWhenEvaluated, f"{ALGORITHM} failed: ValueError: no policy: tell its authors"),
        ("algorithm", FailsToSave, f"{ALGORITHM} failed: ValueError: no state: tell its authors"),
        ("serializer", MaskedVectors, f"{SERIALIZER}returned a MaskedArray as vectors: expected a float32 array"),
        ("serializer", HalfPairs, f"{SERIALIZER}wrote "),
        ("serializer", WithoutWidth, f"{SERIALIZER[:-1]}: its width is None: expected an integer above 0"),
        ("backbone", MatrixFeatures, f"{BACKBONE}returned a matrix as features: expected a float32 array"),
        ("backbone", WidthOfFloat, f"{BACKBONE[:-1]}: its width is 2.0: expected an integer above 0"),
        ("backbone", NoIdentity, f"{BACKBONE[:-1]}: its identity is None: expected a dict"),
        ("backbone", PathIdentity, f"{BACKBONE[:-1]}: its identity['files'][0] is PosixPath('a'): expected strings"),
        ("algorithm", SavesObjects, f'{ALGORITHM}: state()["best"] is an array of object: expected numbers'),
        ("algorithm", SavesAWord, f'{ALGORITHM}: state()["phase"] is an array of texts or records of shape ()'),
        ("algorithm", SavesByNumber, f"{ALGORITHM}: state() calls an array 3: expected a string"),
        ("algorithm", SavesNothing, f"{ALGORITHM}: state() returned None: expected a dict of arrays"),
        ("algorithm", FailsToSum, f"{ALGORITHM} failed: ValueError: no summary: tell its authors"),
    ],
)
def test_what_breaks_it_is_named(monkeypatch, tmp_path, part, component, message):
    with pytest.raises(bitrl.RunFailed) as raised:
        run(monkeypatch, tmp_path, **{part: component})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) <= 500
    metrics = tmp_path / "run" / "metrics.jsonl"
    if metrics.is_file():
        for line in metrics.read_text().splitlines():
            json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
