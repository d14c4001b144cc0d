"""Quantised rollouts of classic policies: the loss is the estimators', by autograd; runs learn and resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import bitrl
from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.backprop import forward
from bitrl.plugins.algos.estimators import Estimator, correct, policy_loss
from bitrl.plugins.algos.low_bits import low_bits
from bitrl.plugins.algos.ppo import PPO, Samples, normalise
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
    generator = torch.Generator().manual_seed(5)
    cap = {"k2": 0.1, "k3": 0.1}.get(correction, 1.5)
    algorithm = make(rollout="int4", correction=correction, correction_cap=cap, max_grad_norm=None, ent_coef=0.0)
    assert algorithm.estimator is not None
    with torch.no_grad():
        algorithm.weights["policy"].add_(torch.randn(len(algorithm.weights["policy"]), generator=generator) * 0.5)
    features = torch.randn(40, 4, generator=generator)
    actions = torch.randint(2, (40,), generator=generator)
    current = algorithm.head.forward(forward(algorithm.policy, features)[0], actions, None)[0]
    proximal = current + torch.randn(40, generator=generator) * 0.2
    behaviour = proximal + torch.randn(40, generator=generator) * 0.6
    advantages = torch.randn(40, generator=generator)

    every, how = torch.ones(40, 1, dtype=torch.bool), Estimator(correction, cap=cap, clip_low=0.1, clip_high=0.1)
    corrected, figures = correct(proximal[:, None], behaviour[:, None], every, advantages, how)
    learned = algorithm.policy(features).log_softmax(1).gather(1, actions[:, None])
    total, count, sums = policy_loss(learned, corrected, normalise(advantages), how)
    wanted = torch.cat([each.ravel() for each in torch.autograd.grad(total / count, [*algorithm.policy.parameters()])])
    assert wanted.abs().max() > 0.01
    if correction in ("mis", "geometric", "k2", "k3"):
        assert 0 < figures["rejected"] < 1

    zeros = torch.zeros(40)
    batch = Samples(features, features, actions, advantages, zeros, corrected.anchor[:, 0], correction=corrected)
    found = algorithm.gradient_step(batch, 0.1, 0.0, measure=True)
    gradient = algorithm.weights["policy"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)
    assert found["policy_loss"] == pytest.approx(float(total.detach() / count), abs=1e-6)
    assert found["approx_kl"] == pytest.approx(float(sums["approx_kl"] / sums["tokens"]), abs=1e-6)


def test_both_policies_log_probabilities_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: that of rounded weights; proximal: in full precision; ACR's ratio is to the latter, naive's to the
    former.
    """
    import bitrl.plugins.algos.ppo as module

    seen: list[tuple[torch.Tensor, ...]] = []

    def watched(*given: Any) -> Any:
        seen.append(given[:2])
        return original(*given)

    original = module.correct_samples
    monkeypatch.setattr(module, "correct_samples", watched)
    for correction, relative in (("acr", 0), ("none", 1)):
        algorithm = make(rollout="int4", correction=correction, learning_rate=0.01)
        algorithm.update()  # the first policy is uniform at any precision
        seen.clear()
        batches: list[tuple[Samples, torch.Tensor]] = []
        step = algorithm.gradient_step

        def watch(
            batch: Samples,
            *arguments: float,
            measure: bool,
            algorithm: PPO = algorithm,
            step: Any = step,
            into: Any = batches,
        ) -> Any:
            into.append((batch, algorithm.weights["policy"].detach().clone()))
            return step(batch, *arguments, measure=measure)

        monkeypatch.setattr(algorithm, "gradient_step", watch)
        metrics = algorithm.update()
        (batch, weights), *_ = batches
        algorithm.weights["policy"].detach().copy_(weights)

        def log_probs(bits: int | None, algorithm: PPO = algorithm, batch: Samples = batch) -> torch.Tensor:
            with low_bits(algorithm.policy, bits):
                return algorithm.head.forward(forward(algorithm.policy, batch.features)[0], batch.actions, None)[0]

        torch.testing.assert_close(batch.log_probs, log_probs((None, 4)[relative]))
        assert (log_probs(None) - log_probs(4)).abs().max() > 1e-4
        proximal, behaviour = seen[0]
        assert metrics["m2"] == pytest.approx(float((proximal - behaviour).square().mean()), rel=1e-4)
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
