"""A whole update of PPO in the engine against its twin in torch (helpers/torch_twins.py), in every setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from learning_backbones import Frozen, Identity, Normed, adapting, ppo
from torch_twins import Twin, near

from bitrl.core.options import parse
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.ppo import PPO
from bitrl.plugins.algos.torch_module import TorchModule
from bitrl.plugins.backbones import MLPOptions
from bitrl.plugins.backbones.mlp import MLP
from bitrl.testing import make_task
from bitrl.testing.small_environments import CommandsEnvironment, FactoredEnvironment, MaskedEnvironment
from bitrl.testing.tasks import Doubled

DISCRETE, BOX = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))


def of(environment: Any, critic: Any = None, **options: Any) -> PPO:
    task = make_task(environment, critic_backbone=critic)
    return PPO(parse(PPOOptions, {"rollout_steps": 64, "minibatch_size": 24, "epochs": 2, **options}, "algo"), task)


def codebook() -> PPO:
    """In its second stage."""
    algorithm = of("Pendulum-v1", action_codebook="learned", action_bins=4)
    algorithm.head.learn(np.linspace(-2, 2, 50, dtype=np.float32), *algorithm.policy.layers[-1])  # type: ignore[union-attr]
    return algorithm


QUANTISED = {"policy_bits": 3, "policy_quantisation": "aware", "value_bits": 5, "value_quantisation": "aware"}
SETTINGS: dict[str, Callable[[], PPO]] = {
    "categorical": lambda: of("CartPole-v1"),
    "no clipping of gradients": lambda: of("CartPole-v1", max_grad_norm=None, vf_coef=1.5, ent_coef=0.2),
    "masked": lambda: of(MaskedEnvironment()),
    "gaussian": lambda: of("Pendulum-v1", log_std_init=-0.5),
    "factored": lambda: of(FactoredEnvironment("Dict")),
    "text choice": lambda: of(CommandsEnvironment()),
    "uniform codebook": lambda: of("Pendulum-v1", action_codebook="uniform", action_bins=5),
    "learned codebook": codebook,
    "low bits": lambda: of("CartPole-v1", **QUANTISED),
    "a quantised actor": lambda: of("CartPole-v1", policy_bits=3, policy_quantisation="actor", value_bits=4),
    "corrected": lambda: of("CartPole-v1", rollout="int4"),
    "corrected by rejection": lambda: of("Pendulum-v1", rollout="int4", correction="mis", correction_cap=1.1),
    "a critic's backbone": lambda: of("CartPole-v1", critic=Doubled),
    "mlp": lambda: ppo(DISCRETE, MLP(parse(MLPOptions, {"hidden": [7, 5]}, "backbone"), 3), trainable=True),
    "a third party's module": lambda: ppo(BOX, Normed(), trainable=True),
    "a module of nothing": lambda: ppo(DISCRETE, Identity(), trainable=True),
    "adapters": lambda: adapting(DISCRETE),
    "adapters beside a critic": lambda: adapting(BOX, Frozen(), adapter_learning_rate=1e-3),
}


def disturb(algorithm: PPO) -> None:
    """Give all networks weights other than those that they begin with: the policy's last layer is zero."""
    generator = np.random.default_rng(1)
    for name, parameters in algorithm.groups.parameters.items():
        if name != "adapters":
            parameters += generator.normal(0, 0.1, len(parameters)).astype(np.float32)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_update_is_that_of_autograd_and_adam_in_float64(name: str) -> None:
    algorithm = SETTINGS[name]()
    disturb(algorithm)
    before = {group: parameters.copy() for group, parameters in algorithm.groups.parameters.items()}
    twin = Twin(algorithm)
    metrics = algorithm.update()
    wanted = twin.learn()
    for group, parameters in twin.flat().items():
        found = algorithm.groups.parameters[group]
        assert np.abs(found - before[group]).max() > 1e-4
        near(found, parameters, 2e-6)
    for key, value in wanted.items():
        assert metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    algorithm.task.collector.envs.close()


def test_only_what_needs_torch_is_a_torch_module() -> None:
    assert SETTINGS["mlp"]().policy.beneath is None
    assert SETTINGS["mlp"]().policy.widths == (3, 7, 5, 3)
    assert isinstance(SETTINGS["a third party's module"]().policy.beneath, TorchModule)
    assert isinstance(SETTINGS["adapters"]().encoder, TorchModule)
