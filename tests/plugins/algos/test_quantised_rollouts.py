"""Quantised rollouts of classic policies: the loss is the estimators', by autograd; runs learn and resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_twins import double, flat_gradient, in_torch, near

import bitrl
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.estimators import Estimator, correct, policy_loss
from bitrl.plugins.algos.low_bits import low_bits
from bitrl.plugins.algos.ppo import PPO, Samples
from bitrl.plugins.algos.quantised_rollouts import correct_samples
from bitrl.testing import make_task

QUICK = {"run.num_envs": 4, "run.eval_episodes": 2, "algo.rollout_steps": 128, "backbone.hidden": (8,)}
DIAGNOSTICS = ("kl_behaviour", "chi2", "m2", "sign_skew", "ess", "weight_ess", "truncated", "rejected", "clamped")


def make(**options: object) -> PPO:
    """PPO on CartPole's vectors."""
    task = make_task("CartPole-v1", num_envs=4)
    return PPO(parse(PPOOptions, {"rollout_steps": 64, "minibatch_size": 16, "epochs": 1, **options}, "algo"), task)


@pytest.mark.parametrize("correction", ["none", "decoupled", "tis", "mis", "geometric", "k2", "k3", "acr", "mixed"])
def test_the_gradient_is_autograds_of_the_estimator(correction: Any) -> None:
    """On samples whose ratios to both sides go beyond the caps and the clip range."""
    generator = np.random.default_rng(5)
    cap = {"k2": 0.1, "k3": 0.1}.get(correction, 1.5)
    options = {"max_grad_norm": None, "ent_coef": 0.0, "minibatch_size": 40}
    algorithm = make(rollout="int4", correction=correction, correction_cap=cap, **options)
    assert algorithm.estimator is not None
    weights = algorithm.groups.parameters["policy"]
    weights += generator.normal(0, 0.5, len(weights)).astype(np.float32)
    features, actions = generator.normal(size=(40, 4)).astype(np.float32), generator.integers(2, size=40)
    current = algorithm.head.forward(algorithm.policy.outputs(features), actions)[0]
    proximal = current + generator.normal(0, 0.2, 40).astype(np.float32)
    behaviour = proximal + generator.normal(0, 0.6, 40).astype(np.float32)
    advantages = generator.normal(size=40).astype(np.float32)

    anchor, mine, diagnostics = correct_samples(proximal, behaviour, advantages, algorithm.estimator)
    every, how = torch.ones(40, 1, dtype=torch.bool), Estimator(correction, cap=cap, clip_low=0.1, clip_high=0.1)
    exact, signed = double(advantages), (double(advantages) - advantages.mean()) / advantages.std(ddof=1)
    corrected, figures = correct(double(proximal)[:, None], double(behaviour)[:, None], every, exact, how)
    assert diagnostics == pytest.approx(figures, rel=1e-4, abs=1e-6)
    twin = in_torch(algorithm.policy)
    learned = twin(double(features)).log_softmax(1).gather(1, torch.tensor(actions)[:, None])
    total, count, sums = policy_loss(learned, corrected, signed, how)
    (total / count).backward()
    wanted = flat_gradient(twin)
    assert wanted.abs().max() > 0.01
    if correction in ("mis", "geometric", "k2", "k3"):
        assert 0 < figures["rejected"] < 1

    batch = Samples(features, features, actions, advantages, np.zeros(40, np.float32), anchor, correction=mine)
    found = algorithm.gradient_step(batch, 0.1, 0.0)
    near(algorithm.groups.gradients["policy"], wanted, 1e-5)
    assert found["policy_loss"] == pytest.approx(float(total.detach() / count), abs=1e-6)
    assert found["approx_kl"] == pytest.approx(float(sums["approx_kl"] / sums["tokens"]), abs=1e-6)


