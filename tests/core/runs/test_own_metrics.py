"""Metrics that an environment or an algorithm reports of its own: in the rows, the summary and the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conformance_helpers import target

import bitrl
from bitrl.core import events
from bitrl.core.acting.contracts import check_metrics
from bitrl.core.environments.episode_metrics import Means, finite_numbers
from bitrl.core.environments.replay import vectorise
from bitrl.core.registry import Entry, registry
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.ppo import PPO

QUICK = {"algo.rollout_steps": 64, "run.num_envs": 4, "run.eval_episodes": 3, "run.checkpoint_every": 1}


class Lengths(gymnasium.Env):
    """Episodes of 3, 4, 5, 3, … steps, whose lengths it reports; every second one also an integer."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.length, self.time = int(self.np_random.integers(3, 6)), 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        over = self.time == self.length
        metrics = {"length": self.length} if self.length != 4 else {"length": np.float32(4.0), "fours": 1}
        return np.zeros(2, np.float32), 1.0, over, False, {"metrics": metrics} if over else {}


class LengthsEnvironment(bitrl.Environment):
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        return Lengths()


class Faulty(Lengths):
    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], {"metrics": {"speed": "fast"}})


class FaultyEnvironment(bitrl.Environment):
    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        return Faulty()


class Counts(PPO):
    def summary(self) -> dict[str, float]:
        return {"parameters": 12, "norm": float(np.linalg.norm(self.groups.parameters["policy"]))}


class Boasts(PPO):
    def summary(self) -> Any:
        return {"norm": float("inf")}


def test_a_name_may_begin_with_an_underscore():
    class Hidden(Lengths):
        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return *rest, {"metrics": {"_energy": 2.5}} if info else {}

    envs, means = vectorise(Hidden, 3), Means()
    envs.reset(seed=0)
    for _ in range(5):
        *_, terminated, _, info = envs.step(np.zeros(3, int))
        means.add_ended(info.get("final_info", {}), np.flatnonzero(terminated))
    assert means.take() == {"_energy": 2.5}


@pytest.mark.parametrize("number", [10**400, np.float32("inf"), float("nan"), np.float64("-inf"), True, "1"])
def test_what_is_no_finite_float_is_refused(number):
    with pytest.raises(bitrl.RunFailed, match="it: expected finite numbers by name, got 'x': "):
        finite_numbers("it", {"x": number})


def test_integers_of_any_size_are_metrics():
    assert check_metrics("it", {"x": 10**30}) == {"x": 10**30}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The components above, for one test."""
    entries = registry().entries
    for name, cls in (("Lengths-v0", LengthsEnvironment), ("Faulty-v0", FaultyEnvironment)):
        record = bitrl.EnvironmentRecord(name=name, summary="a test's", target=target(cls))
        monkeypatch.setitem(entries, "environment", [*entries["environment"], Entry("test", record)])
    for name, algorithm in (("counts", Counts), ("boasts", Boasts)):
        record = bitrl.AlgorithmRecord(
            name=name, summary="a test's", target=target(algorithm), options=PPOOptions, learns_from=("gradients",)
        )
        monkeypatch.setitem(entries, "algorithm", [*entries["algorithm"], Entry("test", record)])


def train(directory: Path, env: str = "Lengths-v0", algo: str = "counts", **options: Any) -> dict[str, Any]:
    return bitrl.run(env, backbone="mlp", algo=algo, steps=256, out=directory, options={**QUICK, **options})


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_they_are_in_the_rows_the_summary_and_the_evaluation(installed: None, tmp_path: Path):
    heard: list[dict[str, Any]] = []

    def listener(event: events.Event) -> None:
        if isinstance(event, events.Updated):
            heard.append(dict(event.metrics))

    summary = bitrl.run(
        "Lengths-v0",
        backbone="mlp",
        algo="counts",
        steps=256,
        out=tmp_path / "run",
        options=QUICK,
        listeners=(listener,),
    )
    assert heard == rows(tmp_path / "run")
    for row in heard:  # rewards are 1 a step, so an episode's length is its return, which PPO reports
        assert row["env.length"] == pytest.approx(row["episode_return"], rel=1e-6)
        assert row["env.fours"] == 1.0
    own = summary["eval"]["metrics"]
    assert own["length"] == pytest.approx(summary["eval"]["mean_return"])
    assert summary["algorithm"]["parameters"] == 12.0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["eval"]["metrics"] == own
    evaluated = bitrl.evaluate(tmp_path / "run")
    assert (evaluated["metrics"], evaluated["algorithm"]) == (own, summary["algorithm"])


def test_a_resumed_run_has_the_same_rows(installed: None, tmp_path: Path):
    train(tmp_path / "whole")

    def stop(event: events.Event) -> None:
        if isinstance(event, events.CheckpointSaved) and event.step == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bitrl.run(
            "Lengths-v0",
            backbone="mlp",
            algo="counts",
            steps=256,
            out=tmp_path / "half",
            options=QUICK,
            listeners=(stop,),
        )
    bitrl.resume(tmp_path / "half")
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")


def test_nothing_is_added_where_nothing_is_reported(tmp_path: Path):
    summary = train(tmp_path / "run", env="CartPole-v1", algo="ppo")
    assert "algorithm" not in summary
    assert "metrics" not in summary["eval"]
    assert not [name for row in rows(tmp_path / "run") for name in row if name.startswith("env.")]


def test_what_is_no_number_is_refused_in_one_line(installed: None, tmp_path: Path):
    with pytest.raises(
        bitrl.RunFailed,
        match=r"""^environment Faulty-v0, in step 1 of an episode: info\["metrics"\]: expected finite numbers by """
        r"""name, got 'speed': 'fast' \(parallel environment 0, seed \d+\)""",
    ):
        train(tmp_path / "run", env="Faulty-v0")
    with pytest.raises(bitrl.RunFailed, match=r"""algorithm "boasts": summary\(\): expected finite numbers by name"""):
        train(tmp_path / "other", algo="boasts")


def test_tensorboard_gets_them(tmp_path: Path):
    from bitrl.plugins.loggers.tensorboard import TensorBoard

    written: dict[str, float] = {}
    logger = TensorBoard(None, tmp_path)
    logger._write = written.update  # type: ignore[method-assign,assignment]
    logger.finish({"eval": {"mean_return": 2.0, "metrics": {"length": 3.5}}, "algorithm": {"norm": 1.5}})
    assert written == {"evaluation/mean_return": 2.0, "evaluation/env/length": 3.5, "algorithm/norm": 1.5}
