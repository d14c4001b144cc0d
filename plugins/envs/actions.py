"""Names of numbered actions, for people who watch."""

from __future__ import annotations

ACTIONS: dict[str, tuple[str, ...]] = {
    "CartPole-v1": ("push left", "push right"),
    "Acrobot-v1": ("torque -1", "no torque", "torque +1"),
    "MountainCar-v0": ("push left", "no push", "push right"),
    "Blackjack-v1": ("stick", "hit"),
}

MINIGRID = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle", "done")
"""Of all MiniGrid and BabyAI environments."""
