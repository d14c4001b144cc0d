"""The memory that PPO takes, computed from its options before anything is built (AlgorithmRecord.memory)."""

from __future__ import annotations

from itertools import pairwise

from gymnasium.spaces.utils import flatdim

from bitrl.core.process_memory import LearningMemory, LearningSizes
from bitrl.plugins.algos import PPOOptions

_FLOAT = 4
_KEPT = 4
"""Arrays of as many numbers as are learned: these, their gradients, and Adam's two moments."""
_SAVED = 3
"""And while a checkpoint is written: copies of all but the gradients."""
_MINIBATCH = 2
"""Arrays of a minibatch's features: taken, and standardised."""
_STATE_BYTES = 250
"""Of a state in a rollout besides what it holds: its share of the objects that hold it, action, reward …"""


def ppo(options: PPOOptions, sizes: LearningSizes) -> LearningMemory:
    """Of two networks on features; what a trainable torch module takes is its backbone's to say."""
    length = max(1, options.rollout_steps // sizes.num_envs)
    samples = (length + 1) * sizes.num_envs
    batch = max(sizes.num_envs, min(options.minibatch_size, length * sizes.num_envs))
    hidden = (256, 128) if options.hidden is None else options.hidden
    features = sizes.width + (sizes.critic_width or 0)
    learned, units = 0, 0
    for first, outputs in ((sizes.width, flatdim(sizes.action_space)), (sizes.critic_width or sizes.width, 1)):
        widths = (first, *hidden, outputs)
        learned += sum((below + 1) * above for below, above in pairwise(widths))
        units += sum(widths[1:])
    rollout = samples * (_FLOAT * features + sizes.state_bytes + _STATE_BYTES)
    learning = rollout + _FLOAT * batch * _MINIBATCH * features
    return LearningMemory(
        learner=_KEPT * _FLOAT * learned + 2 * _FLOAT * batch * units,
        rollout=max(learning, _SAVED * _FLOAT * learned),
    )