def test_both_policies_log_probabilities_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: that of rounded weights; proximal: in full precision; ACR's ratio is to the latter, naive's to the
    former.
    """
    import bitrl.plugins.algos.ppo as module

    seen: list[tuple[np.ndarray, ...]] = []

    def watched(*given: Any) -> Any:
        seen.append(given[:2])
        return original(*given)

    original = module.correct_samples
    monkeypatch.setattr(module, "correct_samples", watched)
    for correction, relative in (("acr", 0), ("none", 1)):
        algorithm = make(rollout="int4", correction=correction, learning_rate=0.01)
        algorithm.update()  # the first policy is uniform at any precision
        seen.clear()
        batches: list[tuple[Samples, np.ndarray]] = []
        step = algorithm.gradient_step

        def watch(
            batch: Samples, *arguments: float, algorithm: PPO = algorithm, step: Any = step, into: Any = batches
        ) -> Any:
            into.append((batch, algorithm.groups.parameters["policy"].copy()))
            return step(batch, *arguments)

        monkeypatch.setattr(algorithm, "gradient_step", watch)
        metrics = algorithm.update()
        (batch, weights), *_ = batches
        algorithm.groups.parameters["policy"][:] = weights

        def log_probs(bits: int | None, algorithm: PPO = algorithm, batch: Samples = batch) -> np.ndarray:
            with low_bits(algorithm.policy, bits):
                outputs = algorithm.policy.outputs(batch.features, algorithm.standardise)
                return algorithm.head.forward(outputs, batch.actions)[0]

        np.testing.assert_allclose(batch.log_probs, log_probs((None, 4)[relative]), rtol=1e-5, atol=1e-6)
        assert abs(log_probs(None) - log_probs(4)).max() > 1e-4
        proximal, behaviour = seen[0]
        assert metrics["m2"] == pytest.approx(float(np.square(proximal - behaviour).mean()), rel=1e-4)
        assert 0 < metrics["kl_behaviour"] < 0.1
        assert set(DIAGNOSTICS) < set(metrics)


def test_corrected_training_learns_cartpole_resumes_exactly_and_exports_full_precision(tmp_path: Path) -> None:
    options = {**QUICK, "algo.rollout": "int4", "algo.rollout_steps": 512, "algo.learning_rate": 0.003}
    options |= {"algo.ent_coef": 0.01, "algo.epochs": 10, "run.checkpoint_every": 1}
    bitrl.run(backbone="mlp", steps=6144, out=tmp_path / "whole", options=options)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["episode_return"] > 2 * rows[0]["episode_return"]
    assert all(math.isfinite(row[name]) for row in rows for name in DIAGNOSTICS)
    assert rows[0]["m2"] == 0 < rows[-1]["m2"], "the first policy is uniform at any precision"

    bitrl.run(backbone="mlp", steps=1024, out=tmp_path / "run", options=options)
    bitrl.resume(tmp_path / "run", steps=2048)
    resumed = (tmp_path / "run" / "metrics.jsonl").read_bytes().splitlines()
    assert resumed == (tmp_path / "whole" / "metrics.jsonl").read_bytes().splitlines()[:4]
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    (first, _), *_ = bitrl.load_agent(tmp_path / "agent").policy.network.layers  # type: ignore[union-attr]
    assert len(set(first.ravel().round(6))) > 2**4 + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"correction": "tis"}, r"algo\.correction: nothing is corrected without .*algo\.rollout"),
        ({"correction_cap": 4.0}, r"algo\.correction_cap: nothing is corrected without .*algo\.rollout"),
        (
            {"rollout": "int8", "policy_bits": 8, "policy_quantisation": "actor"},
            r"algo\.rollout: .*policy_quantisation.* already quantises",
        ),
        (
            {"rollout": "int8", "correction": "mis", "correction_floor": 3.0},
            r"algo\.correction_floor: 3 is above algo\.correction_cap, 2",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(bitrl.UsageError, match=words):
        make(**options)
