"""The actor of quantised rollouts (interfaces.RolloutActor): the learner's language model in another format.

Knows how the learner's weights reach the engine that generates, rounded at random or with noise where asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Completion, Replaced
from bitrl.plugins.backbones.engine.engine import Engine, formats
from bitrl.plugins.backbones.engine.generation import Sequences
from bitrl.plugins.backbones.learned_weights import engine_weights, has_adapters

if TYPE_CHECKING:
    from bitrl.plugins.backbones.language_policy import EnginePolicy


class EngineActor:
    """Generates by an engine of its own, beside that of the policy whose weights it takes.

    Raises:
        UsageError: there is no such format.
    """

    def __init__(self, policy: EnginePolicy, format: str) -> None:
        if format not in formats():
            raise UsageError(f"there are no rollouts in {format!r}: expected one of {', '.join(formats())}")
        model, options = policy.model, policy.model.options
        self.policy, self.format, self._noisy = policy, format, False
        self.engine = Engine(
            model.engine.path,
            format,
            layers=options.layers,
            threads=options.threads,
            i2s_packing=options.i2s_packing,
            activation=model.activation,
            linear_class=model.linear_class,
        )
        Sequences(self.engine)  # makes the head ready, so that the first `update` rounds it as later ones do

    def generate(
        self, prompts: Sequence[str], max_tokens: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Completion]:  # fmt: skip
        """As EnginePolicy.generate, by the actor's weights."""
        return self.policy.generate_with(self.engine, prompts, max_tokens, temperature, top_k, top_p, seed)

    def update(self, *, rounding_seed: int | None = None, norm_noise: float = 0.0, noise_seed: int = 0) -> Replaced:
        """Take the weights of the policy's module as they are now; see the interface.

        Raises:
            UsageError: nothing is left to round at random: adapters learn, weights that are ternary already, or floats.
        """
        model = self.policy.model
        if rounding_seed is not None:
            for nothing, why in (
                (has_adapters(model), "adapters learn, in float32"),
                (self.format == "fp32", "fp32 rounds nothing"),
                (self.policy.decoder.shape.ternary, "a ternary model's codes are the learner's"),
            ):
                if nothing:
                    raise UsageError(f"algo.stochastic_rounding: {why}: leave it out")
        if has_adapters(model):
            model.copy_adapters_to(self.engine)
            weights = {}
        else:
            weights = dict(engine_weights(self.policy.decoder))
        if norm_noise or self._noisy:
            weights |= self._noisy_norms(weights, norm_noise, noise_seed)
        self._noisy = norm_noise > 0
        return self.engine.replace_all(weights, rounding_seed=rounding_seed)

    def _noisy_norms(self, weights: dict[str, np.ndarray], deviation: float, seed: int) -> dict[str, np.ndarray]:
        random = np.random.Generator(np.random.Philox(seed))
        file = self.engine.file
        norms = [each.name for each in file.tensors() if each.name.endswith("norm.weight") and self._runs(each.name)]
        clean = {name: weights[name] if name in weights else file.weights(name) for name in norms}
        return {
            name: values + deviation * random.standard_normal(values.shape, np.float32)
            for name, values in clean.items()
        }

    def _runs(self, name: str) -> bool:
        """Whether a tensor is of a block that is run."""
        part, _, rest = name.partition(".")
        return part != "blk" or int(rest.partition(".")[0]) < self.engine.blocks
