"""What `bitrl bench env` measures: with clocks that tick when they are read, so nothing depends on how fast this is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bitrl
from bitrl.core.config import Config, resolve
from bitrl.plugins.backbones.benchmark import run_speed as measured
from bitrl.plugins.backbones.benchmark import split_time
from bitrl.plugins.backbones.benchmark.run_speed import PARTS, REST, MeasuredRun, WatchedBackbone, measure
from bitrl.plugins.backbones.benchmark.split_time import Split

ENVS, ROLLOUT = 4, 64
SMALL = {"algo.rollout_steps": ROLLOUT, "algo.epochs": 1, "run.num_envs": ENVS, "run.eval_episodes": 0}


def config(env: str, backbone: str = "bitnet", **options: Any) -> Config:
    values: dict[str, dict[str, Any]] = {}
    for path, value in {**SMALL, **({"backbone.threads": 1} if backbone == "bitnet" else {}), **options}.items():
        part, _, name = path.partition(".")
        values.setdefault(part, {})[name] = value
    values["run"] |= {"env": env, "backbone": backbone}
    return resolve(values)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A clock that says how often it was read before."""
    clock = count()
    monkeypatch.setattr(split_time, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    return clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that is set: `clock.now += 2`."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(split_time, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_time_is_the_inner_parts_and_the_learners_where_none_is_at_work(clock: SimpleNamespace) -> None:
    split = Split(PARTS[:-1], REST)

    def passes(seconds: float) -> None:
        clock.now += seconds

    def encode() -> None:
        passes(2)
        split.timed("encoder", lambda: (passes(3), split.timed("tokenizer", passes)(4), passes(5)))()
        passes(6)

    def work() -> None:
        passes(7)
        split.timed("environment", passes)(8)
        split.timed("cache", encode)()
        passes(9)

    expected = {"environment": 8, "text": 0, "cache": 2 + 6, "tokenizer": 4, "encoder": 3 + 5, "learner": 7 + 9}
    passes(100)
    assert split.of(work) == expected
    assert split.of(work) == expected  # begins anew


def test_time_goes_on_where_it_was_after_an_error(clock: SimpleNamespace) -> None:
    split = Split(PARTS[:-1], REST)

    def fails() -> None:
        clock.now += 1
        raise ZeroDivisionError

    def work() -> None:
        with pytest.raises(ZeroDivisionError):
            split.timed("encoder", fails)()
        clock.now += 2

    seconds = split.of(work)
    assert (seconds["encoder"], seconds["learner"]) == (1, 2)


def test_threads_at_work_together_share_the_time(clock: SimpleNamespace) -> None:
    split, begun, end = Split(PARTS[:-1], REST), threading.Event(), threading.Event()

    def encode() -> None:
        begun.set()
        end.wait()

    def step() -> None:
        other.start()
        begun.wait()
        clock.now += 4
        end.set()
        other.join()
        clock.now += 1

    other = threading.Thread(target=split.timed("encoder", encode))
    seconds = split.of(split.timed("environment", step))
    assert (seconds["encoder"], seconds["environment"], seconds["learner"]) == (2, 2 + 1, 0)


def test_every_moment_of_an_update_is_some_parts(ticks: Iterator[int]) -> None:
    training = MeasuredRun(config("CartPole-v1"))
    training.warm_up()
    training.backbone.forget()
    began = next(ticks)
    seconds = training.split.of(training.update)
    training.close()
    assert sum(seconds.values()) == next(ticks) - 2 - began  # of() begins with the first reading and ends with the last
    steps = ROLLOUT // ENVS
    # Nobody reads the clock within these: each takes a tick.
    assert seconds["environment"] == steps
    assert seconds["tokenizer"] == len(training.backbone.computed) > 0
    assert seconds["text"] == len(training.backbone.asked) >= steps
    # After the texts' tokens, and after the model is called.
    assert seconds["encoder"] == 2 * len(training.backbone.computed)
    assert seconds["cache"] == 2 * len(training.backbone.computed)


@pytest.mark.parametrize("options", [{}, {"run.critic_backbone": "int8", "critic_backbone.threads": 1}])
def test_watching_and_measuring_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The same metrics as a run that is not watched, whatever is measured between the updates."""
    same = config("CartPole-v1", **options)
    bitrl.run(
        "CartPole-v1",
        steps=3 * ROLLOUT,
        out=tmp_path / "run",
        options={**SMALL, "backbone.threads": 1, **options},
    )
    wanted = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    training = MeasuredRun(same)
    found = []

    def update() -> dict[str, float]:
        metrics = type(training.algorithm).update(training.algorithm)
        found.append({"step": training.algorithm.step, **metrics})
        return metrics

    monkeypatch.setattr(training.algorithm, "update", update)
    training.warm_up()
    training.round()
    training.round()
    training.close()
    assert found == wanted


def test_cache_hits_are_the_texts_encoded_before() -> None:
    """FrozenLake has 16 states; its cache holds them all."""
    training = MeasuredRun(config("FrozenLake-v1"))
    training.warm_up()
    seen = {text for batch in training.backbone.asked for text in batch}
    for _ in range(2):
        one = training.round()
        # The cache of the replays has followed that of the training.
        assert training._follower is not None
        assert training.cache is not None
        assert training._follower.statistics() == training.cache.statistics()
        texts = [text for batch in training.backbone.asked for text in batch]
        assert one.asked == len(texts) >= ROLLOUT
        assert one.computed == len(set(texts) - seen)
        seen |= set(texts)
    training.close()


def test_results_are_sums_and_medians_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(**parts: float) -> dict[str, float]:
        return {part: parts.get(part, 0.0) for part in PARTS}

    alone = seconds(tokenizer=1.0, encoder=3.0)
    rounds = [
        measured.Round(100, 80, 40, seconds(tokenizer=1.0, encoder=4.0, learner=5.0), alone, 2.0, 8.0),
        measured.Round(100, 80, 20, seconds(tokenizer=2.0, encoder=6.0, text=8.0), alone, 4.0, 8.0),
        measured.Round(100, 80, 0, seconds(environment=4.0), seconds(), 1.0, 8.0),
    ]
    upcoming = iter(rounds)
    monkeypatch.setattr(MeasuredRun, "warm_up", lambda self: None)
    monkeypatch.setattr(MeasuredRun, "round", lambda self: next(upcoming))
    found = measure(config("FrozenLake-v1"), steps=201)
    assert (found["steps"], found["rounds"], found["threads"]) == (300, 3, 1)
    assert sum(found["seconds"].values()) == 30
    assert found["steps_per_second"] == 10
    assert found["encoder"] == {
        "texts": 60,
        "texts_per_second": np.median([40 / 5, 20 / 8]),
        "texts_per_second_alone": np.median([40 / 4, 20 / 4]),
        "share_of_alone": np.median([4 / 5, 4 / 8]),
        "share_of_training": np.median([4 / 10, 4 / 16]),
    }
    assert found["cache"] == {
        "hit_rate": 1 - 60 / 240,
        "features_per_second": 40,
        "features_per_second_without": 10,
        "gain": 4,
    }


def test_without_a_language_model_the_network_is_the_learners() -> None:
    found = measure(config("CartPole-v1", "mlp"), steps=1)
    assert found["steps"] == ROLLOUT
    assert found["encoder"] is found["cache"] is found["threads"] is None
    assert {part for part, spent in found["seconds"].items() if spent} == {"environment", "text", "learner"}


def test_what_is_left_to_evidence_is_chosen_as_a_run_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ant was measured with four blocks and mean pooling, whereas `bitrl run` reads one block by field."""
    chosen = config("CartPole-v1", "mlp")
    monkeypatch.setattr(measured, "choose", lambda asked: (chosen, ("one block",)))
    found = measure(config("FrozenLake-v1"), steps=1)
    assert (found["env"], found["backbone"], found["chosen"]) == ("CartPole-v1", "mlp", ("one block",))


def test_of_another_backbone_only_encode_is_measured() -> None:
    class Lengths:
        width, identity = 1, {"kind": "lengths"}

        def encode(self, inputs: list[str]) -> np.ndarray:
            return np.array([[len(text)] for text in inputs], np.float32)

    split = Split(PARTS[:-1], REST)
    watched = WatchedBackbone(Lengths(), split)
    seconds = split.of(lambda: watched.encode(["a", "bc"]))
    assert seconds["encoder"] > 0 == seconds["cache"]
    assert watched.asked == watched.computed == [["a", "bc"]]
    assert (watched.width, watched.identity) == (1, {"kind": "lengths"})
    assert not hasattr(watched, "module")
