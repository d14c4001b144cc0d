"""Hashed features of texts, and the networks without a language model that they make possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitrl
from bitrl.core.errors import UsageError
from bitrl.testing import check_backbone, check_serializer

QUICK = {"run.eval_episodes": 2, "run.num_envs": 4, "algo.rollout_steps": 64, "backbone.hidden": (8,)}


def test_it_keeps_the_contracts() -> None:
    check_serializer("hash")
    check_serializer("hash", env="BabyAI-GoToRedBall-v0", width=64, ngrams=0)
    check_backbone("random-projection")


def test_a_vector_counts_words_and_their_n_grams() -> None:
    """Of an independent count: with places enough that nothing collides, squares of counts add up."""
    hashed: Any = bitrl.load_serializer("hash", env="SmartHome-Light", width=1_000_003, ngrams=3)
    vector = hashed.commands(["lamp on lamp"])[0]
    # lamp twice: the word, <la lam amp mp>; on once: the word, <on on>; pairs: " lamp", "lamp on", "on lamp".
    counts = np.array([2] * 5 + [1] * 3 + [1] * 3)
    assert np.linalg.norm(vector) == pytest.approx(1.0)
    assert np.sort(np.abs(vector[vector != 0])) == pytest.approx(np.sort(counts / np.sqrt((counts**2).sum())))


def test_texts_with_the_same_words_are_nearer_than_others() -> None:
    hashed: Any = bitrl.load_serializer("hash", env="SmartHome-Light")
    kitchen, kitchens, bedroom = hashed.commands(["turn on the kitchen lamp", "turn on the kitchens lamp", "open door"])
    assert kitchen @ kitchens > 0.7 > 0.3 > kitchen @ bedroom
    assert not hashed.commands([""]).any()


def test_it_hashes_what_another_serializer_writes() -> None:
    env = bitrl.load_environment("BabyAI-GoToRedBall-v0")
    hashed: Any = bitrl.load_serializer("hash", env="BabyAI-GoToRedBall-v0")
    grid = bitrl.load_serializer("grid", env="BabyAI-GoToRedBall-v0")
    observation = env.make().reset(seed=0)[0]
    assert np.array_equal(hashed(observation), hashed.commands([grid(observation)])[0])


@pytest.mark.parametrize("name", ["vector", "codes", "hash"])
def test_a_serializer_without_fixed_texts_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"serializer\.texts"):
        bitrl.load_serializer("hash", env="CartPole-v1", texts=name)


@pytest.mark.parametrize("env", ["SmartHome-Light", "TextWorld-Cooking"])
def test_an_mlp_learns_in_environments_described_in_text(env: str, tmp_path: Path) -> None:
    """Resumed, exported and acting alike; TextWorld's commands are hashed too."""
    small = {"env.games": 2, "env.eval_games": 1} if env.startswith("TextWorld") else {}
    summary = bitrl.run(env, backbone="mlp", steps=128, out=tmp_path / "run", options={**QUICK, **small})
    assert summary["serializer"] == "hash"
    assert bitrl.evaluate(tmp_path / "run")["mean_return"] == summary["eval"]["mean_return"]
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    agent = bitrl.load_agent(tmp_path / "agent")
    assert agent.act(agent.example) in range(100)


def test_random_features_are_frozen_and_of_their_seed() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    first, again, other = (bitrl.load_backbone("random-projection", width=3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.encode(vectors), again.encode(vectors))
    assert not np.allclose(first.encode(vectors), other.encode(vectors))
    weights = np.random.default_rng(1).normal(0, 3**-0.5, (3, 256))
    without = np.arctanh(first.encode(vectors).astype(np.float64))
    bias = np.arctanh(first.encode(np.zeros((1, 3), np.float32)).astype(np.float64))
    assert without - bias == pytest.approx(vectors @ weights, abs=2e-2)
