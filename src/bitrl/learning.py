"""What algorithms are built of: rollouts, advantages, action heads, standardisation, episodes and numpy policies.

A plugin's algorithm imports from here what it would otherwise write again; PPO uses the same. Everything is imported
when it is first used; nothing of it needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitrl.core.acting.admissible import AdmissibleActions, CommandTable
    from bitrl.core.acting.policies import (
        ActorCritic,
        CodebookPolicy,
        CommandPolicy,
        Continuous,
        Discrete,
        FactoredPolicy,
        Network,
    )
    from bitrl.core.environments.collector import Collector, Rollout, Transition
    from bitrl.core.runs.episodes import Return, play_episodes
    from bitrl.plugins.algos.action_codebooks import ActionCodebook, LearnedActionCodebook, codebook_head
    from bitrl.plugins.algos.engine_learner import (
        EngineAdam,
        EngineLearner,
        EngineNetwork,
        clipped_loss,
        squared_loss,
    )
    from bitrl.plugins.algos.factored_head import FactoredHead, action_head
    from bitrl.plugins.algos.gae import gae, next_values
    from bitrl.plugins.algos.heads import Categorical, Gaussian, TextChoice, hold, masked
    from bitrl.plugins.algos.numpy_policy import numpy_network
    from bitrl.plugins.algos.reward_scale import RewardScale
    from bitrl.plugins.algos.standardise import Standardisation

_HOME = {
    "bitrl.core.acting.admissible": ("AdmissibleActions", "CommandTable"),
    "bitrl.core.acting.policies": (
        "ActorCritic",
        "CodebookPolicy",
        "CommandPolicy",
        "Continuous",
        "Discrete",
        "FactoredPolicy",
        "Network",
    ),
    "bitrl.core.environments.collector": ("Collector", "Rollout", "Transition"),
    "bitrl.core.runs.episodes": ("Return", "play_episodes"),
    "bitrl.plugins.algos.action_codebooks": ("ActionCodebook", "LearnedActionCodebook", "codebook_head"),
    "bitrl.plugins.algos.engine_learner": (
        "EngineAdam",
        "EngineLearner",
        "EngineNetwork",
        "clipped_loss",
        "squared_loss",
    ),
    "bitrl.plugins.algos.factored_head": ("FactoredHead", "action_head"),
    "bitrl.plugins.algos.gae": ("gae", "next_values"),
    "bitrl.plugins.algos.heads": ("Categorical", "Gaussian", "TextChoice", "hold", "masked"),
    "bitrl.plugins.algos.numpy_policy": ("numpy_network",),
    "bitrl.plugins.algos.reward_scale": ("RewardScale",),
    "bitrl.plugins.algos.standardise": ("Standardisation",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ActionCodebook",
    "ActorCritic",
    "AdmissibleActions",
    "Categorical",
    "CodebookPolicy",
    "Collector",
    "CommandPolicy",
    "CommandTable",
    "Continuous",
    "Discrete",
    "EngineAdam",
    "EngineLearner",
    "EngineNetwork",
    "FactoredHead",
    "FactoredPolicy",
    "Gaussian",
    "LearnedActionCodebook",
    "Network",
    "Return",
    "RewardScale",
    "Rollout",
    "Standardisation",
    "TextChoice",
    "Transition",
    "action_head",
    "clipped_loss",
    "codebook_head",
    "gae",
    "hold",
    "masked",
    "next_values",
    "numpy_network",
    "play_episodes",
    "squared_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bitrl.learning' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
